"""Machines: defined, started, stopped, removed; and all of it any number of times."""

import threading
from uuid import uuid4

import pytest

from paddock import __version__
from paddock.base import clock
from paddock.base.errors import Conflict, Invalid, NotFound, PortTaken, Refused
from paddock.hypervisor.base import Hypervisor
from paddock.machine.spec import Power
from paddock.machine.state import Phase
from tests.contract.conftest import Made
from tests.contract.harness import Harness, until
from tests.contract.specs import make_machine


def test_facts(harness: Harness) -> None:
    facts = harness.hypervisor.machines.facts()
    assert facts.version == __version__
    assert facts.cpus > 0
    assert 0 < facts.memory_free_mib <= facts.memory_mib
    assert 0 < facts.disk_free <= facts.disk
    assert facts.accelerator_reason
    driver = "qemu" if harness.real else "fake"
    assert harness.hypervisor.machines.capabilities().driver == driver
    assert facts.hypervisor.startswith(driver)


def test_defined_machine_never_ran(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    state = hypervisor.machines.state(machine.uuid)
    assert (state.uuid, state.phase) == (machine.uuid, Phase.DEFINED)


def test_defining_twice_changes_nothing(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    before = hypervisor.machines.state(machine.uuid)
    hypervisor.machines.ensure(machine, 1)
    assert hypervisor.machines.state(machine.uuid) == before


def test_machine_without_its_disk_is_refused(harness: Harness) -> None:
    machine = make_machine(harness.image.sha256)
    with pytest.raises((Conflict, NotFound)):
        harness.hypervisor.machines.ensure(machine, 1)
    with pytest.raises(NotFound):
        harness.hypervisor.machines.state(machine.uuid)


def test_disk_alone_is_no_machine(hypervisor: Hypervisor, made: Made) -> None:
    uuid = made.disk_only()
    with pytest.raises(NotFound):
        hypervisor.machines.state(uuid)
    assert uuid not in {s.uuid for s in hypervisor.machines.changes(0, 0).machines}


def test_unknown_machine(hypervisor: Hypervisor) -> None:
    uuid = uuid4()
    with pytest.raises(NotFound, match=str(uuid)):
        hypervisor.machines.state(uuid)
    with pytest.raises(NotFound):
        hypervisor.machines.power(uuid, Power.ON, 1)
    with pytest.raises(NotFound):
        hypervisor.machines.readiness(uuid)
    with pytest.raises(NotFound):
        hypervisor.streams.console_log(uuid, 100)


def test_on_and_off(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    on = hypervisor.machines.state(machine.uuid)
    assert on.phase is Phase.RUNNING
    assert on.since is not None
    assert on.accelerator is not None
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    again = hypervisor.machines.state(machine.uuid)
    assert (again.pid, again.since) == (on.pid, on.since)
    for _ in range(2):
        hypervisor.machines.power(machine.uuid, Power.OFF, 1)
        assert hypervisor.machines.state(machine.uuid).phase is Phase.OFF
    hypervisor.machines.power(machine.uuid, Power.SHUTDOWN, 1)
    assert hypervisor.machines.state(machine.uuid).phase is Phase.OFF


def test_paused_and_then_on(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    for _ in range(2):
        hypervisor.machines.power(machine.uuid, Power.ON_PAUSED, 1)
        assert hypervisor.machines.state(machine.uuid).phase is Phase.PAUSED
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    assert hypervisor.machines.state(machine.uuid).phase is Phase.RUNNING
    hypervisor.machines.power(machine.uuid, Power.RESET, 1)
    assert hypervisor.machines.state(machine.uuid).phase is Phase.RUNNING


def test_a_machine_that_is_off_has_no_reset_button(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    for power in (Power.RESET, Power.REBOOT):
        with pytest.raises(Conflict):
            hypervisor.machines.power(machine.uuid, power, 1)


def test_pause_and_resume(harness: Harness, made: Made) -> None:
    machines, machine = harness.hypervisor.machines, made.new()
    machines.power(machine.uuid, Power.ON, 1)
    for power, phase in ((Power.PAUSE, Phase.PAUSED), (Power.RESUME, Phase.RUNNING)):
        cursor = machines.changes(0, 0).cursor
        for _ in range(2):
            machines.power(machine.uuid, power, 1)
            assert machines.state(machine.uuid).phase is phase
        assert machines.changes(cursor, 5).cursor != cursor
    machines.power(machine.uuid, Power.PAUSE, 1)
    assert machines.readiness(machine.uuid).waiting_for
    machines.power(machine.uuid, Power.ON, 1)
    assert machines.state(machine.uuid).phase is Phase.RUNNING


def test_one_that_was_reset_while_it_was_paused_goes_on(hypervisor: Hypervisor, made: Made) -> None:
    machines, machine = hypervisor.machines, made.new()
    machines.power(machine.uuid, Power.ON, 1)
    machines.power(machine.uuid, Power.PAUSE, 1)
    machines.power(machine.uuid, Power.RESET, 1)
    assert machines.state(machine.uuid).phase is Phase.PAUSED
    machines.power(machine.uuid, Power.RESUME, 1)
    assert machines.state(machine.uuid).phase is Phase.RUNNING


def test_what_is_off_is_neither_paused_nor_resumed(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    for power in (Power.PAUSE, Power.RESUME):
        with pytest.raises(Conflict):
            hypervisor.machines.power(machine.uuid, power, 1)


def test_a_kernel_of_the_images_own_gets_no_arguments(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    with pytest.raises(Invalid, match="a kernel of its own"):
        hypervisor.machines.ensure(machine.model_copy(update={"kernel_args": "quiet"}), 1)


def test_the_firmware_changes_with_a_start(hypervisor: Hypervisor, made: Made) -> None:
    """Also a machine that is off takes it; a driver without UEFI says so before anything is changed."""
    machines, machine = hypervisor.machines, made.new()
    uefi = machine.model_copy(update={"firmware": "uefi"})
    if not machines.capabilities().uefi:
        with pytest.raises(Refused, match="UEFI"):
            machines.ensure(uefi, 1)
        return
    machines.power(machine.uuid, Power.ON_PAUSED, 1)
    machines.ensure(uefi, 1)
    assert machines.adapt(machine.uuid, 1).pending == ("it boots by another firmware from its next start on",)
    machines.power(machine.uuid, Power.OFF, 1)
    machines.power(machine.uuid, Power.ON_PAUSED, 1)
    assert machines.adapt(machine.uuid, 1).pending == ()
    machines.power(machine.uuid, Power.OFF, 1)
    machines.ensure(machine, 1)
    machines.power(machine.uuid, Power.ON_PAUSED, 1)
    assert machines.adapt(machine.uuid, 1).pending == ()


def test_what_the_host_has_not_is_refused_with_the_reason(hypervisor: Hypervisor, made: Made) -> None:
    facts = hypervisor.machines.facts()
    for field, has in (("nested", not facts.no_nested), ("huge_pages", facts.huge_pages_mib >= 64)):
        machine = made.new(**{field: True})
        if has:
            hypervisor.machines.power(machine.uuid, Power.ON, 1)
        else:
            with pytest.raises(Refused):
                hypervisor.machines.power(machine.uuid, Power.ON, 1)
            assert hypervisor.machines.state(machine.uuid).phase in (Phase.DEFINED, Phase.OFF)


def test_dedicated_cpus_come_back_when_their_machine_ends(hypervisor: Hypervisor, made: Made) -> None:
    most = hypervisor.machines.facts().dedicated_cpus
    if not most:
        pytest.skip("the host has one CPU")
    first, second = (made.new(cpus=most, dedicated_cpus=True) for _ in range(2))
    hypervisor.machines.power(first.uuid, Power.ON, 1)
    with pytest.raises(Refused, match="dedicated CPUs are asked for"):
        hypervisor.machines.power(second.uuid, Power.ON, 1)
    hypervisor.machines.power(first.uuid, Power.OFF, 1)
    hypervisor.machines.power(second.uuid, Power.ON, 1)
    assert hypervisor.machines.state(second.uuid).phase is Phase.RUNNING


def test_one_boot_of_a_host_is_told_by_the_same_word(harness: Harness) -> None:
    before = harness.hypervisor.machines.facts().boot_id
    assert before
    harness.restart()
    assert harness.hypervisor.machines.facts().boot_id == before


def test_one_port_serves_one_machine(hypervisor: Hypervisor, made: Made) -> None:
    first = made.new()
    second = made.new(port=first.network.ssh_port)
    hypervisor.machines.power(first.uuid, Power.ON_PAUSED, 1)
    with pytest.raises(PortTaken, match=str(first.network.ssh_port)):
        hypervisor.machines.power(second.uuid, Power.ON_PAUSED, 1)
    assert hypervisor.machines.state(second.uuid).phase not in (Phase.RUNNING, Phase.PAUSED)
    hypervisor.machines.power(first.uuid, Power.OFF, 1)
    hypervisor.machines.power(second.uuid, Power.ON_PAUSED, 1)
    assert hypervisor.machines.state(second.uuid).phase is Phase.PAUSED


def test_new_definition_is_used_at_the_next_start(hypervisor: Hypervisor, made: Made) -> None:
    first = made.new()
    hypervisor.machines.power(first.uuid, Power.ON_PAUSED, 1)
    before = hypervisor.machines.state(first.uuid)
    port = make_machine(first.image).network.ssh_port
    moved = first.model_copy(update={"network": first.network.model_copy(update={"ssh_port": port})})
    hypervisor.machines.ensure(moved, 1)
    assert hypervisor.machines.state(first.uuid) == before
    hypervisor.machines.power(first.uuid, Power.OFF, 1)
    hypervisor.machines.power(first.uuid, Power.ON_PAUSED, 1)
    second = made.new(port=first.network.ssh_port)
    hypervisor.machines.power(second.uuid, Power.ON_PAUSED, 1)  # the old port is free again


def test_removal(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    hypervisor.machines.power(machine.uuid, Power.ON_PAUSED, 1)
    for _ in range(2):
        hypervisor.machines.remove(machine.uuid, 1)
        with pytest.raises(NotFound):
            hypervisor.machines.state(machine.uuid)
    assert machine.uuid not in {s.uuid for s in hypervisor.machines.changes(0, 0).machines}
    other = made.new(port=machine.network.ssh_port)
    hypervisor.machines.power(other.uuid, Power.ON_PAUSED, 1)


def test_removing_what_is_not_there_succeeds(hypervisor: Hypervisor) -> None:
    hypervisor.machines.remove(uuid4(), 1)


def test_changes_tell_of_everything_at_once(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    change = hypervisor.machines.changes(0, 5)
    assert machine.uuid in {s.uuid for s in change.machines}


def test_changes_wait_as_long_as_nothing_happens(hypervisor: Hypervisor, made: Made) -> None:
    made.new()
    cursor = hypervisor.machines.changes(0, 0).cursor
    start = clock.monotonic()
    change = hypervisor.machines.changes(cursor, 0.4)
    assert 0.3 < clock.monotonic() - start < 3
    assert change.cursor == cursor


def test_changes_wake_up(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    cursor = hypervisor.machines.changes(0, 0).cursor
    start = clock.monotonic()
    starter = threading.Timer(0.2, hypervisor.machines.power, (machine.uuid, Power.ON_PAUSED, 1))
    starter.start()
    seen = set()
    while Phase.PAUSED not in seen and clock.monotonic() - start < 10:
        change = hypervisor.machines.changes(cursor, 10)
        cursor = change.cursor
        seen = {s.phase for s in change.machines if s.uuid == machine.uuid}
    starter.join()
    assert Phase.PAUSED in seen
    assert clock.monotonic() - start < 5


def test_readiness_says_what_it_waits_for(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    for power in (None, Power.ON_PAUSED):
        if power:
            hypervisor.machines.power(machine.uuid, power, 1)
        readiness = hypervisor.machines.readiness(machine.uuid)
        assert not readiness.ready
        assert readiness.waiting_for


def test_machines_survive_a_killed_host_process(harness: Harness, made: Made) -> None:
    running, paused, off = made.new(), made.new(), made.new()
    machines = harness.hypervisor.machines
    machines.power(running.uuid, Power.ON, 1)
    machines.power(paused.uuid, Power.ON_PAUSED, 1)
    machines.power(off.uuid, Power.ON_PAUSED, 1)
    machines.power(off.uuid, Power.OFF, 1)
    before = {m.uuid: machines.state(m.uuid) for m in (running, paused, off)}
    cursor = machines.changes(0, 0).cursor
    harness.restart()
    machines = harness.hypervisor.machines
    for uuid, state in before.items():
        after = until(lambda u=uuid: machines.state(u), lambda s, p=state.phase: s.phase is p)  # type: ignore[misc]
        assert (after.pid, after.since) == (state.pid, state.since)
    start = clock.monotonic()
    assert {s.uuid for s in machines.changes(cursor, 10).machines} >= set(before)
    assert clock.monotonic() - start < 3, "a cursor of the process before must be answered at once"
    machines.power(paused.uuid, Power.ON, 1)
    machines.power(running.uuid, Power.OFF, 1)
    assert machines.state(paused.uuid).phase is Phase.RUNNING
    assert machines.state(running.uuid).phase is Phase.OFF
