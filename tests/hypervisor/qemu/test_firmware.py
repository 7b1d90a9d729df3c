"""What a machine's UEFI remembers: made of its image's or empty, kept with its disk, copied into snapshots."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.base import ovmf, run
from paddock.base.errors import DiskFull, Refused
from paddock.hypervisor.qemu import files, firmware, identity
from paddock.hypervisor.qemu.layout import MachineDir
from paddock.machine.spec import MIB


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that QEMU's user can reach, too."""
    with tempfile.TemporaryDirectory(prefix="pk-uefi-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def directory(place: Path) -> MachineDir:
    made = MachineDir(place / "machine")
    identity.make_machine_directory(made.root)
    return made


def content(variables: Path) -> bytes:
    raw = variables.with_name("content")
    run.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", variables, raw])
    return raw.read_bytes()


def of_image(place: Path) -> Path:
    """Variables with something in them."""
    found = ovmf.find()
    assert found
    raw, made = place / "raw", place / "efivars"
    raw.write_bytes(found.variables.read_bytes()[:-4] + b"mine")
    run.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, made])
    made.chmod(0o444)
    return made


def test_those_of_the_image(directory: MachineDir, place: Path) -> None:
    image, empty = of_image(place), ovmf.find()
    assert empty
    firmware.keep_variables(directory, 0, image)
    assert content(directory.efi_variables).endswith(b"mine")
    firmware.keep_variables(directory, 0, None)
    assert content(directory.efi_variables).endswith(b"mine"), "they are the disk's"
    firmware.keep_variables(directory, 1, None)
    assert content(directory.efi_variables) == empty.variables.read_bytes(), "and this is another disk"


def test_a_copy(directory: MachineDir, place: Path) -> None:
    target = place / "snapshot-efivars"
    firmware.copy_variables(directory, target)
    assert not target.exists(), "it boots by a BIOS"
    firmware.keep_variables(directory, 0, of_image(place))
    firmware.copy_variables(directory, target)
    assert content(target).endswith(b"mine")
    assert target.stat().st_mode & 0o777 == 0o600


def test_what_was_planted_is_not_copied(directory: MachineDir, place: Path) -> None:
    secret, target = place / "secret", place / "target"
    secret.write_text("of the host")
    directory.efi_variables.symlink_to(secret)
    with pytest.raises(Refused, match="not a plain file"):
        firmware.copy_variables(directory, target)
    directory.efi_variables.unlink()
    os.mkfifo(directory.efi_variables)
    with pytest.raises(Refused):
        firmware.copy_variables(directory, target)
    directory.efi_variables.unlink()
    with directory.efi_variables.open("wb") as file:
        file.truncate(16 * MIB + 1)
    with pytest.raises(Refused, match="has more than"):
        firmware.copy_variables(directory, target)
    assert not target.exists()


def test_no_room_for_a_copy(directory: MachineDir, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    firmware.keep_variables(directory, 0, None)
    monkeypatch.setattr(files, "write_whole", full)
    with pytest.raises(DiskFull):
        firmware.copy_variables(directory, place / "target")
