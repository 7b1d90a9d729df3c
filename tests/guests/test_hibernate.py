"""Hibernation with real QEMUs: a guest of `tiny` that goes on, and every way in which its memory can be no good."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from paddock.base import clock
from paddock.base.errors import DiskFull
from paddock.hypervisor.qemu import copies, hibernate, media
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.machine.spec import MIB, Attached, Machine, Power, Volume
from paddock.machine.state import MachineState, Phase, Progress
from tests.guests.qemu_node import Node, exists, until
from tests.guests.test_qemu_hot import Running

pytestmark = pytest.mark.guest

SLOW = 200_000  # bytes per second: a machine without a system takes seconds then


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


def ask(node: Node, machine: Machine) -> Progress:
    return node.host.machines.hibernate(machine.uuid, 1)


def hibernated(node: Node, machine: Machine) -> Path:
    """Returns the file of its memory."""
    told = Progress(done=False)
    end = clock.monotonic() + 60
    while not told.done:
        told = ask(node, machine)
        assert told.error == ""
        assert clock.monotonic() < end, told
    assert node.host.machines.state(machine.uuid).phase is Phase.HIBERNATED
    return node.directory(machine) / "memory.state"


def woken(node: Node, machine: Machine) -> MachineState:
    node.host.machines.power(machine.uuid, Power.ON, 1)
    state = node.host.machines.state(machine.uuid)
    assert state.phase is Phase.RUNNING
    assert left(node, machine) == set()
    return state


def left(node: Node, machine: Machine) -> set[str]:
    """What lies there of its memory."""
    return {name for name in os.listdir(node.directory(machine)) if "memory" in name}


@pytest.mark.slow
def test_a_guest_goes_on_with_what_it_was_doing(node: Node) -> None:
    guest = Running(node, kernel_args="paddock.said=so")
    assert "paddock.said=so" in guest.sh("cat /proc/cmdline")
    count = "n=0; while :; do n=$((n+1)); echo $n >/tmp/count; sleep 0.1; done"
    guest.sh(f"setsid sh -c '{count}' >/dev/null 2>&1 & echo $! >/tmp/pid; sleep 1")
    before = guest.sh("cat /proc/sys/kernel/random/boot_id /tmp/pid"), int(guest.sh("cat /tmp/count"))
    pid = node.pid(guest.machine)
    memory = hibernated(node, guest.machine)
    assert not exists(pid)
    assert memory.stat().st_mode & 0o777 == 0o600
    clock.sleep(8)
    node.restart()
    assert woken(node, guest.machine).cold_start == ""
    guest.wait()
    guest.sh("kill -0 $(cat /tmp/pid)")
    assert guest.sh("cat /proc/sys/kernel/random/boot_id /tmp/pid") == before[0]
    assert int(guest.sh("cat /tmp/count")) > before[1]
    until(lambda: abs(int(guest.sh("date +%s")) - clock.now().timestamp()) < 3)
    guest.sh("echo its disk works >/root/said; sync")
    memory = hibernated(node, guest.machine)
    memory.write_bytes(memory.read_bytes()[:-1] + b"x")
    assert "its memory is damaged" in woken(node, guest.machine).cold_start
    guest.wait()
    assert guest.sh("cat /proc/sys/kernel/random/boot_id /root/said").splitlines()[1] == "its disk works"
    assert guest.sh("cat /proc/sys/kernel/random/boot_id") not in before[0]


def other(memory: Path, **changes: object) -> None:
    """Change what is known of it."""
    path = memory.with_name("memory.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda m: os.truncate(m, 1000), "damaged: the file has 1000 bytes"),
        (lambda m: m.unlink(), "can't be read"),
        (lambda m: m.with_name("memory.json").write_text("{"), "missing or damaged"),
        (lambda m: other(m, qemu="5.2.0"), "written by QEMU 5.2.0"),
        (lambda m: other(m, accelerator="kvm"), "written under kvm"),
        (lambda m: os.utime(m.with_name("system.qcow2")), "disk system was changed"),
    ],
)
def test_what_can_not_be_gone_on_with_is_started_anew(node: Node, harm: object, says: str) -> None:
    machine = node.paused()
    memory = hibernated(node, machine)
    harm(memory)  # type: ignore[operator]
    state = woken(node, machine)
    assert says in state.cold_start
    node.host.machines.power(machine.uuid, Power.OFF, 1)
    assert woken(node, machine).cold_start == ""


def test_what_qemu_does_not_take_is_started_anew(node: Node) -> None:
    """A file that is as it was written, and still says nothing to this QEMU."""
    machine = node.paused()
    memory = hibernated(node, machine)
    size, found = 4096, "ad7facb2586fc6e966c004d7d1d16b024f5805ff7cb47c7a85dabd8b48892ca7"
    memory.write_bytes(bytes(size))
    other(memory, size=size, sha256=found)
    assert "QEMU does not take its memory" in woken(node, machine).cold_start


def test_too_little_room_is_said_before_it_is_held_up(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = node.paused()
    node.host.machines.power(machine.uuid, Power.ON, 1)
    monkeypatch.setattr(copies, "RESERVE", 1 << 60)
    with pytest.raises(DiskFull):
        ask(node, machine)
    assert node.host.machines.state(machine.uuid).phase is Phase.RUNNING
    assert left(node, machine) == set()


def test_a_disk_that_fills_up_on_the_way(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system of our own takes root")
    small = node.root / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=755", "tmpfs", str(small)], check=True)
    outer, node.host, node.state = (node.host, node.state), QemuHypervisor(small / "state", "tcg"), small / "state"
    try:
        node.host.disks.ensure_image(node.image, str(node.root / "source"))
        until(lambda: node.host.disks.ensure_image(node.image, str(node.root / "source")).done)
        machine = node.paused()
        node.host.machines.power(machine.uuid, Power.ON, 1)
        monkeypatch.setattr(copies, "check_room", lambda *_: None)  # others were quicker to fill it
        free = os.statvfs(small)
        (small / "others").write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - 200_000)))
        with pytest.raises(DiskFull):
            hibernated(node, machine)
        assert node.host.machines.state(machine.uuid).phase is Phase.RUNNING
        assert left(node, machine) == set()
        node.host.machines.remove(machine.uuid, 9)
        node.host.close()
    finally:
        node.host, node.state = outer
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_an_agent_that_dies_on_the_way(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = node.paused()
    monkeypatch.setattr(hibernate, "FAST", SLOW)
    assert not ask(node, machine).done
    node.restart()
    pid = node.pid(machine)
    hibernated(node, machine)
    assert not exists(pid)
    assert woken(node, machine).cold_start == ""


@pytest.mark.parametrize("restart", [False, True])
def test_who_is_to_run_again_meanwhile_does(node: Node, monkeypatch: pytest.MonkeyPatch, restart: bool) -> None:
    machine = node.paused()
    monkeypatch.setattr(hibernate, "FAST", SLOW)
    assert not ask(node, machine).done
    pid = node.pid(machine)
    if restart:
        node.restart()
    woken(node, machine)
    assert node.pid(machine) == pid
    monkeypatch.undo()
    hibernated(node, machine)
    assert woken(node, machine).cold_start == ""


def test_volumes_keep_their_places_on_the_bus(node: Node) -> None:
    """Where they are named in another order than they were plugged in."""
    volumes = [Volume(uuid=uuid4(), size=8 * MIB) for _ in range(3)]
    for volume in volumes:
        node.host.volumes.ensure_volume(volume, 1)
    named = [Attached(volume=v.uuid, serial=str(n)) for n, v in enumerate(volumes)]
    machine = node.define(layout=2, volumes=(named[0], named[1]))
    node.host.machines.power(machine.uuid, Power.ON_PAUSED, 1)
    node.host.machines.ensure(machine.model_copy(update={"volumes": (named[1], named[2])}), 1)
    assert node.host.machines.adapt(machine.uuid, 1).pending == ()
    before = media.places(node.host.machines.running(machine.uuid))
    hibernated(node, machine)
    assert woken(node, machine).cold_start == ""
    assert media.places(node.host.machines.running(machine.uuid)) == before


def test_whose_end_nobody_asked_for(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came of the last time is not taken for what comes of this one."""
    machine = node.paused()
    monkeypatch.setattr(hibernate, "PATIENCE", 0)
    for _ in range(2):
        hibernated(node, machine)
        assert woken(node, machine).cold_start == ""


def test_who_is_powered_off_meanwhile_is_off(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = node.paused()
    monkeypatch.setattr(hibernate, "FAST", SLOW)
    assert not ask(node, machine).done
    node.host.machines.power(machine.uuid, Power.OFF, 1)
    assert node.host.machines.state(machine.uuid).phase is Phase.OFF
    assert left(node, machine) == set()
    assert woken(node, machine).cold_start == ""


def test_a_qemu_that_dies_meanwhile_has_crashed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = node.paused()
    monkeypatch.setattr(hibernate, "FAST", SLOW)
    assert not ask(node, machine).done
    os.kill(node.pid(machine), 9)
    until(lambda: node.host.machines.state(machine.uuid).phase is Phase.CRASHED)
    until(lambda: left(node, machine) == set())


def test_a_port_that_is_taken_keeps_its_memory(node: Node) -> None:
    """What stands in the way now may be gone later."""
    first = node.paused()
    hibernated(node, first)
    second = node.define(network=first.network)
    node.host.machines.power(second.uuid, Power.ON_PAUSED, 1)
    with pytest.raises(Exception, match="in use"):
        node.host.machines.power(first.uuid, Power.ON, 1)
    assert node.host.machines.state(first.uuid).phase is Phase.HIBERNATED
    node.host.machines.power(second.uuid, Power.OFF, 1)
    assert woken(node, first).cold_start == ""
