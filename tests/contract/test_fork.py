"""Fork points and machines that begin from them, whichever hypervisor it is.

The fake keeps the same rules as QEMU does, whose guests must have an agent for this: tests/guests tries those.
"""

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from paddock.base.errors import Conflict, NotFound, Refused, StaleEpoch
from paddock.machine.spec import Machine, Power
from paddock.machine.state import Fork, Phase
from paddock.machine.warm import Start
from tests.contract.conftest import Made
from tests.contract.harness import Harness, until
from tests.contract.specs import attached


def forked(harness: Harness, machine: Machine, point: UUID | None = None) -> tuple[UUID, Fork]:
    """A fork point of it."""
    point = point or uuid4()
    machines = harness.hypervisor.machines
    told = until(lambda: machines.fork(machine.uuid, point, 1), lambda f: f.done or bool(f.error))
    assert told.error == ""
    return point, told


@pytest.fixture
def parent(harness: Harness, made: Made) -> Machine:
    machine = made.new()
    harness.hypervisor.machines.power(machine.uuid, Power.ON, 1)
    return machine


Child = Callable[..., Machine]


@pytest.fixture
def child(harness: Harness, made: Made, parent: Machine) -> Child:
    """Defines one that is to begin from a point."""

    def define(point: UUID, **changes: object) -> Machine:
        uuid = uuid4()
        network = parent.network.model_copy(update={"ssh_port": made.new().network.ssh_port + 1})
        machine = parent.model_copy(
            update={"uuid": uuid, "name": "child", "fork": point, "network": network, **changes}
        )
        made.uuids.append(uuid)
        harness.hypervisor.disks.ensure_disk(uuid, machine.system_disk, 1)
        harness.hypervisor.machines.ensure(machine, 1)
        return machine

    return define


def read(harness: Harness, machine: Machine) -> bytes:
    return harness.hypervisor.guest.read_file(machine.uuid, "/etc/hostname", 0, 1000).data


@pytest.mark.on("fake")
def test_children_have_what_it_had(harness: Harness, parent: Machine, child: Child) -> None:
    machines = harness.hypervisor.machines
    harness.hypervisor.guest.write_file(parent.uuid, "/etc/hostname", 100, b"of the parent")
    point, told = forked(harness, parent)
    assert told.paused_ms > 0
    assert machines.state(parent.uuid).phase is Phase.RUNNING
    assert forked(harness, parent, point)[1] == told, "asking again gives the same"
    for name in ("one", "two"):
        machine = child(point, seed=parent.seed.model_copy(update={"hostname": name}))
        assert machines.power(machine.uuid, Power.ON, 1).began == Start(fork=True)
        assert machines.power(machine.uuid, Power.ON, 1).began == Start(fork=True), "it is on already"
        assert read(harness, machine) == f"{name}\n".encode(), "and is somebody of its own"
        machines.power(machine.uuid, Power.OFF, 1)
        machines.power(machine.uuid, Power.ON, 1)
        assert not machines.state(machine.uuid).began.fork, "an ordinary start"


@pytest.mark.on("fake")
def test_a_point_that_is_not_there(harness: Harness, parent: Machine, child: Child) -> None:
    """Nothing boots instead."""
    machines = harness.hypervisor.machines
    point, _ = forked(harness, parent)
    machines.drop_fork(point)
    machines.drop_fork(point)
    machine = child(point)
    for _ in range(2):
        with pytest.raises(Refused, match="not there any more"):
            machines.power(machine.uuid, Power.ON, 1)
        assert machines.state(machine.uuid).phase in (Phase.DEFINED, Phase.OFF)
    again, _ = forked(harness, parent)
    machines.ensure(machine.model_copy(update={"fork": again}), 1)
    assert machines.power(machine.uuid, Power.ON, 1).began.fork, "the same with one that is there"


@pytest.mark.on("fake")
def test_children_outlive_parent_and_point(harness: Harness, parent: Machine, child: Child) -> None:
    machines = harness.hypervisor.machines
    point, _ = forked(harness, parent)
    machine = child(point)
    machines.remove(parent.uuid, 2)
    assert machines.power(machine.uuid, Power.ON, 1).began.fork, "a point outlives the machine that it was made of"
    machines.drop_fork(point)
    assert machines.state(machine.uuid).phase is Phase.RUNNING


@pytest.mark.on("fake")
@pytest.mark.parametrize("changes", [{"memory_mib": 128}, {"cpus": 2}, {"layout": 2}, {"max_cpus": 3}], ids=str)
def test_children_are_like_it(harness: Harness, parent: Machine, child: Child, changes: dict[str, object]) -> None:
    point, _ = forked(harness, parent)
    machine = child(point, **changes)
    with pytest.raises(Refused, match=next(iter(changes))):
        harness.hypervisor.machines.power(machine.uuid, Power.ON, 1)


@pytest.mark.on("fake")
def test_no_child_begins_paused(harness: Harness, parent: Machine, child: Child) -> None:
    machine = child(forked(harness, parent)[0])
    with pytest.raises(Refused, match="running"):
        harness.hypervisor.machines.power(machine.uuid, Power.ON_PAUSED, 1)


def test_what_is_off_is_not_forked(harness: Harness, made: Made) -> None:
    machines = harness.hypervisor.machines
    with pytest.raises(Conflict):
        machines.fork(made.new().uuid, uuid4(), 1)
    with pytest.raises(NotFound):
        machines.fork(uuid4(), uuid4(), 1)
    machines.drop_fork(uuid4())


def test_what_is_paused_is_not_forked(harness: Harness, parent: Machine) -> None:
    machines = harness.hypervisor.machines
    machines.power(parent.uuid, Power.PAUSE, 1)
    with pytest.raises(Conflict, match="does not run"):
        machines.fork(parent.uuid, uuid4(), 1)


def test_with_volumes_it_is_not_forked(harness: Harness, made: Made) -> None:
    machine = made.new(volumes=attached(made.volume()))
    harness.hypervisor.machines.power(machine.uuid, Power.ON, 1)
    with pytest.raises(Conflict, match="volumes"):
        harness.hypervisor.machines.fork(machine.uuid, uuid4(), 1)


@pytest.mark.on("fence", "agent")
def test_an_older_epoch_forks_nothing(harness: Harness, parent: Machine) -> None:
    machines = harness.hypervisor.machines
    machines.ensure(parent, 5)
    with pytest.raises(StaleEpoch):
        machines.fork(parent.uuid, uuid4(), 4)
