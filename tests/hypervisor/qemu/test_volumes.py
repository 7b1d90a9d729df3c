"""Volumes as files: made whole or not at all, formatted once, grown and removed, and never lost."""

import os
import shutil
import subprocess
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from paddock.base.errors import Conflict, DiskFull, Invalid, NotFound, PaddockError, Refused
from paddock.hypervisor.qemu import identity, volume_store
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import GIB, MIB, Attached, Machine, Rescue, Volume
from tests.hypervisor.qemu.machines import bring, described, make_machine

XFS_LEAST = 300 * MIB


def disk(host: QemuHypervisor, volume: UUID) -> Path:
    return host.machines.volume_store.file(volume)


def made(host: QemuHypervisor, size: int = 16 * MIB, **changes: object) -> Volume:
    volume = Volume.model_validate({"uuid": uuid4(), "size": size, **changes})
    host.volumes.ensure_volume(volume, 1)
    return volume


def define(host: QemuHypervisor, image: ImageManifest, **changes: object) -> Machine:
    machine = make_machine(image).model_copy(update=changes)
    host.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
    host.machines.ensure(machine, 1)
    return machine


def test_a_volume_is_sparse_and_its_own(host: QemuHypervisor) -> None:
    volume = made(host, 10 * GIB)
    (state,) = host.volumes.volumes()
    assert (state.uuid, state.size, state.used, state.epoch) == (volume.uuid, 10 * GIB, 0, 1)
    status = disk(host, volume.uuid).stat()
    assert status.st_mode & 0o777 == 0o600
    if vm := identity.vm_identity():
        assert status.st_uid == vm.uid
        parent = disk(host, volume.uuid).parent.stat()
        assert (parent.st_uid, parent.st_mode & 0o777) == (0, 0o710)  # it can plant nothing there


@pytest.mark.parametrize(
    ("kind", "size", "offset", "magic"), [("ext4", 16 * MIB, 0x438, b"\x53\xef"), ("xfs", XFS_LEAST, 0, b"XFSB")]
)
def test_it_has_its_file_system_without_a_label(
    host: QemuHypervisor, kind: str, size: int, offset: int, magic: bytes
) -> None:
    volume = made(host, size, format=kind)
    with disk(host, volume.uuid).open("rb") as file:
        assert os.pread(file.fileno(), len(magic), offset) == magic
    said = subprocess.run(["blkid", "-p", str(disk(host, volume.uuid))], capture_output=True, text=True, check=True)
    assert f'TYPE="{kind}"' in said.stdout
    assert "LABEL=" not in said.stdout


def test_a_large_volume_is_formatted_at_once_and_takes_little(host: QemuHypervisor) -> None:
    made(host, 1024 * GIB, format="ext4")
    assert host.volumes.volumes()[0].used < 256 * MIB


def test_nothing_ever_formats_what_is_there(host: QemuHypervisor) -> None:
    volume = made(host, format="ext4")
    with disk(host, volume.uuid).open("r+b") as file:
        file.write(b"precious")
    for format_ in ("ext4", "xfs", ""):
        for size in (16 * MIB, 32 * MIB):
            again = volume.model_copy(update={"format": format_, "size": size})
            if size >= disk(host, volume.uuid).stat().st_size:
                host.volumes.ensure_volume(again, 2)
            assert disk(host, volume.uuid).read_bytes()[:8] == b"precious"


def test_it_grows_and_does_not_shrink(host: QemuHypervisor) -> None:
    volume = made(host)
    host.volumes.ensure_volume(volume.model_copy(update={"size": 32 * MIB}), 1)
    assert host.volumes.volumes()[0].size == 32 * MIB
    with pytest.raises(Invalid, match="can't shrink") as raised:
        host.volumes.ensure_volume(volume, 1)
    assert raised.value.field == "size"
    with pytest.raises(Invalid, match="whole sectors"):
        host.volumes.ensure_volume(Volume(uuid=uuid4(), size=1000), 1)


def test_half_a_volume_is_none(host: QemuHypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's process is killed after formatting, before the volume has its name."""
    volume = Volume(uuid=uuid4(), size=16 * MIB, format="ext4")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", killed)
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)  # it is dead: it cleans up nothing
        with pytest.raises(KeyboardInterrupt):
            host.volumes.ensure_volume(volume, 1)
    scratch = tmp_path / "state/volumes" / f".new-{volume.uuid}"
    assert (scratch / "disk.raw").exists()
    assert host.volumes.volumes() == ()
    host.close()
    again = QemuHypervisor(tmp_path / "state", "tcg")
    try:
        assert not scratch.exists()
        again.volumes.ensure_volume(volume, 1)
        assert [v.uuid for v in again.volumes.volumes()] == [volume.uuid]
    finally:
        again.close()


def test_without_the_program_nothing_is_made(host: QemuHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_store, "_PATH", "/nowhere")
    with pytest.raises(Refused, match=r"mkfs\.xfs is not installed") as raised:
        made(host, XFS_LEAST, format="xfs")
    assert "xfsprogs" in raised.value.hint
    assert host.volumes.volumes() == ()


def test_a_file_system_that_can_not_be_made_leaves_nothing(host: QemuHypervisor, tmp_path: Path) -> None:
    with pytest.raises(PaddockError, match=r"mkfs\.xfs"):
        made(host, MIB, format="xfs")  # xfs needs far more
    assert list((tmp_path / "state/volumes").iterdir()) == []


def test_a_file_that_the_file_system_can_not_hold(host: QemuHypervisor) -> None:
    with pytest.raises(DiskFull):
        made(host, 2**62)
    assert host.volumes.volumes() == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to mount a small file system")
@pytest.mark.parametrize("size", [64, 1024])
def test_a_full_disk_is_said_plainly(tmp_path: Path, size: int) -> None:
    state = tmp_path / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=755", "tmpfs", str(state)], check=True)
    try:
        host = QemuHypervisor(state, "tcg")
        try:
            with pytest.raises(DiskFull, match="bytes are free"):
                made(host, size * GIB, format="ext4")
            assert host.volumes.volumes() == ()
        finally:
            host.close()
    finally:
        subprocess.run(["umount", str(state)], check=True)


def test_removing_takes_its_data_only_when_nobody_has_it(host: QemuHypervisor, image: ImageManifest) -> None:
    volume = made(host)
    attached = Attached(volume=volume.uuid, serial="1")
    machine = define(host, image, volumes=(attached,))
    with pytest.raises(Conflict, match=str(machine.uuid)):
        host.volumes.remove_volume(volume.uuid, 1)
    host.machines.ensure(machine.model_copy(update={"volumes": ()}), 1)
    host.volumes.remove_volume(volume.uuid, 1)
    host.volumes.remove_volume(volume.uuid, 1)
    assert host.volumes.volumes() == ()


def test_removing_a_machine_leaves_its_volumes(host: QemuHypervisor, image: ImageManifest) -> None:
    volume = made(host)
    machine = define(host, image, volumes=(Attached(volume=volume.uuid, serial="1"),))
    host.machines.remove(machine.uuid, 2)
    assert [v.uuid for v in host.volumes.volumes()] == [volume.uuid]


def test_a_machine_takes_only_volumes_that_are_here_and_free(host: QemuHypervisor, image: ImageManifest) -> None:
    volume = made(host)
    attached = Attached(volume=volume.uuid, serial="1")
    first = define(host, image, volumes=(attached,))
    with pytest.raises(Conflict, match=f"attached to machine {first.uuid}"):
        define(host, image, volumes=(attached,))
    with pytest.raises(NotFound, match="not on this node"):
        define(host, image, volumes=(Attached(volume=uuid4(), serial="2"),))
    with pytest.raises(Invalid, match="twice"):
        define(host, image, volumes=(attached, attached))


def test_an_image_in_a_cd_drive_or_for_rescue_stays(host: QemuHypervisor, image: ImageManifest, tmp_path: Path) -> None:
    source = tmp_path / "more"
    source.mkdir()
    for role in (Role.ISO, Role.KERNEL, Role.INITRD):
        (source / role).write_bytes(role.encode())
    iso = ImageManifest(name="cd", disk_size=0, files=(described(source, Role.ISO),))
    rescue = ImageManifest(
        name="rescue", disk_size=0, files=(described(source, Role.KERNEL), described(source, Role.INITRD))
    )
    for manifest in (iso, rescue):
        with pytest.raises(NotFound):
            define(host, image, iso=manifest.sha256)
        assert bring(host, manifest, source).done
    machine = define(host, image, iso=iso.sha256, rescue=Rescue(image=rescue.sha256))
    assert host.machines.directory(machine.uuid).rescue_seed.exists()
    for manifest in (iso, rescue):
        with pytest.raises(Conflict, match="in use"):
            host.disks.remove_image(manifest.sha256)
    host.machines.ensure(machine.model_copy(update={"iso": None, "rescue": None}), 1)
    assert not host.machines.directory(machine.uuid).rescue_seed.exists()
    for manifest in (iso, rescue):
        host.disks.remove_image(manifest.sha256)
    with pytest.raises(Invalid, match="no ISO"):
        define(host, image, iso=image.sha256)
    with pytest.raises(Invalid, match="no rescue system"):
        define(host, image, rescue=Rescue(image=image.sha256))
