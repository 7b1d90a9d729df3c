"""Volumes: made, grown, borrowed by machines; never lost, and gone only when that was asked."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import UUID, uuid4

import pytest

from paddock.base.errors import Conflict, Invalid, NotFound, PaddockError, Refused
from paddock.hypervisor.base import Hypervisor
from paddock.machine.spec import MIB, Machine, Power, Volume
from paddock.machine.state import Phase, VolumeState
from tests.contract.conftest import Made
from tests.contract.harness import Harness
from tests.contract.specs import attached, make_volume


def listed(hypervisor: Hypervisor) -> dict[UUID, VolumeState]:
    return {state.uuid: state for state in hypervisor.volumes.volumes()}


def test_made_once(hypervisor: Hypervisor, made: Made) -> None:
    volume = made.volume()
    before = listed(hypervisor)[volume.uuid]
    hypervisor.volumes.ensure_volume(volume, 1)
    assert listed(hypervisor)[volume.uuid] == before
    assert before.size == volume.size


def start_with(hypervisor: Hypervisor, machine: Machine, volume: Volume) -> None:
    """Start the machine with this volume."""
    hypervisor.machines.ensure(machine.model_copy(update={"volumes": attached(volume)}), 1)
    hypervisor.machines.power(machine.uuid, Power.ON_PAUSED, 1)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_made_with_a_file_system(hypervisor: Hypervisor, made: Made, kind: str) -> None:
    volume = make_volume(400 * MIB).model_copy(update={"format": kind})
    made.volumes.append(volume.uuid)
    for _ in range(2):
        hypervisor.volumes.ensure_volume(volume, 1)
    assert listed(hypervisor)[volume.uuid].size == volume.size


def test_grows_and_never_shrinks(hypervisor: Hypervisor, made: Made) -> None:
    volume = made.volume(8 * MIB)
    for _ in range(2):
        hypervisor.volumes.ensure_volume(make_volume(16 * MIB, volume.uuid), 1)
    with pytest.raises(Invalid):
        hypervisor.volumes.ensure_volume(volume, 1)
    assert listed(hypervisor)[volume.uuid].size == 16 * MIB


def test_removal(hypervisor: Hypervisor, made: Made) -> None:
    volume, other = made.volume(), made.volume()
    for _ in range(2):
        hypervisor.volumes.remove_volume(volume.uuid, 1)
    assert volume.uuid not in listed(hypervisor)
    assert other.uuid in listed(hypervisor)
    hypervisor.volumes.remove_volume(uuid4(), 1)


def test_volumes_survive_a_killed_host_process(harness: Harness, made: Made) -> None:
    volume = made.volume()
    before = listed(harness.hypervisor)[volume.uuid]
    harness.restart()
    assert listed(harness.hypervisor)[volume.uuid] == before


def test_machine_needs_its_volume(hypervisor: Hypervisor, made: Made) -> None:
    machine, volume = made.new(), make_volume()
    with pytest.raises((Conflict, NotFound, Refused)):
        start_with(hypervisor, machine, volume)
    assert hypervisor.machines.state(machine.uuid).phase is not Phase.PAUSED


def test_volume_of_a_machine_is_not_removed(hypervisor: Hypervisor, made: Made) -> None:
    volume = made.volume()
    machine = made.new(volumes=attached(volume))
    with pytest.raises(Conflict):
        hypervisor.volumes.remove_volume(volume.uuid, 2)
    hypervisor.volumes.ensure_volume(make_volume(16 * MIB, volume.uuid), 2)  # the refusal buried nothing
    hypervisor.machines.power(machine.uuid, Power.ON_PAUSED, 1)
    with pytest.raises(Conflict):
        hypervisor.volumes.remove_volume(volume.uuid, 2)
    hypervisor.machines.ensure(machine.model_copy(update={"volumes": ()}), 1)
    assert hypervisor.machines.adapt(machine.uuid, 1).pending == ()
    hypervisor.volumes.remove_volume(volume.uuid, 2)
    assert volume.uuid not in listed(hypervisor)


def test_volume_outlives_its_machine(hypervisor: Hypervisor, made: Made) -> None:
    volume = made.volume()
    machine = made.new(volumes=attached(volume))
    hypervisor.machines.power(machine.uuid, Power.ON_PAUSED, 1)
    hypervisor.machines.remove(machine.uuid, 1)
    assert volume.uuid in listed(hypervisor)
    again = made.new(volumes=attached(volume))
    hypervisor.machines.power(again.uuid, Power.ON_PAUSED, 1)


def test_plugged_grown_and_unplugged_while_running(hypervisor: Hypervisor, made: Made) -> None:
    machine, first, second = made.new(layout=2), made.volume(), made.volume()
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    for volumes in ((first,), (first, second), (second,), (second,), ()):
        hypervisor.machines.ensure(machine.model_copy(update={"volumes": attached(*volumes)}), 1)
        for _ in range(2):
            assert hypervisor.machines.adapt(machine.uuid, 1).pending == ()
        if second in volumes:
            hypervisor.volumes.ensure_volume(make_volume(16 * MIB, second.uuid), 1)
    assert hypervisor.machines.state(machine.uuid).phase is Phase.RUNNING
    assert listed(hypervisor)[second.uuid].size == 16 * MIB


def test_two_machines_never_have_one_volume(hypervisor: Hypervisor, made: Made) -> None:
    volume, one, two = made.volume(), made.new(), made.new()
    start_with(hypervisor, one, volume)
    with pytest.raises((Conflict, Refused)):
        start_with(hypervisor, two, volume)
    assert hypervisor.machines.state(two.uuid).phase is not Phase.PAUSED
    assert hypervisor.machines.state(one.uuid).phase is Phase.PAUSED


def test_attaching_races_with_removal(hypervisor: Hypervisor, made: Made) -> None:
    """Either the machine has the volume, or the volume is gone: never a machine with a volume that is not there."""
    for _ in range(5):
        machine, volume = made.new(), made.volume()
        wanted = machine.model_copy(update={"volumes": attached(volume)})

        def remove(uuid: UUID = volume.uuid) -> None:
            with suppress(Conflict):
                hypervisor.volumes.remove_volume(uuid, 1)

        with ThreadPoolExecutor(2) as pool:
            removal, definition = pool.submit(remove), pool.submit(hypervisor.machines.ensure, wanted, 1)
            removal.result()
            with suppress(PaddockError):
                definition.result()
        assert (volume.uuid in listed(hypervisor)) == (definition.exception() is None)
