"""The fence: nothing that an older owner asked for happens after a newer one was seen."""

from uuid import UUID, uuid4

import pytest

from paddock.base.errors import Conflict, StaleEpoch
from paddock.hypervisor.base import Hypervisor
from paddock.machine.spec import MIB, Machine, Power
from paddock.machine.state import Phase
from tests.contract.conftest import KINDS, Made
from tests.contract.harness import Harness
from tests.contract.specs import attached, make_machine, make_volume

NOWHERE = "/nonexistent/snapshot"

# The fake alone keeps no epochs: the fence, which stands before every driver in an agent, does.
pytestmark = pytest.mark.parametrize("shared", [k for k in KINDS if k != "fake"], indirect=True)


def refused_all_but_removal(hypervisor: Hypervisor, machine: Machine, epoch: int) -> None:
    with pytest.raises(StaleEpoch):
        hypervisor.disks.ensure_disk(machine.uuid, machine.system_disk, epoch)
    with pytest.raises(StaleEpoch):
        hypervisor.machines.ensure(machine, epoch)
    with pytest.raises(StaleEpoch):
        hypervisor.machines.power(machine.uuid, Power.ON, epoch)
    with pytest.raises(StaleEpoch):
        hypervisor.machines.adapt(machine.uuid, epoch)
    with pytest.raises(StaleEpoch):
        hypervisor.disks.snapshot(machine.uuid, uuid4(), NOWHERE, epoch)
    with pytest.raises(StaleEpoch):
        hypervisor.disks.drop_snapshot(machine.uuid, uuid4(), epoch)
    with pytest.raises(StaleEpoch):
        hypervisor.disks.set_password(machine.uuid, "root", "$6$salt$abcdefgh", "0" * 64, epoch)


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


def volume_epoch(hypervisor: Hypervisor, volume: UUID) -> int | None:
    return next((state.epoch for state in hypervisor.volumes.volumes() if state.uuid == volume), None)


def test_older_owner_of_a_volume_changes_nothing(harness: Harness, made: Made) -> None:
    volume = made.volume(8 * MIB)
    harness.hypervisor.volumes.ensure_volume(volume, 7)
    for _ in range(2):
        with pytest.raises(StaleEpoch, match=r"6.*7.*volume"):
            harness.hypervisor.volumes.ensure_volume(make_volume(16 * MIB, volume.uuid), 6)
        with pytest.raises(StaleEpoch):
            harness.hypervisor.volumes.remove_volume(volume.uuid, 6)
        assert volume_epoch(harness.hypervisor, volume.uuid) == 7
        harness.restart()
    harness.hypervisor.volumes.ensure_volume(make_volume(16 * MIB, volume.uuid), 8)
    assert volume_epoch(harness.hypervisor, volume.uuid) == 8


def test_removed_volume_never_comes_back(harness: Harness, made: Made) -> None:
    volume = made.volume()
    harness.hypervisor.volumes.remove_volume(volume.uuid, 5)
    for _ in range(2):
        for epoch in (4, 5, 6):
            with pytest.raises(StaleEpoch):
                harness.hypervisor.volumes.ensure_volume(volume, epoch)
        harness.restart()
    with pytest.raises(StaleEpoch):
        harness.hypervisor.volumes.remove_volume(volume.uuid, 4)
    harness.hypervisor.volumes.remove_volume(volume.uuid, 6)
    assert volume_epoch(harness.hypervisor, volume.uuid) is None


def test_volume_removed_before_it_was_made(harness: Harness) -> None:
    volume = make_volume()
    harness.hypervisor.volumes.remove_volume(volume.uuid, 3)
    harness.restart()
    with pytest.raises(StaleEpoch):
        harness.hypervisor.volumes.ensure_volume(volume, 2)
    assert volume_epoch(harness.hypervisor, volume.uuid) is None


def test_refused_removal_of_a_volume_buries_nothing(harness: Harness, made: Made) -> None:
    volume = made.volume(8 * MIB)
    made.new(volumes=attached(volume))
    with pytest.raises(Conflict):
        harness.hypervisor.volumes.remove_volume(volume.uuid, 3)
    harness.restart()
    with pytest.raises(StaleEpoch):
        harness.hypervisor.volumes.ensure_volume(volume, 2)
    harness.hypervisor.volumes.ensure_volume(make_volume(16 * MIB, volume.uuid), 3)
    assert volume_epoch(harness.hypervisor, volume.uuid) == 3


def test_owners_of_a_machine_and_of_its_volume_are_not_the_same(harness: Harness, made: Made) -> None:
    volume = made.volume()
    harness.hypervisor.volumes.ensure_volume(volume, 9)
    machine = made.new(volumes=attached(volume))
    harness.hypervisor.machines.power(machine.uuid, Power.ON_PAUSED, 2)
    assert volume_epoch(harness.hypervisor, volume.uuid) == 9
    assert harness.hypervisor.machines.state(machine.uuid).epoch == 2
