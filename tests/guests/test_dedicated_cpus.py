"""Real QEMUs whose CPUs have CPUs of the host for themselves, and those that keep away from these."""

import os
from collections.abc import Iterator

import pytest

from paddock.machine.spec import Machine, Power
from tests.guests.qemu_node import Node

pytestmark = pytest.mark.guest


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


def where(node: Node, machine: Machine) -> set[frozenset[int]]:
    """On which CPUs its threads may run."""
    return {frozenset(os.sched_getaffinity(int(t))) for t in os.listdir(f"/proc/{node.pid(machine)}/task")}


def vcpu(node: Node, machine: Machine) -> frozenset[int]:
    """On which its first CPU may."""
    found = node.host.machines.running(machine.uuid).execute("query-cpus-fast")
    return frozenset(os.sched_getaffinity(found[0]["thread-id"]))


def test_its_cpus_are_its_alone(node: Node) -> None:
    every = frozenset(os.sched_getaffinity(0))
    if len(every) < 2:
        pytest.skip("one CPU can't be divided")
    other = node.paused()
    assert where(node, other) == {every}
    machine = node.define(cpus=1, dedicated_cpus=True)
    node.host.machines.power(machine.uuid, Power.ON_PAUSED, 1)
    own = vcpu(node, machine)
    assert len(own) == 1
    shared = every - own
    assert where(node, machine) == {own, shared}
    assert where(node, other) == {shared}
    node.restart()
    late = node.paused()
    assert where(node, late) == {shared}
    assert vcpu(node, machine) == own
    node.host.machines.power(machine.uuid, Power.OFF, 1)
    assert where(node, other) == where(node, late) == {every}
