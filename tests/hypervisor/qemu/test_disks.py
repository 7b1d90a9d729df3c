"""Images and disks with the real qemu-img: what is whole, what is refused, what a crash leaves behind."""

import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from paddock.base import run
from paddock.base.errors import Conflict, DiskFull, Invalid, NotFound, Refused
from paddock.hypervisor.qemu import files
from paddock.hypervisor.qemu.disks import virtual_size
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.machine.image import ImageManifest
from paddock.machine.spec import MIB, Disk
from tests.hypervisor.qemu.machines import DISK_SIZE, bring, make_image


def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def system(image: ImageManifest, size: int = DISK_SIZE) -> Disk:
    return Disk(size=size, image=image.sha256)


def test_an_image_comes_whole_and_read_only(host: QemuHypervisor, image: ImageManifest, tmp_path: Path) -> None:
    assert host.disks.images() == (image.sha256,)
    there = state(tmp_path) / "images" / image.sha256
    assert {f.name for f in there.iterdir()} == {"manifest.json", "disk"}
    assert stat.S_IMODE((there / "disk").stat().st_mode) == 0o444


def test_an_image_of_another_file_system_is_copied(tmp_path: Path) -> None:
    source = Path(f"/dev/shm/paddock-test-{uuid4()}")
    host = QemuHypervisor(state(tmp_path), "tcg")
    try:
        image = make_image(source)
        assert bring(host, image, source).done
        assert (state(tmp_path) / "images" / image.sha256 / "disk").read_bytes() == (source / "disk").read_bytes()
    finally:
        host.close()
        shutil.rmtree(source, ignore_errors=True)


def test_the_progress_counts_bytes(host: QemuHypervisor, source: Path) -> None:
    image = make_image(source)
    progress = bring(host, image, source)
    assert progress.bytes_done == progress.bytes_total == sum(f.size for f in image.files)


def test_the_first_disks_of_an_image_at_once(host: QemuHypervisor, image: ImageManifest, tmp_path: Path) -> None:
    """What they are copies of is made once."""
    machines = [uuid4() for _ in range(12)]
    with ThreadPoolExecutor(len(machines)) as threads:
        list(threads.map(lambda machine: host.disks.ensure_disk(machine, system(image), 1), machines))
    sizes = {virtual_size(state(tmp_path) / "machines" / str(machine) / "system.qcow2") for machine in machines}
    assert sizes == {DISK_SIZE}
    assert [path.name for path in (state(tmp_path) / "overlays").iterdir()] == [f"{image.sha256}-{DISK_SIZE}.qcow2"]


def damage(how: str, disk: Path) -> None:
    data = disk.read_bytes()
    disk.unlink()
    if how == "truncated":
        disk.write_bytes(data[:-1])
    elif how == "too long":
        disk.write_bytes(data + b"x")
    elif how == "checksum":
        disk.write_bytes(b"x" + data[1:])


@pytest.mark.parametrize("how", ["truncated", "too long", "checksum", "missing"])
def test_a_damaged_image_is_refused_and_can_be_asked_again(
    host: QemuHypervisor, source: Path, tmp_path: Path, how: str
) -> None:
    image = make_image(source)
    good = (source / "disk").read_bytes()
    damage(how, source / "disk")
    progress = bring(host, image, source)
    assert how in progress.error
    assert not progress.done
    assert host.disks.images() == ()
    assert list((state(tmp_path) / "images").iterdir()) == []
    (source / "disk").unlink(missing_ok=True)
    (source / "disk").write_bytes(good)
    assert bring(host, image, source).done


def test_half_an_image_is_not_trusted(host: QemuHypervisor, source: Path, tmp_path: Path) -> None:
    """As a kill in the middle of a copy leaves it."""
    image = make_image(source)
    scratch = state(tmp_path) / "images" / f".incoming-{image.sha256}"
    scratch.mkdir()
    (scratch / "disk").write_bytes(b"half")
    named = state(tmp_path) / "images" / image.sha256
    named.mkdir()
    (named / "disk").write_bytes(b"half")
    assert host.disks.images() == ()
    assert bring(host, image, source).done
    assert (named / "disk").read_bytes() == (source / "disk").read_bytes()
    assert not scratch.exists()


def test_a_manifest_that_was_changed_is_not_trusted(image: ImageManifest, host: QemuHypervisor, tmp_path: Path) -> None:
    host.close()
    path = state(tmp_path) / "images" / image.sha256 / "manifest.json"
    path.chmod(0o600)
    path.write_text(image.model_copy(update={"direct_boot": True}).model_dump_json())
    other = QemuHypervisor(state(tmp_path), "tcg")
    assert other.disks.images() == ()
    other.close()


def test_a_disk_is_an_overlay_that_names_its_format(host: QemuHypervisor, image: ImageManifest, tmp_path: Path) -> None:
    uuid = uuid4()
    host.disks.ensure_disk(uuid, system(image, 64 * MIB), 1)
    host.disks.ensure_disk(uuid, system(image, 64 * MIB), 1)
    disk = state(tmp_path) / "machines" / str(uuid) / "system.qcow2"
    info = run.run(["qemu-img", "info", "--backing-chain", disk]).stdout
    assert "backing file format: qcow2" in info
    assert f"backing file: ../../images/{image.sha256}/disk" in info
    assert virtual_size(disk) == 64 * MIB


def test_a_disk_grows_and_does_not_shrink(host: QemuHypervisor, image: ImageManifest, tmp_path: Path) -> None:
    uuid = uuid4()
    host.disks.ensure_disk(uuid, system(image), 1)
    host.disks.ensure_disk(uuid, system(image, 64 * MIB), 1)
    disk = state(tmp_path) / "machines" / str(uuid) / "system.qcow2"
    assert virtual_size(disk) == 64 * MIB
    with pytest.raises(Invalid) as raised:
        host.disks.ensure_disk(uuid, system(image), 1)
    assert raised.value.field == "size"


def test_a_disk_smaller_than_its_image(host: QemuHypervisor, image: ImageManifest, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="smaller than image") as raised:
        host.disks.ensure_disk(uuid4(), system(image, MIB), 1)
    assert raised.value.field == "size"
    assert list((state(tmp_path) / "machines").iterdir()) == []


def test_a_disk_over_an_image_that_is_not_here(host: QemuHypervisor) -> None:
    with pytest.raises(NotFound):
        host.disks.ensure_disk(uuid4(), Disk(size=DISK_SIZE, image="e" * 64), 1)


def test_half_a_disk_is_made_again(host: QemuHypervisor, image: ImageManifest, tmp_path: Path) -> None:
    uuid = uuid4()
    directory = state(tmp_path) / "machines" / str(uuid)
    directory.mkdir()
    (directory / ".system.new").write_bytes(b"half")
    host.disks.ensure_disk(uuid, system(image), 1)
    assert virtual_size(directory / "system.qcow2") == DISK_SIZE


def _info(path: Path) -> str:
    return run.run(["qemu-img", "info", "-U", path]).stdout


def _rebuilt(image: ImageManifest, generation: int, size: int = DISK_SIZE) -> Disk:
    return Disk(size=size, image=image.sha256, generation=generation)


def test_another_generation_takes_the_place_of_the_disk(
    host: QemuHypervisor, image: ImageManifest, source: Path, tmp_path: Path
) -> None:
    other = image.model_copy(update={"name": "other"})
    assert bring(host, other, source).done
    disk = state(tmp_path) / "machines" / str(uuid := uuid4()) / "system.qcow2"
    host.disks.ensure_disk(uuid, system(image, 64 * MIB), 1)
    first = disk.stat().st_ino
    host.disks.ensure_disk(uuid, _rebuilt(image, 0, 64 * MIB), 1)
    assert disk.stat().st_ino == first
    host.disks.ensure_disk(uuid, _rebuilt(other, 1), 1)
    second = disk.stat().st_ino
    assert second != first
    assert virtual_size(disk) == DISK_SIZE
    assert other.sha256 in _info(disk)
    host.disks.ensure_disk(uuid, _rebuilt(other, 1, 32 * MIB), 1)
    assert (disk.stat().st_ino, virtual_size(disk)) == (second, 32 * MIB)
    host.disks.remove_image(image.sha256)
    with pytest.raises(Conflict):
        host.disks.remove_image(other.sha256)


def test_a_first_disk_may_be_of_any_generation(host: QemuHypervisor, image: ImageManifest, tmp_path: Path) -> None:
    disk = state(tmp_path) / "machines" / str(uuid := uuid4()) / "system.qcow2"
    host.disks.ensure_disk(uuid, _rebuilt(image, 3), 1)
    first = disk.stat().st_ino
    host.disks.ensure_disk(uuid, _rebuilt(image, 3), 1)
    assert disk.stat().st_ino == first


def test_a_crash_before_the_generation_is_written_makes_the_disk_again(
    host: QemuHypervisor, image: ImageManifest, tmp_path: Path
) -> None:
    directory = state(tmp_path) / "machines" / str(uuid := uuid4())
    host.disks.ensure_disk(uuid, _rebuilt(image, 1), 1)
    first = (directory / "system.qcow2").stat().st_ino
    (directory / "generation").write_bytes(b"")
    host.disks.ensure_disk(uuid, _rebuilt(image, 1), 1)
    assert (directory / "system.qcow2").stat().st_ino != first
    assert (directory / "generation").read_text() == "1"


def test_a_machine_that_runs_keeps_its_disk(host: QemuHypervisor, image: ImageManifest, tmp_path: Path) -> None:
    """QEMU holds the machine's lock as long as it runs."""
    directory = state(tmp_path) / "machines" / str(uuid := uuid4())
    host.disks.ensure_disk(uuid, system(image), 1)
    first = (directory / "system.qcow2").stat().st_ino
    lock = files.take_lock(directory / "lock")
    assert lock is not None
    try:
        with pytest.raises(Conflict, match="runs"):
            host.disks.ensure_disk(uuid, _rebuilt(image, 1), 1)
        host.disks.ensure_disk(uuid, system(image), 1)
    finally:
        os.close(lock)
    assert (directory / "system.qcow2").stat().st_ino == first
    host.disks.ensure_disk(uuid, _rebuilt(image, 1), 1)


def test_what_is_no_disk_is_refused(host: QemuHypervisor, image: ImageManifest, tmp_path: Path) -> None:
    directory = state(tmp_path) / "machines" / str(uuid := uuid4())
    directory.mkdir()
    (directory / "system.qcow2").symlink_to("/etc/passwd")
    with pytest.raises((Refused, OSError)):
        host.disks.ensure_disk(uuid, system(image), 1)


def test_an_image_in_use_stays(host: QemuHypervisor, image: ImageManifest) -> None:
    uuid = uuid4()
    host.disks.ensure_disk(uuid, system(image), 1)
    with pytest.raises(Conflict, match=str(uuid)):
        host.disks.remove_image(image.sha256)
    host.machines.remove(uuid, 1)
    host.disks.remove_image(image.sha256)
    host.disks.remove_image(image.sha256)
    assert host.disks.images() == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system of our own takes root")
def test_a_full_disk(tmp_path: Path, source: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    run.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small])
    try:
        host = QemuHypervisor(small / "state", "tcg")
        image = make_image(source)
        assert bring(host, image, source).done
        (small / "filler").write_bytes(b"x" * 700 * 1024)
        with pytest.raises(DiskFull) as raised:  # noqa: PT012 - which one is the last to fit may differ
            for _ in range(8):
                host.disks.ensure_disk(uuid4(), system(image), 1)
        assert "remove machines" in raised.value.hint
        host.disks.remove_image("e" * 64)
        other = image.model_copy(update={"name": "other"})
        assert "full" in bring(host, other, source).error
        host.close()
    finally:
        run.run(["umount", small])
