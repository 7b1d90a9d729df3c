"""What the recipe of debian-12 must never do to the host."""

from pathlib import Path
from uuid import UUID

from paddock.images import debian

FINISH = Path(debian.__file__).parent / "guest/debian-finish"


def test_mmdebstraps_own_clean_up_is_left_out(tmp_path: Path) -> None:
    """It runs apt-get with an apt.conf in the guest's /tmp; without that file, apt-get works on the host's lists."""
    argv = debian._mmdebstrap(tmp_path, tmp_path / "out", UUID(int=1), None)
    assert "--skip=cleanup" in argv


def test_the_guests_tmp_is_left_alone_while_mmdebstrap_needs_it() -> None:
    code = [line.split("#")[0] for line in FINISH.read_text().splitlines()]
    assert not [line for line in code if line.startswith("rm") and " /tmp" in line]
