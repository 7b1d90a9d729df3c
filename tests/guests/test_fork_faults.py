"""Forks of real guests that go wrong: the parent runs on whatever happens, a child never boots instead, and nothing is
left of either."""

import os
import signal
import subprocess
import sys

import pytest

from paddock.base.errors import Conflict, DiskFull, PaddockError, Refused
from paddock.hypervisor.qemu import copies, files
from paddock.hypervisor.qemu.fork import guest, make, switch
from paddock.hypervisor.qemu.fork import point as points
from paddock.hypervisor.qemu.fork import start as fork_start
from paddock.hypervisor.qemu.readiness import ssh_banner
from paddock.machine.spec import MIB, Machine, Power
from paddock.machine.state import Phase
from paddock.machine.warm import Start
from tests.guests.qemu_node import until
from tests.guests.test_fork import Forks, forks, shared  # noqa: F401  # the fixtures

pytestmark = [pytest.mark.guest, pytest.mark.slow]


DIED = 9
# A node agent that ends at once when it is to begin that step, of a fork and of a child.
DIES = f"""
import os, sys
from pathlib import Path
from uuid import UUID, uuid4
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.hypervisor.qemu.fork import guest, point, start, switch
from paddock.machine.spec import Power
places = {{
    "mirror": (switch.Switch, "mirror"), "write": (switch.Switch, "cross"), "cross": (switch, "_go_on"),
    "keep": (point, "keep"), "restore": (start, "restore"), "wake": (start, "wake"), "told": (guest, "tell"),
}}
setattr(*places[sys.argv[3]], lambda *_: os._exit({DIED}))
host, machine, fork = QemuHypervisor(Path(sys.argv[1]), "tcg", "never"), UUID(sys.argv[2]), uuid4()
while True:
"""
FORKS_AND_DIES = f"{DIES}    host.machines.fork(machine, fork, 1)\n"
BEGINS_AND_DIES = f"{DIES}    host.machines.power(machine, Power.ON, 1)\n"


def died(forks: Forks, script: str, machine: Machine, where: str) -> bool:  # noqa: F811
    words = [sys.executable, "-c", script, str(forks.node.state), str(machine.uuid), where]
    return subprocess.run(words, timeout=60, check=False).returncode == DIED


def nothing_left(forks: Forks, machine: Machine) -> None:  # noqa: F811
    """Of a fork in its QEMU, its directory and its node."""
    live = forks.node.host.machines.running(machine.uuid)
    assert switch.find_job(live) is None
    said = {c["capability"]: c["state"] for c in live.execute("query-migrate-capabilities")}
    assert not said["pause-before-switchover"]
    assert not said["events"]
    nodes = {node["node-name"] for node in live.execute("query-named-block-nodes", {"flat": True})}
    assert switch.NODE not in nodes
    assert not make.note(live.directory).exists()
    assert not list(forks.layout.warm.glob(".fork-*"))


class Halted(Exception):
    """The node agent's process ends here."""


@pytest.mark.parametrize("where", ["mirror", "write", "cross", "keep"])
def test_a_node_agent_that_ends_in_the_middle(forks: Forks, where: str) -> None:  # noqa: F811
    """Whatever it had begun, also while the guest stood still: its successor has the parent go on, as if nothing had
    been."""
    parent = forks.parent()
    forks.node.host.close()
    assert died(forks, FORKS_AND_DIES, parent, where)
    forks.node.restart()
    until(lambda: not make.note(forks.node.host.machines.directory(parent.uuid)).exists(), 20)
    assert forks.counts_on(parent)
    nothing_left(forks, parent)
    again, _ = forks.fork(parent)
    assert forks.counts_on(forks.child(parent, again, "child"))
    forks.drop(again)


def test_no_room(forks: Forks, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Neither before nor while the memory is written."""
    parent = forks.parent()
    with monkeypatch.context() as full:
        full.setattr(copies, "RESERVE", 2**60)
        with pytest.raises(DiskFull):
            forks.fork(parent)
    nothing_left(forks, parent)
    with monkeypatch.context() as full:
        full.setattr(files, "create", lambda _: os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC))
        with pytest.raises(Refused, match="could not write its memory"):
            forks.fork(parent)
    nothing_left(forks, parent)
    assert forks.counts_on(parent)


def test_its_qemu_is_killed_in_the_middle(forks: Forks, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    parent = forks.parent()
    cross = switch.Switch.cross

    def kill(self: switch.Switch) -> float:
        os.kill(forks.node.pid(parent), signal.SIGKILL)
        return cross(self)

    monkeypatch.setattr(switch.Switch, "cross", kill)
    with pytest.raises(PaddockError, match=r"ended while it was forked|is crashed"):
        forks.fork(parent)
    monkeypatch.undo()
    until(lambda: forks.phase(parent) is Phase.CRASHED)
    assert not list(forks.layout.warm.glob("*fork-*"))
    forks.on(parent)
    assert forks.sh(parent, "cat /root/told").startswith("before"), "its disk is sound"
    point, _ = forks.fork(parent)
    forks.drop(point)


def test_a_guest_that_writes_faster_than_the_disk(forks: Forks, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """It is forked all the same, after it was given longer and longer."""
    monkeypatch.setattr(switch, "LIMITS", ((0.0, 1), (0.5, 2), (1.0, 2_000_000)))
    monkeypatch.setattr(switch, "FAST", 20 * MIB)
    parent = forks.parent()
    forks.sh(parent, "(while :; do dd if=/dev/zero of=/tmp/busy bs=1M count=40; done) > /dev/null 2>&1 &")
    point, fork = forks.fork(parent)
    assert fork.paused_ms > 1
    assert forks.counts_on(parent)
    child = forks.child(parent, point, "child")
    assert forks.counts_on(child)
    forks.drop(point)


@pytest.mark.parametrize("part", ["memory", "identity"])
def test_a_child_that_can_not_begin(forks: Forks, monkeypatch: pytest.MonkeyPatch, part: str) -> None:  # noqa: F811
    """It is off and never boots; parent and siblings know nothing of it; and it may be tried again."""
    parent = forks.parent()
    point, _ = forks.fork(parent)
    child, machines = forks.define(parent, point, "child"), forks.node.host.machines
    if part == "memory":
        memory = points.directory(forks.layout, point).root / points.MEMORY
        whole = memory.read_bytes()
        memory.write_bytes(whole[:MIB] + b"\xff" * (len(whole) - MIB))
    else:
        monkeypatch.setattr(guest, "identity", lambda *_: "00" * 64 + "\nmac 52:54:00:aa:bb:cc\nwas_mac no\n")
    for _ in range(2):
        with pytest.raises(Refused):
            machines.power(child.uuid, Power.ON, 1)
        assert machines.state(child.uuid).phase is Phase.OFF
        assert machines.state(child.uuid).reason
        assert not ssh_banner(child.network.ssh_address, child.network.ssh_port, 0.5)
        assert not fork_start.note(machines.directory(child.uuid)).exists()
    monkeypatch.undo()
    if part == "memory":
        memory.write_bytes(whole)
    assert machines.power(child.uuid, Power.ON, 1).began == Start(fork=True)
    assert forks.counts_on(child)
    assert forks.counts_on(parent)
    forks.drop(point)
    late = forks.define(parent, point, "late")
    with pytest.raises(Refused, match="not there any more"):
        machines.power(late.uuid, Power.ON, 1)


@pytest.mark.parametrize("where", ["restore", "wake", "told"])
def test_a_node_agent_that_ends_while_a_child_begins(forks: Forks, where: str) -> None:  # noqa: F811
    """Who is nobody yet never goes on: it is off, and begins when it is asked for again."""
    parent = forks.parent()
    point, _ = forks.fork(parent)
    child = forks.define(parent, point, "child")
    forks.node.host.close()
    assert died(forks, BEGINS_AND_DIES, child, where)
    forks.node.restart()
    assert forks.phase(child) is Phase.OFF
    assert "began as a fork" in forks.node.host.machines.state(child.uuid).reason
    assert forks.node.host.machines.power(child.uuid, Power.ON, 1).began.fork
    assert forks.counts_on(child)
    forks.drop(point)


def test_it_is_never_reached_as_its_parent(forks: Forks, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Before it is somebody of its own nobody gets a word out of it over the network."""
    parent = forks.parent()
    point, _ = forks.fork(parent)
    child, tell, heard = forks.define(parent, point, "child"), guest.tell, []

    def looked(*arguments: object) -> None:
        for _ in range(3):
            heard.append(ssh_banner(child.network.ssh_address, child.network.ssh_port, 1.0))
        tell(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(guest, "tell", looked)
    forks.node.host.machines.power(child.uuid, Power.ON, 1)
    assert heard == [False] * 3
    until(lambda: ssh_banner(child.network.ssh_address, child.network.ssh_port, 1.0), 30)
    forks.drop(point)


def test_what_can_not_be_forked(forks: Forks) -> None:  # noqa: F811
    machines = forks.node.host.machines
    parent = forks.parent(memory_mib=256, max_memory_mib=512)
    machines.power(parent.uuid, Power.PAUSE, 1)
    with pytest.raises(Conflict, match="does not run"):
        forks.fork(parent)
    machines.power(parent.uuid, Power.RESUME, 1)
    forks.sh(parent, "mv /usr/bin/perl /usr/bin/lrep")
    with pytest.raises(Refused, match="neither perl nor python3"):
        forks.fork(parent)
    forks.sh(parent, "mv /usr/bin/lrep /usr/bin/perl")
    machines.ensure(parent.model_copy(update={"cpus": 2}), 1)
    machines.adapt(parent.uuid, 1)
    with pytest.raises(Conflict, match="added to it"):
        forks.fork(parent)
    nothing_left(forks, parent)
    forks.off(parent)
    with pytest.raises(Conflict, match="start it first"):
        forks.fork(parent)
