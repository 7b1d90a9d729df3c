"""Images come whole or not at all; disks only grow."""

from pathlib import Path

import pytest

from paddock.base.errors import Conflict, Invalid, NotFound, Refused
from paddock.hypervisor.base import Hypervisor
from paddock.machine.image import Role
from tests.contract.conftest import Made
from tests.contract.harness import Harness
from tests.contract.specs import IMAGE_SIZE, make_image, make_machine, system_disk


def test_image_arrives_once(harness: Harness) -> None:
    for _ in range(2):
        progress = harness.copy(harness.image, harness.source)
        assert progress.done
        assert progress.bytes_done == progress.bytes_total > 0
    assert harness.hypervisor.disks.images().count(harness.image.sha256) == 1


def test_image_without_its_file(harness: Harness, tmp_path: Path) -> None:
    manifest = make_image(tmp_path / "other", "missing", qcow2=harness.real)
    progress = harness.copy(manifest, tmp_path / "nowhere")
    assert not progress.done
    assert "nowhere" in progress.error
    assert manifest.sha256 not in harness.hypervisor.disks.images()


@pytest.mark.parametrize("damage", ["checksum", "truncated"])
def test_damaged_image_is_refused_and_can_be_tried_again(harness: Harness, tmp_path: Path, damage: str) -> None:
    manifest = make_image(tmp_path, damage, qcow2=harness.real)
    disk = tmp_path / Role.DISK
    whole = disk.read_bytes()
    disk.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if damage == "checksum" else whole[:-1])
    progress = harness.copy(manifest, tmp_path)
    assert str(disk) in progress.error
    assert not progress.done
    assert manifest.sha256 not in harness.hypervisor.disks.images()
    disk.write_bytes(whole)
    assert harness.copy(manifest, tmp_path).done
    assert manifest.sha256 in harness.hypervisor.disks.images()
    harness.hypervisor.disks.remove_image(manifest.sha256)
    assert manifest.sha256 not in harness.hypervisor.disks.images()
    harness.hypervisor.disks.remove_image(manifest.sha256)


def test_image_in_use_stays(harness: Harness, made: Made) -> None:
    made.new()
    with pytest.raises(Conflict):
        harness.hypervisor.disks.remove_image(harness.image.sha256)
    assert harness.image.sha256 in harness.hypervisor.disks.images()


def test_images_survive_a_restart(harness: Harness) -> None:
    harness.restart()
    assert harness.image.sha256 in harness.hypervisor.disks.images()


def test_disk_needs_its_image(hypervisor: Hypervisor) -> None:
    machine = make_machine("0" * 64)
    with pytest.raises(NotFound, match="000000"):
        hypervisor.disks.ensure_disk(machine.uuid, machine.system_disk, 1)


def test_disk_grows_and_never_shrinks(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    for _ in range(2):
        hypervisor.disks.ensure_disk(machine.uuid, system_disk(machine.image, 2 * IMAGE_SIZE), 1)
    with pytest.raises((Invalid, Refused, Conflict)):
        hypervisor.disks.ensure_disk(machine.uuid, system_disk(machine.image, IMAGE_SIZE), 1)


def test_disk_is_not_smaller_than_its_image(hypervisor: Hypervisor, harness: Harness) -> None:
    machine = make_machine(harness.image.sha256)
    with pytest.raises((Invalid, Refused)):
        hypervisor.disks.ensure_disk(machine.uuid, system_disk(machine.image, IMAGE_SIZE // 2), 1)
    hypervisor.machines.remove(machine.uuid, 1)
