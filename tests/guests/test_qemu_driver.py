"""The QEMU driver with real QEMU processes: most of them paused, so that no guest has to boot."""

import contextlib
import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest

from paddock.base import clock
from paddock.base.errors import Conflict, DiskFull, Invalid, NotFound, PortTaken, Refused, Unavailable
from paddock.hypervisor.qemu import files, live, process, record, watch
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.hypervisor.qemu.guest_agent import GuestAgent
from paddock.hypervisor.qemu.identity import vm_identity
from paddock.machine.spec import MIB, Machine, Power
from paddock.machine.state import Phase
from tests.guests.qemu_node import Node, exists, until
from tests.hypervisor.qemu.machines import bring, make_machine
from tests.support_images import built_image

pytestmark = pytest.mark.guest


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


def test_a_life(node: Node) -> None:
    machines = node.host.machines
    machine = node.define()
    assert machines.state(machine.uuid).phase == Phase.DEFINED
    machines.power(machine.uuid, Power.ON_PAUSED, 1)
    machines.power(machine.uuid, Power.ON_PAUSED, 1)
    assert machines.state(machine.uuid).phase == Phase.PAUSED
    pid = node.pid(machine)
    machines.power(machine.uuid, Power.ON, 2)
    state = machines.state(machine.uuid)
    assert (state.phase, state.pid, state.epoch) == (Phase.RUNNING, pid, 2)
    machines.power(machine.uuid, Power.RESET, 2)
    machines.power(machine.uuid, Power.OFF, 2)
    machines.power(machine.uuid, Power.OFF, 2)
    state = machines.state(machine.uuid)
    assert (state.phase, state.reason, state.pid) == (Phase.OFF, "powered off", None)
    assert not exists(pid)
    machines.remove(machine.uuid, 2)
    machines.remove(machine.uuid, 2)
    assert not node.directory(machine).exists()
    with pytest.raises(NotFound):
        machines.state(machine.uuid)


def test_a_restarted_agent_finds_its_guests(node: Node) -> None:
    running, off = node.paused(), node.define()
    node.host.machines.power(running.uuid, Power.ON, 1)
    pid, since = node.pid(running), node.host.machines.state(running.uuid).since
    node.restart()
    state = node.host.machines.state(running.uuid)
    assert (state.phase, state.pid, state.since) == (Phase.RUNNING, pid, since)
    assert node.host.machines.state(off.uuid).phase == Phase.DEFINED
    node.host.machines.power(running.uuid, Power.OFF, 1)
    assert not exists(pid)


def test_a_guest_whose_record_was_lost_is_found_all_the_same(node: Node) -> None:
    """As when the agent was killed between starting QEMU and writing it down."""
    machine = node.paused()
    pid = node.pid(machine)
    node.host.close()
    (node.directory(machine) / "run.json").unlink()
    node.host = QemuHypervisor(node.state, "tcg")
    state = node.host.machines.state(machine.uuid)
    assert (state.phase, state.pid, state.accelerator) == (Phase.PAUSED, pid, "tcg")


def test_another_process_with_the_same_pid_is_not_taken_for_a_guest(node: Node) -> None:
    machine = node.paused()
    node.host.close()
    pid = int((record := node.directory(machine) / "run.json").read_text().split('"pid":')[1].split(",")[0])
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    record.write_text(record.read_text().replace(f'"pid":{pid}', f'"pid":{os.getpid()}'))
    node.host = QemuHypervisor(node.state, "tcg")
    state = node.host.machines.state(machine.uuid)
    assert state.phase == Phase.CRASHED
    assert "unknown" in state.reason


def test_a_killed_qemu_is_seen_at_once_and_can_start_again(node: Node) -> None:
    machine = node.paused()
    cursor = node.host.machines.changes(0, 0).cursor
    start = clock.monotonic()
    os.kill(pid := node.pid(machine), signal.SIGKILL)
    change = node.host.machines.changes(cursor, 5)
    assert clock.monotonic() - start < 1
    assert change.machines[0].phase == Phase.CRASHED
    assert "killed by signal 9" in change.machines[0].reason
    until(lambda: not exists(pid))  # no zombie
    node.host.machines.power(machine.uuid, Power.ON_PAUSED, 1)
    assert node.host.machines.state(machine.uuid).phase == Phase.PAUSED


def test_an_adopted_qemu_that_is_killed_is_seen(node: Node) -> None:
    machine = node.paused()
    node.restart()
    os.kill(node.pid(machine), signal.SIGKILL)
    until(lambda: node.host.machines.state(machine.uuid).phase == Phase.CRASHED, 2)


def test_a_stopped_agent_that_missed_a_power_off_does_not_call_it_a_crash(node: Node) -> None:
    machine = node.paused()
    held = node.host.machines.running(machine.uuid)
    record = node.directory(machine) / "run.json"
    node.host.machines.power(machine.uuid, Power.OFF, 1)
    assert held.process.gone()
    record.write_text('{"phase":"running","pid":1,"ending":"powered off"}')
    node.restart()
    state = node.host.machines.state(machine.uuid)
    assert (state.phase, state.reason) == (Phase.OFF, "powered off")


def test_why_it_ends_is_written_down_before_it_ends(node: Node) -> None:
    """So that an agent killed in between calls it no crash."""
    machine = node.paused()
    os.kill(pid := node.pid(machine), signal.SIGSTOP)
    off = threading.Thread(target=node.host.machines.power, args=(machine.uuid, Power.OFF, 1))
    off.start()
    try:
        until(lambda: '"ending":"powered off"' in (node.directory(machine) / "run.json").read_text(), 1)
        assert exists(pid)
    finally:
        os.kill(pid, signal.SIGCONT)
        off.join()


def test_a_hung_qemu_is_killed_at_power_off(node: Node) -> None:
    machine = node.paused()
    os.kill(pid := node.pid(machine), signal.SIGSTOP)
    node.host.machines.power(machine.uuid, Power.OFF, 1)
    assert not exists(pid)
    assert node.host.machines.state(machine.uuid).phase == Phase.OFF


def test_a_hung_qemu_is_shown_and_found_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EVERY", 0.1)
    machine = node.paused()
    pid = node.pid(machine)
    os.kill(pid, signal.SIGSTOP)
    try:
        node.restart()
        state = node.host.machines.state(machine.uuid)
        assert (state.phase, state.pid, state.reason) == (Phase.RUNNING, pid, live.SILENT)
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: node.host.machines.state(machine.uuid).phase == Phase.PAUSED)
    assert node.host.machines.state(machine.uuid).reason == ""


def test_a_taken_port(node: Node) -> None:
    machine = node.define()
    with socket.socket() as other:
        other.bind(("127.0.0.1", machine.network.ssh_port))
        other.listen()
        with pytest.raises(PortTaken):
            node.host.machines.power(machine.uuid, Power.ON, 1)
        assert node.host.machines.state(machine.uuid).phase in (Phase.DEFINED, Phase.OFF)
    node.host.machines.power(machine.uuid, Power.ON_PAUSED, 1)


def test_two_machines_on_one_port_at_once(node: Node) -> None:
    first = node.define()
    second = node.define(network=first.network)

    def on(machine: Machine) -> str:
        try:
            node.host.machines.power(machine.uuid, Power.ON_PAUSED, 1)
        except PortTaken:
            return "port taken"
        return "on"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(on, (first, second))) == ["on", "port taken"]


def test_a_qemu_that_dies_at_start_says_why(node: Node) -> None:
    machine = node.define(machine_type="pc-q35-99.9")
    with pytest.raises(Refused, match="unsupported machine type") as raised:
        node.host.machines.power(machine.uuid, Power.ON, 1)
    assert raised.value.hint
    state = node.host.machines.state(machine.uuid)
    assert state.phase == Phase.OFF
    assert "unsupported machine type" in state.reason


@pytest.mark.parametrize(("number", "raises"), [(errno.ENOSPC, DiskFull), (errno.EIO, Refused)])
def test_a_start_that_can_not_be_written_down_leaves_no_qemu(
    node: Node, monkeypatch: pytest.MonkeyPatch, number: int, raises: type[Refused]
) -> None:
    machine = node.define()

    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(record, "write_run", failing)
        with pytest.raises(raises) as raised:
            node.host.machines.power(machine.uuid, Power.ON_PAUSED, 1)
        assert type(raised.value) is raises
        assert not files.is_locked(node.directory(machine) / "lock")
        assert node.host.machines.state(machine.uuid).phase == Phase.OFF
        node.host.machines.power(machine.uuid, Power.OFF, 1)
    node.host.machines.power(machine.uuid, Power.ON_PAUSED, 1)


def test_power_off_ends_a_qemu_that_nobody_holds(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = node.paused()
    pid = node.pid(machine)
    node.host.close()

    def failing(*_: object) -> None:
        raise Unavailable("it could not be looked for")

    with monkeypatch.context() as patched:
        patched.setattr(process, "find", failing)
        node.host = QemuHypervisor(node.state, "tcg")
    node.host.machines.power(machine.uuid, Power.OFF, 1)
    assert not exists(pid)
    assert node.host.machines.state(machine.uuid).reason == "powered off"
    node.host.machines.power(machine.uuid, Power.ON_PAUSED, 1)


def test_a_socket_that_leads_elsewhere_is_refused(node: Node) -> None:
    machine = node.paused()
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(path := node.root / "agent"))
        agent.listen()
        for name in ("serial.sock", "vnc.sock", "agent.sock"):
            planted = node.directory(machine) / name
            planted.unlink()
            planted.symlink_to(path)
        for opened in (node.host.streams.console, node.host.streams.vnc):
            with pytest.raises(Refused, match="answers at"):
                anyio.run(opened, machine.uuid)
        guest = node.host.machines.running(machine.uuid).agent
        guest.let_go()  # it had connected before
        with pytest.raises(Refused, match="answers at"):
            guest.call("guest-ping", timeout=2)


def test_more_memory_than_the_host_could_ever_have(node: Node) -> None:
    machine = node.define(memory_mib=2**30)
    with pytest.raises(Refused):
        node.host.machines.power(machine.uuid, Power.ON, 1)


def test_without_qemu(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = node.define()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Refused, match="not installed"):
        node.host.machines.power(machine.uuid, Power.ON, 1)


def test_a_bad_address_is_refused_when_it_is_defined(node: Node) -> None:
    machine = make_machine(node.image)
    machine = machine.model_copy(update={"network": machine.network.model_copy(update={"mac": "x"})})
    node.host.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
    with pytest.raises(Invalid):
        node.host.machines.ensure(machine, 1)


def test_several_at_once(node: Node) -> None:
    defined = [node.define() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda m: node.host.machines.power(m.uuid, Power.ON_PAUSED, 1), defined))
    states = node.host.machines.changes(0, 0).machines
    assert {s.phase for s in states} == {Phase.PAUSED}
    assert len({s.pid for s in states}) == 4
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda m: node.host.machines.remove(m.uuid, 1), defined))
    assert not node.host.machines.changes(0, 0).machines


def test_the_same_machine_started_by_many(node: Node) -> None:
    machine = node.define()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: node.host.machines.power(machine.uuid, Power.ON_PAUSED, 1), range(4)))
    assert str(node.pid(machine)) == (node.directory(machine) / "run.json").read_text().split('"pid":')[1].split(",")[0]


def test_removing_a_running_machine_and_half_made_ones(node: Node) -> None:
    machine = node.paused()
    pid = node.pid(machine)
    node.host.machines.remove(machine.uuid, 1)
    assert not exists(pid)
    half = node.define()
    (node.directory(half) / "spec.json").unlink()
    node.restart()
    node.host.machines.remove(half.uuid, 1)
    assert os.listdir(node.state / "machines") == []


def test_removing_a_machine_whose_definition_is_unreadable_ends_its_qemu(node: Node) -> None:
    machine = node.paused()
    pid = node.pid(machine)
    (node.directory(machine) / "spec.json").write_text('{"spec_version": 99}')
    node.restart()
    node.host.machines.remove(machine.uuid, 1)
    assert not exists(pid)
    assert not node.directory(machine).exists()


def test_a_disk_does_not_grow_under_a_running_guest(node: Node) -> None:
    machine = node.paused()
    larger = machine.system_disk.model_copy(update={"size": 64 * MIB})
    with pytest.raises(Conflict, match="while the machine runs"):
        node.host.disks.ensure_disk(machine.uuid, larger, 1)
    node.host.machines.power(machine.uuid, Power.OFF, 1)
    node.host.disks.ensure_disk(machine.uuid, larger, 1)


@pytest.mark.skipif(vm_identity() is None, reason="takes root and a user paddock-vm")
def test_qemu_has_no_privileges(node: Node) -> None:
    machine = node.paused()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{node.pid(machine)}/status").read_text().splitlines())
    identity = vm_identity()
    assert identity
    assert set(status["Uid"].split()) == {str(identity.uid)}
    assert set(status["Gid"].split()) == {str(identity.gid)}
    assert "0" not in status["Groups"].split()
    assert int(status["CapEff"], 16) == 0
    assert status["Seccomp"].strip() == "2"
    mode = node.directory(machine).stat()
    assert (mode.st_uid, mode.st_mode & 0o7777) == (0, 0o1770)  # sticky: it can't replace spec.json
    assert (node.directory(machine) / "spec.json").stat().st_mode & 0o777 == 0o600


def test_what_a_guests_qemu_plants_is_not_followed(node: Node) -> None:
    machine = node.define()
    log = node.directory(machine) / "serial.log"
    log.symlink_to("/etc/passwd")
    assert node.host.streams.console_log(machine.uuid, 100) == ""
    log.unlink()
    os.mkfifo(log)
    assert node.host.streams.console_log(machine.uuid, 100) == ""


def test_the_serial_log_is_cut_while_somebody_appends(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    with log.open("ab", buffering=0) as writer:
        for n in range(5000):
            writer.write(b"%08d\n" % n)
        assert files.cut(log, 10_000, 900) == 45_000 - 900
        writer.write(b"after\n")
    assert log.read_bytes().startswith(b"00004900\n")
    assert log.read_bytes().endswith(b"00004999\nafter\n")
    assert files.cut(log, 10_000, 900) == 0


def test_vnc_and_console_answer(node: Node) -> None:
    machine = node.paused()

    async def look() -> None:
        async with await node.host.streams.vnc(machine.uuid) as screen:
            assert (await screen.receive()).startswith(b"RFB ")
        async with await node.host.streams.console(machine.uuid):
            await anyio.sleep(0.1)
            with pytest.raises(Conflict, match="somebody else"):
                await node.host.streams.console(machine.uuid)

    anyio.run(look)


def test_changes_wait_for_news(node: Node) -> None:
    machine = node.define()
    cursor = node.host.machines.changes(0, 0).cursor
    start = clock.monotonic()
    assert node.host.machines.changes(cursor, 0.2).cursor == cursor
    assert clock.monotonic() - start >= 0.2
    timer = threading.Timer(0.1, lambda: node.host.machines.power(machine.uuid, Power.ON_PAUSED, 1))
    timer.start()
    assert node.host.machines.changes(cursor, 5).machines[0].phase == Phase.PAUSED
    timer.join()


def test_readiness_never_takes_long(node: Node) -> None:
    machine = node.define()
    assert "power" in node.host.machines.readiness(machine.uuid).waiting_for
    node.host.machines.power(machine.uuid, Power.ON, 1)
    start = clock.monotonic()
    readiness = node.host.machines.readiness(machine.uuid)
    assert clock.monotonic() - start < 2.5
    assert not readiness.ready
    assert f"SSH on port {machine.network.ssh_port}" in readiness.waiting_for


def woken_in_three_seconds(node: Node, machine: Machine) -> int:
    """How often its guest agent is while we say nothing to it: ten times a second where nobody is connected."""
    agent = node.host.machines.running(machine.uuid).agent
    count = "sed -n 's/^voluntary_ctxt_switches://p' /proc/$(pidof qemu-ga)/status"
    script = f"rm -f /run/woken; was=$({count}); sleep 3; echo $(($({count}) - was)) > /run/woken"
    agent.launch(("/bin/sh", "-c", script), "", 10)
    clock.sleep(3.5)
    until(lambda: bool(agent.read_file("/run/woken", 10)), 30)
    return int(agent.read_file("/run/woken", 10) or "")


def answer_nobody(agent: GuestAgent) -> None:
    """It answers when we have given up, and would try to for as long as nobody is connected."""
    slow = "p=$(command -v chpasswd); rm $p; printf '#!/bin/sh\\nsleep 2\\n' > $p; chmod 755 $p"
    assert agent.exec(("/bin/sh", "-c", slow), "", 10).exit_code == 0
    with pytest.raises(Unavailable):
        agent.set_password("root", "$6$salt$hash", 0.5)
    clock.sleep(4)


def cpu_seconds(pid: int) -> float:
    times = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def test_a_real_guest(node: Node) -> None:
    """`tiny`: boots, is ready by what it shows, obeys its guest agent, restarts, and switches itself off."""
    built = built_image("tiny")
    assert bring(node.host, built.manifest, built.directory).done
    machine = node.define(built.manifest, memory_mib=128)
    machines, uuid = node.host.machines, machine.uuid
    machines.power(uuid, Power.ON, 1)
    until(lambda: machines.readiness(uuid).ready, 60)
    until(lambda: {"ssh", "agent"} <= set(machines.readiness(uuid).by), 30)
    result = node.host.guest.exec(uuid, ("hostname",), "", 10)
    assert (result.exit_code, result.stdout.strip()) == (0, "web-1")
    assert "Linux version" in node.host.streams.console_log(uuid, 64 * 1024)
    assert woken_in_three_seconds(node, machine) < 15
    pid = node.pid(machine)
    answer_nobody(machines.running(uuid).agent)
    spent = cpu_seconds(pid)
    clock.sleep(3)
    assert cpu_seconds(pid) - spent < 1
    node.restart()
    machines = node.host.machines
    assert woken_in_three_seconds(node, machine) < 15
    assert machines.readiness(uuid).ready
    machines.power(uuid, Power.REBOOT, 1)
    until(lambda: not machines.readiness(uuid).ready, 30)
    until(lambda: "agent" in machines.readiness(uuid).by, 60)
    assert node.pid(machine) == pid
    machines.power(uuid, Power.SHUTDOWN, 1)
    until(lambda: machines.state(uuid).phase == Phase.OFF, 40)
    assert machines.state(uuid).reason == "the guest shut itself down"
    with contextlib.suppress(ProcessLookupError):
        until(lambda: not exists(pid), 5)
