"""Machines that are written to a file with their memory, and go on from there, whichever hypervisor it is."""

import pytest

from paddock.base.errors import Conflict, NotFound
from paddock.hypervisor.base import Hypervisor
from paddock.machine.spec import Machine, Power, Rescue
from paddock.machine.state import Phase
from tests.contract.conftest import Made
from tests.contract.harness import Harness, until
from tests.contract.specs import attached, make_iso, make_rescue


def booted(harness: Harness, machine: Machine) -> Machine:
    """On, and its guest has greeted."""
    harness.hypervisor.machines.power(machine.uuid, Power.ON, 1)
    until(lambda: greetings(harness, machine), bool)
    return machine


def greetings(harness: Harness, machine: Machine) -> int:
    """How often its guest has begun, as its serial console tells."""
    said = harness.hypervisor.streams.console_log(machine.uuid, 10**6)
    return said.count("contract guest") if harness.real else said.count("machine contract")


def hibernated(harness: Harness, machine: Machine) -> None:
    machines = harness.hypervisor.machines
    told = until(lambda: machines.hibernate(machine.uuid, 1), lambda p: p.done or bool(p.error))
    assert told.error == ""
    assert machines.state(machine.uuid).phase is Phase.HIBERNATED


def test_it_goes_on_where_it_was(harness: Harness, made: Made) -> None:
    machines, machine = harness.hypervisor.machines, booted(harness, made.new())
    for _ in range(2):
        hibernated(harness, machine)
        hibernated(harness, machine)  # it is already
        assert machines.state(machine.uuid).pid is None
        assert not machines.readiness(machine.uuid).ready
        machines.power(machine.uuid, Power.ON, 1)
        state = machines.state(machine.uuid)
        assert (state.phase, state.cold_start) == (Phase.RUNNING, "")
        assert greetings(harness, machine) == 1
    machines.power(machine.uuid, Power.OFF, 1)
    machines.power(machine.uuid, Power.ON, 1)
    until(lambda: greetings(harness, machine), lambda times: times == 2)


def test_paused_it_stays_until_it_is_resumed(harness: Harness, made: Made) -> None:
    machines, machine = harness.hypervisor.machines, booted(harness, made.new())
    machines.power(machine.uuid, Power.PAUSE, 1)
    hibernated(harness, machine)
    machines.power(machine.uuid, Power.ON_PAUSED, 1)
    assert machines.state(machine.uuid).phase is Phase.PAUSED
    machines.power(machine.uuid, Power.RESUME, 1)
    assert machines.state(machine.uuid).phase is Phase.RUNNING
    assert greetings(harness, machine) == 1


def test_what_is_off_has_no_memory(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    with pytest.raises(Conflict):
        hypervisor.machines.hibernate(machine.uuid, 1)
    with pytest.raises(NotFound):
        hypervisor.machines.hibernate(made.disk_only(), 1)


def test_power_off_drops_it(harness: Harness, made: Made) -> None:
    machines, machine = harness.hypervisor.machines, booted(harness, made.new())
    hibernated(harness, machine)
    for power in (Power.PAUSE, Power.RESUME, Power.RESET):
        with pytest.raises(Conflict):
            machines.power(machine.uuid, power, 1)
    machines.power(machine.uuid, Power.OFF, 1)
    assert machines.state(machine.uuid).phase is Phase.OFF
    machines.power(machine.uuid, Power.ON, 1)
    assert machines.state(machine.uuid).cold_start == ""
    until(lambda: greetings(harness, machine), lambda times: times == 2)


@pytest.mark.on("fence", "agent")  # which keep the fake's machines
def test_it_outlives_the_process_that_serves_it(harness: Harness, made: Made) -> None:
    machine = booted(harness, made.new())
    hibernated(harness, machine)
    harness.restart()
    machines = harness.hypervisor.machines
    assert machines.state(machine.uuid).phase is Phase.HIBERNATED
    machines.power(machine.uuid, Power.ON, 1)
    assert machines.state(machine.uuid).cold_start == ""
    assert greetings(harness, machine) == int(harness.real)  # the fake's console does not outlive it


def test_with_what_was_plugged_in(harness: Harness, made: Made) -> None:
    """Volumes have other places on the bus than a start would give them, and the CD is not the one of the start."""
    machines = harness.hypervisor.machines
    iso = make_iso(harness.root / "iso")
    assert harness.copy(iso, harness.root / "iso").done
    volumes = [made.volume() for _ in range(3)]
    machine = booted(harness, made.new(layout=2, volumes=attached(*volumes[:2])))
    wanted = machine.model_copy(update={"volumes": attached(*volumes)[1:], "iso": iso.sha256})
    machines.ensure(wanted, 1)
    assert machines.adapt(machine.uuid, 1).pending == ()
    hibernated(harness, machine)
    machines.power(machine.uuid, Power.ON, 1)
    state = machines.state(machine.uuid)
    assert (state.phase, state.cold_start) == (Phase.RUNNING, "")
    assert greetings(harness, machine) == 1
    assert machines.adapt(machine.uuid, 1).pending == ()


def test_without_a_volume_that_it_knows_it_starts_anew(harness: Harness, made: Made) -> None:
    machines, volume = harness.hypervisor.machines, made.volume()
    machine = booted(harness, made.new(volumes=attached(volume)))
    hibernated(harness, machine)
    machines.ensure(machine.model_copy(update={"volumes": ()}), 1)
    machines.power(machine.uuid, Power.ON, 1)
    state = machines.state(machine.uuid)
    assert state.phase is Phase.RUNNING
    assert f"volume {volume.uuid} was taken" in state.cold_start
    machines.power(machine.uuid, Power.OFF, 1)
    machines.power(machine.uuid, Power.ON, 1)
    assert machines.state(machine.uuid).cold_start == ""


def test_the_rescue_system_comes_before_its_memory(harness: Harness, made: Made) -> None:
    machines, rescue = harness.hypervisor.machines, make_rescue(harness.root / "rescue")
    assert harness.copy(rescue, harness.root / "rescue").done
    machine = booted(harness, made.new())
    hibernated(harness, machine)
    machines.ensure(machine.model_copy(update={"rescue": Rescue(image=rescue.sha256)}), 1)
    machines.power(machine.uuid, Power.ON, 1)
    assert "the rescue system was to be booted" in machines.state(machine.uuid).cold_start
    with pytest.raises(Conflict, match="rescue system"):
        machines.hibernate(machine.uuid, 1)


def test_a_hibernated_machine_can_be_removed(harness: Harness, made: Made) -> None:
    machine = booted(harness, made.new())
    hibernated(harness, machine)
    harness.hypervisor.machines.remove(machine.uuid, 2)
    with pytest.raises(NotFound):
        harness.hypervisor.machines.state(machine.uuid)
