"""Snapshots of machines that are off, with the real qemu-img: whole or not there, whatever happens in between."""

import os
import random
import stat
import threading
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from paddock.base import clock, run
from paddock.base.errors import DiskFull, NotFound, Refused
from paddock.hypervisor.qemu import copies, disks, files
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.hypervisor.qemu.identity import vm_identity
from paddock.hypervisor.qemu.layout import MachineDir
from paddock.machine.image import ImageManifest
from paddock.machine.spec import MIB, Disk
from paddock.machine.state import Snapshot
from tests.hypervisor.qemu.machines import DISK_SIZE, make_machine

CONTENT = random.Random(11).randbytes(2 * MIB)


class Place:
    """A machine that is off, with something on its disk."""

    def __init__(self, host: QemuHypervisor, image: ImageManifest, root: Path) -> None:
        self.host = host
        self.machine = make_machine(image)
        self.uuid = self.machine.uuid
        host.disks.ensure_disk(self.uuid, self.machine.system_disk, 1)
        host.machines.ensure(self.machine, 1)
        self.directory = root / "state/machines" / str(self.uuid)
        (root / "content").write_bytes(CONTENT)
        self.write(root / "content", MIB)
        self.target = root / "uploads" / "image-1"
        self.target.parent.mkdir()

    def write(self, source: Path, at: int) -> None:
        command = f"write -q -s {source} {at} {source.stat().st_size}"
        disk = self.directory / "system.qcow2"
        run.run(["qemu-io", "-f", "qcow2", "-c", command, "system.qcow2"], cwd=self.directory)
        if identity := vm_identity():
            os.chown(disk, identity.uid, identity.gid)

    def ask(self, snapshot: UUID) -> Snapshot:
        """Until it is done or has failed."""
        deadline = clock.monotonic() + 30
        while True:
            told = self.host.disks.snapshot(self.uuid, snapshot, str(self.target), 1)
            if told.done or told.error:
                return told
            assert clock.monotonic() < deadline, told
            clock.sleep(0.01)

    def left(self) -> set[str]:
        return {f.name for f in self.directory.iterdir() if "snapshot" in f.name}

    def content(self) -> bytes:
        raw = self.target.with_suffix(".raw")
        run.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.target, raw])
        return raw.read_bytes()


@pytest.fixture
def place(host: QemuHypervisor, image: ImageManifest, tmp_path: Path) -> Place:
    return Place(host, image, tmp_path)


def test_a_machine_that_is_off_is_copied_whole(place: Place) -> None:
    told = place.ask(snapshot := uuid4())
    assert (told.done, told.frozen, told.not_frozen, told.error) == (True, True, "", "")
    assert told.bytes_done == told.bytes_total == place.target.stat().st_size
    content = place.content()
    assert len(content) == DISK_SIZE
    assert content[MIB : 3 * MIB] == CONTENT
    assert not content[:MIB].strip(b"\0")
    status = place.target.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, os.geteuid())
    assert not disks.header(place.target).other_files
    assert status.st_blocks * 512 < 4 * MIB  # what was reserved too much is given back
    assert place.left() == {f"snapshot-{snapshot}.json"}


def test_a_second_question_finds_it_done(place: Place) -> None:
    first = place.ask(snapshot := uuid4())
    made = place.target.stat().st_mtime_ns
    assert place.host.disks.snapshot(place.uuid, snapshot, str(place.target), 1) == first
    assert place.target.stat().st_mtime_ns == made
    place.target.unlink()
    assert place.ask(snapshot).done
    assert place.target.exists()


def test_two_one_after_another(place: Place) -> None:
    place.ask(uuid4())
    first = place.content()
    (place.directory.parent / "other").write_bytes(b"x" * 4096)
    place.write(place.directory.parent / "other", 8 * MIB)
    place.ask(uuid4())
    second = place.content()
    assert first[8 * MIB : 8 * MIB + 4096] == bytes(4096)
    assert second[8 * MIB : 8 * MIB + 4096] == b"x" * 4096


def test_a_dropped_one_leaves_only_its_target(place: Place) -> None:
    place.ask(snapshot := uuid4())
    place.host.disks.drop_snapshot(place.uuid, snapshot, 1)
    place.host.disks.drop_snapshot(place.uuid, snapshot, 1)
    place.host.disks.drop_snapshot(uuid4(), uuid4(), 1)
    assert place.left() == set()
    assert place.target.exists()


def test_records_of_snapshots_that_were_taken_go_away(place: Place) -> None:
    place.ask(uuid4())
    place.target.unlink()
    place.ask(second := uuid4())
    assert place.left() == {f"snapshot-{second}.json"}


def test_what_an_earlier_process_left_half_is_made_again(place: Place) -> None:
    snapshot = uuid4()
    copy = copies.Copy(MachineDir(place.directory), snapshot)
    copy.disk.write_bytes(b"half")
    (place.directory / f"{copy.name}.json").write_text(f'{{"target": "{place.target}"}}')
    assert place.ask(snapshot).done
    assert place.content()[MIB : 3 * MIB] == CONTENT


def test_a_machine_that_is_not_here(place: Place) -> None:
    with pytest.raises(NotFound):
        place.host.disks.snapshot(uuid4(), uuid4(), str(place.target), 1)


def test_no_room_is_said_before_anything_is_made(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "RESERVE", 1 << 60)
    with pytest.raises(DiskFull, match="no room"):
        place.host.disks.snapshot(place.uuid, uuid4(), str(place.target), 1)
    assert place.left() == set()


def test_a_target_that_can_not_be_written_fails_once_and_leaves_nothing(place: Place) -> None:
    good, place.target = place.target, place.target.parent / "missing" / "image-1"
    told = place.ask(snapshot := uuid4())
    assert not told.done
    assert told.error
    assert place.left() == set()
    place.target = good
    assert place.ask(snapshot).done


def test_a_disk_that_names_other_files_is_not_followed(place: Place, tmp_path: Path) -> None:
    """QEMU's user owns the disk, so a QEMU that was taken over can write what it likes into it."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 100_000)
    secret.chmod(0o644)
    run.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", secret, place.directory / "system.qcow2"])
    assert place.ask(uuid4()).done
    assert b"secret" not in place.content()
    with (place.directory / "system.qcow2").open("r+b") as disk:
        disk.seek(79)
        disk.write(b"\x04")
    told = place.ask(uuid4())
    assert "another file" in told.error


def test_a_full_disk_on_the_way_is_told_plainly(image: ImageManifest, host: QemuHypervisor, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system of our own takes root")
    place = Place(host, image, tmp_path)
    small = tmp_path / "small"
    small.mkdir()
    run.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small])
    try:
        place.target = small / "image-1"
        with pytest.raises(DiskFull):
            place.ask(uuid4())
        assert list(small.iterdir()) == []
        assert place.left() == set()
        (tmp_path / "large").mkdir()
        place.target = tmp_path / "large/image-1"
        assert place.ask(uuid4()).done
    finally:
        run.run(["umount", small])


def test_a_copy_under_way_is_killed_when_it_is_dropped(
    host: QemuHypervisor, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_words", lambda *_: ["sleep", "60"])
    snapshot = uuid4()
    told = host.disks.snapshot(place.uuid, snapshot, str(place.target), 1)
    assert (told.done, told.error) == (False, "")
    started = clock.monotonic()
    host.disks.drop_snapshot(place.uuid, snapshot, 1)
    assert clock.monotonic() - started < 5
    assert place.left() == set()
    assert not [t for t in threading.enumerate() if t.name.startswith("snapshot-")]


def test_a_machine_that_was_started_meanwhile_is_not_copied_half(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    convert, times = copies.convert, []

    def disturbed(copy: copies.Copy, *rest: object) -> None:
        times.append(clock.monotonic())
        convert(copy, *rest)  # type: ignore[arg-type]
        if len(times) == 1:  # as a QEMU would that ran for a moment
            os.utime(copy.directory.system_disk)

    monkeypatch.setattr(copies, "convert", disturbed)
    assert place.ask(uuid4()).done
    assert len(times) == 2


def test_a_disk_in_use_by_a_qemu_that_nobody_knows(place: Place) -> None:
    lock = files.take_lock(place.directory / "lock")
    assert lock is not None
    try:
        told = place.ask(uuid4())
    finally:
        os.close(lock)
    assert "started" in told.error
    assert place.left() == set()


def test_passwords_are_hashes_only(host: QemuHypervisor, place: Place) -> None:
    for bad in ("", "plain", "$6$abc\nroot:x", "$6$short"):
        with pytest.raises(Refused):
            host.guest.set_password(place.uuid, "root", bad)


def test_the_disk_size_counts_what_image_and_disk_hold(place: Place) -> None:
    size = copies.needed(place.host.disks._layout, MachineDir(place.directory))
    assert 2 * MIB < size < DISK_SIZE
    host = place.host
    host.disks.ensure_disk(place.uuid, Disk(size=1 << 40, image=place.machine.image), 1)
    assert copies.needed(host.disks._layout, MachineDir(place.directory)) < 512 * MIB
