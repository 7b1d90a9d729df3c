"""An installation from a CD under UEFI: the firmware's entry boots it, also in what is made of it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from paddock.base.run import run
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.images.importer import import_disk, import_iso
from paddock.images.kernel import Boot
from paddock.images.store import ImageStore
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import MIB, Machine, Power
from paddock.machine.state import Phase
from tests.guests.qemu_node import until
from tests.hypervisor.qemu.machines import bring, free_port, make_machine
from tests.support_images import built_image
from tests.support_iso import INSTALLED, RUNS, installer

pytestmark = [pytest.mark.guest, pytest.mark.slow]

BOOT = 300.0  # seconds under TCG, on a busy host
ENTRY = "test system".encode("utf-16-le")


class Node:
    """A driver with machines that boot by UEFI."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = ImageStore(root / "store")
        self.host = QemuHypervisor(root / "state", "tcg")
        self.machines: list[Machine] = []

    def bring(self, image: ImageManifest) -> ImageManifest:
        assert bring(self.host, image, self.store.path(image.sha256)).done
        return image

    def empty(self) -> ImageManifest:
        disk = self.root / "empty"
        run(["qemu-img", "create", "-q", "-f", "qcow2", disk, str(128 * MIB)])
        return self.bring(self.store.publish({Role.DISK: disk}, name="empty", disk_size=128 * MIB))

    def define(self, image: ImageManifest, **changes: object) -> Machine:
        """A machine of it; or, with the `uuid` of one, that is changed."""
        made = make_machine(image, port=free_port())
        wanted = {"memory_mib": 512, "firmware": "uefi", "layout": 2, **changes}
        machine = Machine.model_validate(made.model_copy(update=wanted).model_dump())
        self.machines.append(machine)
        self.host.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
        self.host.machines.ensure(machine, 1)
        return machine

    def boots(self, machine: Machine, words: str) -> None:
        self.host.machines.power(machine.uuid, Power.ON, 1)
        until(lambda: words in self.host.streams.console_log(machine.uuid, 2**20), BOOT)

    def remembered(self, variables: Path) -> bytes:
        raw = self.root / "variables.raw"
        run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", variables, raw])
        return raw.read_bytes()

    def variables_of(self, machine: Machine) -> bytes:
        return self.remembered(self.root / "state/machines" / str(machine.uuid) / "efivars.qcow2")

    def close(self) -> None:
        for uuid in {machine.uuid for machine in self.machines}:
            self.host.machines.remove(uuid, 99)
        self.host.close()


@pytest.fixture
def node() -> Iterator[Node]:
    root = Path(tempfile.mkdtemp(prefix="pk-uefi-"))
    root.chmod(0o755)
    made = Node(root)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(root)


def test_the_entry_that_an_installer_made(node: Node) -> None:
    cd = node.bring(import_iso(installer(built_image("rescue"), node.root / "cd.iso"), node.store, "installer"))
    empty = node.empty()
    machine = node.define(empty, iso=cd.sha256)
    node.boots(machine, INSTALLED)
    until(lambda: node.host.machines.state(machine.uuid).phase is Phase.OFF, 60)
    assert ENTRY in node.variables_of(machine)
    node.define(empty, uuid=machine.uuid)
    node.boots(machine, RUNS)

    target, snapshot = node.root / "snapshot", uuid4()
    until(lambda: node.host.disks.snapshot(machine.uuid, snapshot, str(target), 1).done, 120)
    node.host.machines.power(machine.uuid, Power.OFF, 1)
    boot = Boot({Role.VARIABLES: node.root / "snapshot-efivars"})
    image = node.bring(import_disk(target, node.store, "copy", boot=boot))
    assert image.firmware == "uefi"
    kept = node.remembered(node.store.file(image.sha256, Role.VARIABLES))
    assert ENTRY in kept

    clone = node.define(image)
    assert node.variables_of(clone) == kept
    node.boots(clone, RUNS)
    node.host.machines.power(clone.uuid, Power.OFF, 1)

    disk = machine.system_disk.model_copy(update={"image": image.sha256, "generation": 1})
    node.define(image, uuid=machine.uuid, system_disk=disk)
    assert node.variables_of(machine) == kept, "a rebuilt one begins with those of its new image"
