"""Files are written whole or not at all, never through a link, and for nobody else's eyes."""

import errno
import os
import resource
import signal
from pathlib import Path

import pytest

from paddock.base import files


@pytest.mark.parametrize("sync", [True, False])
def test_replaced_in_one_step(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "state"
    files.write_atomically(path, "one", sync=sync)
    with path.open() as before:
        files.write_atomically(path, "two", sync=sync)
        assert before.read() == "one"
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_mode_is_as_asked(tmp_path: Path) -> None:
    files.write_whole(tmp_path / "state", b"x", 0o640)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("planted", ["state", ".state.new"])
def test_links_are_not_followed(tmp_path: Path, planted: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / planted).symlink_to(victim)
    files.write_whole(tmp_path / "state", b"ours")
    assert victim.read_text() == "precious"
    assert (tmp_path / "state").read_bytes() == b"ours"
    assert not (tmp_path / "state").is_symlink()


def test_what_a_killed_writer_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".state.new").write_text("half")
    files.write_whole(tmp_path / "state", b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "state"
    files.write_whole(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            files.write_whole(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_overwritten_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "state"
    files.write_whole(path, b"a longer text")
    before = path.stat().st_ino
    files.overwrite(path, "short", sync=True)
    assert (path.read_text(), path.stat().st_ino) == ("short", before)
    path.rename(tmp_path / "other")
    path.symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        files.overwrite(path, "through a link")
