"""Metrics and passwords: what is known of a guest, and what it is told."""

from uuid import uuid4

import pytest

from paddock.base import clock
from paddock.base.errors import Conflict, Invalid, NotFound, Unavailable
from paddock.hypervisor.base import Hypervisor
from paddock.machine.spec import Power
from tests.contract.conftest import Made
from tests.contract.harness import Harness

NAMES = {
    "cpu", "disk.0.iops.read", "disk.0.iops.write", "disk.0.bandwidth.read", "disk.0.bandwidth.write",
    "network.0.pps.in", "network.0.pps.out", "network.0.bandwidth.in", "network.0.bandwidth.out",
}  # fmt: skip
HASH = "$6$saltsalt$" + "a" * 86


def test_machine_that_is_not_there(hypervisor: Hypervisor) -> None:
    now = clock.now().timestamp()
    with pytest.raises(NotFound):
        hypervisor.machines.metrics(uuid4(), now - 60, now, 0)
    with pytest.raises(NotFound):
        hypervisor.guest.set_password(uuid4(), "root", HASH)


def test_nothing_is_known_before_it_ran(hypervisor: Hypervisor, made: Made) -> None:
    now = clock.now().timestamp()
    metrics = hypervisor.machines.metrics(made.new().uuid, now - 3600, now, 0)
    assert {s.name for s in metrics.series} == NAMES
    assert not any(s.values for s in metrics.series)


@pytest.mark.parametrize(("back", "step"), [(60.0, 0.0), (3600.0, 60.0), (30 * 86400.0, 0.0)])
def test_lines_are_in_order_and_short(hypervisor: Hypervisor, made: Made, back: float, step: float) -> None:
    machine = made.new()
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    now = clock.now().timestamp()
    metrics = hypervisor.machines.metrics(machine.uuid, now - back, now, step)
    assert metrics.step >= max(step, back / 500)
    for series in metrics.series:
        times = [time for time, _ in series.values]
        assert times == sorted(times)
        assert len(times) <= 500
        assert all(now - back <= time <= now + 1 for time in times)
        assert all(value >= 0 for _, value in series.values)


def test_no_password_for_a_machine_that_is_off(hypervisor: Hypervisor, made: Made) -> None:
    with pytest.raises(Conflict):
        hypervisor.guest.set_password(made.new().uuid, "root", HASH)


def test_password_needs_a_guest_agent(harness: Harness, made: Made) -> None:
    machine, guest = made.new(), harness.hypervisor.guest
    harness.hypervisor.machines.power(machine.uuid, Power.ON, 1)
    if not harness.real:
        guest.set_password(machine.uuid, "root", HASH)
        return
    with pytest.raises(Unavailable):
        guest.set_password(machine.uuid, "root", HASH)


# Only what comes over the wire is checked.
@pytest.mark.parametrize("shared", ["agent-fake"], indirect=True)
def test_password_that_breaks_a_line(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    for user, text in (("root\n", HASH), ("root", "a:b"), ("root", "a\nb"), ("", HASH), ("root", "")):
        with pytest.raises(Invalid):
            hypervisor.guest.set_password(machine.uuid, user, text)
