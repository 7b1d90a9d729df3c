"""What goes wrong while a fake machine is forked leaves it alone; its points survive the process."""

from pathlib import Path
from uuid import uuid4

import pytest

from paddock.base.errors import Conflict, DiskFull, PaddockError, Unavailable
from paddock.hypervisor.fake import FakeHypervisor
from paddock.hypervisor.faults import Failure, FaultOrder
from paddock.machine.spec import Machine, Power
from paddock.machine.state import Phase
from paddock.machine.warm import Start
from tests.contract.specs import make_image, make_machine


def brought(host: FakeHypervisor, directory: Path) -> Machine:
    """A machine that runs."""
    manifest = make_image(directory, qcow2=False)
    assert host.disks.ensure_image(manifest, str(directory)).done
    return defined(host, make_machine(manifest.sha256), Power.ON)


def defined(host: FakeHypervisor, machine: Machine, power: Power | None = None) -> Machine:
    host.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
    host.machines.ensure(machine, 1)
    if power:
        host.machines.power(machine.uuid, power, 1)
    return machine


@pytest.mark.parametrize(
    ("order", "error"),
    [
        (FaultOrder(disk_full=True), DiskFull),
        (FaultOrder(guest_agent_absent=True), Conflict),
        (FaultOrder(fail=(Failure(operation="fork"),)), Unavailable),
    ],
    ids=["full", "silent", "fails"],
)
def test_it_is_left_alone(tmp_path: Path, order: FaultOrder, error: type[PaddockError]) -> None:
    host = FakeHypervisor()
    machine, used = brought(host, tmp_path / "image"), host.used
    host.inject(order)
    with pytest.raises(error):
        host.machines.fork(machine.uuid, uuid4(), 1)
    host.inject(FaultOrder(clear=True, copy_error="it broke"))
    assert host.machines.fork(machine.uuid, uuid4(), 1).error == "it broke"
    assert (host.machines.state(machine.uuid).phase, host.used) == (Phase.RUNNING, used)


def test_points_outlive_the_process_and_their_room_is_given_back(tmp_path: Path) -> None:
    host = FakeHypervisor(tmp_path / "state")
    machine, used, point = brought(host, tmp_path / "image"), host.used, uuid4()
    assert host.machines.fork(machine.uuid, point, 1).done
    taken = host.used
    host = FakeHypervisor(tmp_path / "state")
    assert host.used == taken > used
    assert host.machines.fork(machine.uuid, point, 1).done
    own = {"uuid": uuid4(), "fork": point, "network": machine.network.model_copy(update={"ssh_port": 20})}
    child = defined(host, machine.model_copy(update=own), Power.ON)
    assert host.machines.state(child.uuid).began == Start(fork=True)
    host.machines.drop_fork(point)
    assert host.used == used + child.system_disk.size
