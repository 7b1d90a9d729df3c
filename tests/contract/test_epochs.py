"""The fence: nothing that an older owner asked for happens after a newer one was seen."""

import pytest

from paddock.base.errors import StaleEpoch
from paddock.hypervisor.base import Hypervisor
from paddock.machine.spec import Machine, Power
from paddock.machine.state import Phase
from tests.contract.conftest import KINDS, Made
from tests.contract.harness import Harness
from tests.contract.specs import make_machine

# The fake alone keeps no epochs: the fence, which stands before every driver in an agent, does.
pytestmark = pytest.mark.parametrize("shared", [k for k in KINDS if k != "fake"], indirect=True)


def refused_all_but_removal(hypervisor: Hypervisor, machine: Machine, epoch: int) -> None:
    with pytest.raises(StaleEpoch):
        hypervisor.disks.ensure_disk(machine.uuid, machine.system_disk, epoch)
    with pytest.raises(StaleEpoch):
        hypervisor.machines.ensure(machine, epoch)
    with pytest.raises(StaleEpoch):
        hypervisor.machines.power(machine.uuid, Power.ON, epoch)


def test_older_epoch_changes_nothing(harness: Harness, made: Made) -> None:
    machine, hypervisor = made.new(), harness.hypervisor
    hypervisor.machines.power(machine.uuid, Power.ON_PAUSED, 7)
    refused_all_but_removal(hypervisor, machine, 6)
    with pytest.raises(StaleEpoch, match=r"6.*7"):
        hypervisor.machines.remove(machine.uuid, 6)
    state = hypervisor.machines.state(machine.uuid)
    assert (state.phase, state.epoch) == (Phase.PAUSED, 7)


def test_epochs_survive_a_restart(harness: Harness, made: Made) -> None:
    machine = made.new()
    harness.hypervisor.machines.ensure(machine, 7)
    harness.restart()
    refused_all_but_removal(harness.hypervisor, machine, 6)
    assert harness.hypervisor.machines.state(machine.uuid).epoch == 7
    harness.hypervisor.machines.power(machine.uuid, Power.ON_PAUSED, 7)


def test_each_change_raises_the_epoch(harness: Harness, made: Made) -> None:
    machine, hypervisor = made.new(), harness.hypervisor
    hypervisor.disks.ensure_disk(machine.uuid, machine.system_disk, 3)
    assert hypervisor.machines.state(machine.uuid).epoch == 3
    hypervisor.machines.ensure(machine, 4)
    assert hypervisor.machines.state(machine.uuid).epoch == 4
    told = {s.uuid: s.epoch for s in hypervisor.machines.changes(0, 0).machines}
    assert told[machine.uuid] == 4


def test_removed_machine_never_comes_back(harness: Harness, made: Made) -> None:
    machine = made.new()
    harness.hypervisor.machines.remove(machine.uuid, 5)
    for epoch in (4, 5, 6):
        refused_all_but_removal(harness.hypervisor, machine, epoch)
    harness.restart()
    for epoch in (4, 5, 6):
        refused_all_but_removal(harness.hypervisor, machine, epoch)
    with pytest.raises(StaleEpoch):
        harness.hypervisor.machines.remove(machine.uuid, 4)
    harness.hypervisor.machines.remove(machine.uuid, 5)
    harness.hypervisor.machines.remove(machine.uuid, 6)
    assert machine.uuid not in {s.uuid for s in harness.hypervisor.machines.changes(0, 0).machines}


def test_removal_may_come_before_the_machine(harness: Harness) -> None:
    machine = make_machine(harness.image.sha256)
    harness.hypervisor.machines.remove(machine.uuid, 3)
    refused_all_but_removal(harness.hypervisor, machine, 2)
    harness.restart()
    refused_all_but_removal(harness.hypervisor, machine, 3)
