"""Machines that boot by UEFI: what their firmware remembers is theirs, and lives as long as their disk."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.base import ovmf
from paddock.base.run import run
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.images.importer import import_disk
from paddock.images.store import ImageStore
from paddock.machine.spec import Machine, Power
from tests.guests.qemu_node import until
from tests.hypervisor.qemu.machines import bring, free_port, make_machine
from tests.support_images import built_image
from tests.support_uefi import uefi_disk

pytestmark = [pytest.mark.guest, pytest.mark.slow]

BOOT = 300.0  # seconds under TCG, on a busy host


class Node:
    """A driver, and a machine of an imported disk that only UEFI boots."""

    def __init__(self, root: Path) -> None:
        self.root = root
        store = ImageStore(root / "store")
        self.image = import_disk(uefi_disk(built_image("rescue"), root), store, "efi", default_user="root")
        self.host = QemuHypervisor(root / "state", "tcg")
        assert bring(self.host, self.image, store.path(self.image.sha256)).done
        machine = make_machine(self.image, port=free_port())
        changes = {"memory_mib": 512, "firmware": self.image.firmware, "layout": 2}
        self.machine: Machine = machine.model_copy(update=changes)
        self.uuid = self.machine.uuid
        self.variables = root / "state/machines" / str(self.uuid) / "efivars.qcow2"
        self.define()

    def define(self) -> None:
        self.host.disks.ensure_disk(self.uuid, self.machine.system_disk, 1)
        self.host.machines.ensure(self.machine, 1)

    def power(self, power: Power) -> None:
        self.host.machines.power(self.uuid, power, 1)

    def said(self) -> str:
        return self.host.streams.console_log(self.uuid, 2**20)

    def remembered(self) -> bytes:
        raw = self.root / "variables.raw"
        run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.variables, raw])
        return raw.read_bytes()

    def close(self) -> None:
        self.host.machines.remove(self.uuid, 99)
        self.host.close()


@pytest.fixture
def node() -> Iterator[Node]:
    root = Path(tempfile.mkdtemp(prefix="pk-uefi-"))
    root.chmod(0o755)
    made = None
    try:
        made = Node(root)
        yield made
    finally:
        if made:
            made.close()
        shutil.rmtree(root)


def test_a_disk_that_only_uefi_boots(node: Node) -> None:
    found = ovmf.find()
    assert found
    assert node.image.firmware == "uefi", "found by its partition table"
    empty = found.variables.read_bytes()
    assert node.remembered() == empty
    node.power(Power.ON)
    until(lambda: "the script of the disk runs" in node.said(), BOOT)
    assert "BdsDxe" in node.said()
    until(lambda: node.host.machines.readiness(node.uuid).ready, BOOT)
    assert node.host.guest.exec(node.uuid, ("test", "-d", "/sys/firmware/efi"), "", 30).exit_code == 0

    node.power(Power.OFF)
    remembered = node.remembered()
    assert "Boot0000".encode("utf-16-le") in remembered, "it found what there is to boot, and remembers that"
    node.define()
    node.power(Power.ON_PAUSED)
    node.power(Power.OFF)
    assert node.remembered() == remembered

    disk = node.machine.system_disk.model_copy(update={"generation": 1})
    node.machine = node.machine.model_copy(update={"system_disk": disk})
    node.define()
    assert node.remembered() == empty, "a rebuilt machine begins anew"

    node.machine = node.machine.model_copy(update={"firmware": "bios"})
    node.define()
    assert not node.variables.exists()
