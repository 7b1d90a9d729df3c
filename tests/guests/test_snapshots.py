"""Snapshots of machines that run: one moment of the disk, held still where the guest can, and never a frozen guest."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from paddock.base import clock, run
from paddock.base.errors import DiskFull, Refused, Unavailable
from paddock.hypervisor.qemu import copies, freeze, metrics
from paddock.hypervisor.qemu import snapshot as snapshots
from paddock.hypervisor.qemu.copies import Copy
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.hypervisor.qemu.guest_agent import GuestAgent
from paddock.hypervisor.qemu.live import Live
from paddock.machine.image import ImageManifest
from paddock.machine.spec import GIB, Machine, Power
from paddock.machine.state import Snapshot
from tests.hypervisor.qemu.machines import bring, free_port, make_image, make_machine
from tests.support_images import built_image

pytestmark = [pytest.mark.guest, pytest.mark.slow]


class Node:
    """A driver, and one machine on it."""

    def __init__(self, image: ImageManifest | None = None, source: Path | None = None) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="pk-snap-"))
        self.root.chmod(0o755)
        self.host = QemuHypervisor(self.root / "state", "tcg")
        source = source or self.root / "source"
        image = image or make_image(source)
        assert bring(self.host, image, source).done
        self.machine: Machine = make_machine(image, port=free_port()).model_copy(update={"memory_mib": 256})
        self.uuid = self.machine.uuid
        self.host.disks.ensure_disk(self.uuid, self.machine.system_disk, 1)
        self.host.machines.ensure(self.machine, 1)
        self.directory = self.root / "state/machines" / str(self.uuid)
        self.target = self.root / "target"

    def restart(self) -> None:
        self.host.close()
        self.host = QemuHypervisor(self.root / "state", "tcg")

    def ask(self, snapshot: UUID) -> Snapshot:
        return self.host.disks.snapshot(self.uuid, snapshot, str(self.target), 1)

    def finished(self, snapshot: UUID) -> Snapshot:
        told = until(lambda: (t := self.ask(snapshot)) and (t.done or t.error) and t, 60)
        assert isinstance(told, Snapshot)
        return told

    def sh(self, script: str) -> str:
        done = self.host.guest.exec(self.uuid, ("/bin/sh", "-c", script), "", 20)
        assert done.exit_code == 0, done
        return done.stdout.strip()

    def left(self) -> set[str]:
        return {f.name for f in self.directory.iterdir() if "snapshot" in f.name and f.suffix != ".json"}

    def jobs(self) -> object:
        return self.host.machines.running(self.uuid).execute("query-jobs")

    def close(self) -> None:
        try:
            self.host.machines.remove(self.uuid, 99)
            self.host.close()
        finally:
            shutil.rmtree(self.root)


def until(look: Callable[[], object], seconds: float = 20) -> object:
    deadline = clock.monotonic() + seconds
    while not (found := look()):
        assert clock.monotonic() < deadline, "it did not come in time"
        clock.sleep(0.05)
    return found


@pytest.fixture
def paused() -> Iterator[Node]:
    """A machine whose guest does not run, with a large disk."""
    node = Node()
    disk = node.machine.system_disk.model_copy(update={"size": 4 * GIB})
    node.host.disks.ensure_disk(node.uuid, disk, 1)
    command = "write -q -P 7 1M 512M"
    run.run(["qemu-io", "-f", "qcow2", "-c", command, "system.qcow2"], cwd=node.directory, timeout=120)
    node.host.machines.power(node.uuid, Power.ON_PAUSED, 1)
    yield node
    node.close()


@pytest.fixture(scope="module")
def tiny() -> Iterator[Node]:
    built = built_image("tiny")
    node = Node(built.manifest, built.directory)
    node.host.machines.power(node.uuid, Power.ON, 1)
    until(lambda: "agent" in node.host.machines.readiness(node.uuid).by, 120)
    yield node
    node.close()


def _slow_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job starts at a MiB/s, so that a test can look at it in the middle."""

    def begin(copy: copies.Copy, live: object) -> None:
        live.execute(  # type: ignore[attr-defined]
            "blockdev-backup",
            {"job-id": copy.name, "device": "system", "target": copy.node, "sync": "full", "speed": 1 << 20,
             "auto-dismiss": False},
        )  # fmt: skip

    monkeypatch.setattr(copies, "begin", begin)


def test_a_paused_machine_is_copied_and_not_frozen(paused: Node) -> None:
    told = paused.finished(uuid4())
    assert (told.done, told.frozen, told.not_frozen) == (True, False, "the guest is paused")
    check = run.run(["qemu-io", "-f", "qcow2", "-c", "read -P 7 1M 512M", paused.target], timeout=120)
    assert "failed" not in check.stdout.lower()
    assert paused.left() == set()
    assert paused.jobs() == []
    assert "backing file" not in run.run(["qemu-img", "info", paused.target]).stdout
    run.run(["qemu-img", "check", paused.target])


def test_the_copy_goes_on_without_a_node_agent(paused: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    _slow_from_the_start(monkeypatch)
    snapshot = uuid4()
    first = until(lambda: (t := paused.ask(snapshot)).bytes_done and t)
    assert isinstance(first, Snapshot)
    assert not first.done
    paused.restart()
    execute = paused.host.machines.running(paused.uuid).execute
    execute("block-job-set-speed", {"device": f"snapshot-{snapshot}", "speed": 0})
    told = paused.finished(snapshot)
    assert (told.done, told.not_frozen) == (True, "the guest is paused")
    assert paused.jobs() == []


def test_a_node_agent_that_dies_when_the_copy_is_closed(paused: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU has closed the copy, and the record does not say so yet."""
    id, write = uuid4(), snapshots._Work._write

    def die(work: snapshots._Work, **changes: object) -> None:
        if "copied" in changes:
            raise Unavailable("it died")
        write(work, **changes)

    with monkeypatch.context() as dies:
        dies.setattr(snapshots._Work, "_write", die)
        dies.setattr(snapshots, "give_up", lambda *_: None)
        until(lambda: "died" in paused.ask(id).error)
    paused.restart()
    assert paused.finished(id).done
    assert paused.jobs() == []


def test_a_dropped_copy_ends_in_qemu_too(paused: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    _slow_from_the_start(monkeypatch)
    snapshot = uuid4()
    until(lambda: paused.ask(snapshot).bytes_done)
    second = paused.ask(uuid4())  # one after another
    assert (second.done, second.error) == (False, "")
    paused.host.disks.drop_snapshot(paused.uuid, snapshot, 1)
    assert paused.jobs() == []
    assert not list(paused.directory.glob("snapshot-*"))
    assert paused.ask(snapshot).error == ""
    paused.restart()
    paused.host.disks.drop_snapshot(paused.uuid, snapshot, 1)
    assert paused.jobs() == []
    assert not list(paused.directory.glob("snapshot-*"))


def test_a_machine_that_ends_while_its_snapshot_is_given_up(paused: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    _slow_from_the_start(monkeypatch)
    snapshot = uuid4()
    until(lambda: paused.ask(snapshot).bytes_done)

    def too_late(_: Copy, live: Live) -> None:
        live.process.kill()
        raise Unavailable("QEMU's monitor can't be reached")

    monkeypatch.setattr(copies, "cancel", too_late)
    paused.host.disks.drop_snapshot(paused.uuid, snapshot, 1)
    assert not list(paused.directory.glob("snapshot-*"))


@pytest.mark.parametrize("how", ["off", "killed", "removed"])
def test_a_machine_that_ends_in_the_middle(paused: Node, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    _slow_from_the_start(monkeypatch)
    snapshot = uuid4()
    until(lambda: paused.ask(snapshot).bytes_done)
    if how == "off":
        paused.host.machines.power(paused.uuid, Power.OFF, 1)
    elif how == "killed":
        pid = paused.host.machines.state(paused.uuid).pid
        assert pid
        os.kill(pid, signal.SIGKILL)
    else:
        paused.host.machines.remove(paused.uuid, 1)
        clock.sleep(1)
        assert not paused.directory.exists()
        return
    told = paused.finished(snapshot)
    assert "the machine ended" in told.error
    assert not list(paused.directory.glob("snapshot-*"))
    again = paused.finished(snapshot)
    assert again.done
    assert not again.frozen
    assert "had not shut down" in again.not_frozen


def test_a_copy_that_runs_out_of_room_ends_alone(paused: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the reserved room, QEMU's job fails, and the guest goes on."""
    small = paused.root / "small"
    small.mkdir()
    run.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=1777", "none", small])
    try:
        prepare = copies.prepare

        def elsewhere(copy: copies.Copy, size: int) -> None:
            prepare(copy, 1024)
            (small / "disk").write_bytes(copy.disk.read_bytes())
            (small / "disk").chmod(0o666)

        def open_target(copy: copies.Copy, live: object) -> None:
            file = {"driver": "file", "filename": str(small / "disk")}
            add = {"driver": "qcow2", "node-name": copy.node, "file": file}
            live.execute("blockdev-add", add)  # type: ignore[attr-defined]

        monkeypatch.setattr(copies, "prepare", elsewhere)
        monkeypatch.setattr(copies, "open_target", open_target)
        with pytest.raises(DiskFull):
            paused.finished(uuid4())
        live = paused.host.machines.running(paused.uuid)
        assert live.refresh() in ("paused", "prelaunch")
        assert paused.jobs() == []
        assert not list(paused.directory.glob("snapshot-*"))
    finally:
        paused.host.machines.power(paused.uuid, Power.OFF, 1)
        run.run(["umount", small])


def _status(node: Node) -> object:
    return node.host.machines.running(node.uuid).agent.call("guest-fsfreeze-status")


def test_a_running_guest_is_held_still_for_a_moment(tiny: Node) -> None:
    tiny.sh("for n in 1 2 3; do echo before-$n > /root/file-$n; done")  # not synced: the freeze does that
    told = tiny.finished(uuid4())
    assert (told.done, told.frozen, told.not_frozen) == (True, True, "")
    assert _status(tiny) == "thawed"
    assert not (tiny.directory / "frozen").exists()
    tiny.sh("echo after > /root/file-1; sync")
    raw = tiny.root / "raw"
    run.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", tiny.target, raw])
    checked = run.run(["e2fsck", "-f", "-n", raw], check=False)
    assert checked.code == 0, checked  # frozen: not even a journal is left to be replayed
    shown = run.run(["debugfs", "-R", "cat /root/file-1", raw]).stdout
    assert shown == "before-1\n"
    tiny.target.unlink()


def test_what_the_guest_writes_during_the_copy_is_not_in_it(tiny: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.sh("dd if=/dev/zero of=/root/large bs=64k count=128 2> /dev/null; echo early > /root/when; sync")
    _slow_from_the_start(monkeypatch)
    snapshot = uuid4()
    until(lambda: tiny.ask(snapshot).bytes_done)
    tiny.sh("echo late > /root/when; tr '\\\\0' x < /root/large > /root/other; mv /root/other /root/large; sync")
    execute = tiny.host.machines.running(tiny.uuid).execute
    assert not tiny.ask(snapshot).done
    execute("block-job-set-speed", {"device": f"snapshot-{snapshot}", "speed": 0})
    told = tiny.finished(snapshot)
    assert (told.done, told.frozen) == (True, True)
    raw = tiny.root / "raw"
    run.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", tiny.target, raw])
    assert run.run(["e2fsck", "-f", "-n", raw], check=False).code == 0
    assert run.run(["debugfs", "-R", "cat /root/when", raw]).stdout == "early\n"
    run.run(["debugfs", "-R", f"dump /root/large {tiny.root / 'large'}", raw])
    assert (tiny.root / "large").read_bytes() == bytes(128 * 65536)
    tiny.target.unlink()


def test_a_guest_is_thawed_after_an_error(tiny: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(copy: copies.Copy, live: object) -> None:
        assert _status(tiny) == "frozen"
        raise Refused("QEMU refuses blockdev-backup: not today")

    monkeypatch.setattr(copies, "begin", begin)
    told = tiny.finished(uuid4())
    assert "not today" in told.error
    assert _status(tiny) == "thawed"
    assert tiny.left() == set()
    assert tiny.sh("echo x > /root/x; sync; cat /root/x") == "x"


def test_a_guest_whose_agent_refuses_is_copied_all_the_same(tiny: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = tiny.host.machines.running(tiny.uuid).agent
    call = agent.call

    def refusing(command: str, *rest: object, **more: object) -> object:
        if command == "guest-fsfreeze-freeze":
            raise Unavailable("the guest agent does not answer")
        return call(command, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(agent, "call", refusing)
    told = tiny.finished(uuid4())
    assert (told.done, told.frozen, told.not_frozen) == (True, False, "the guest agent does not answer")
    tiny.target.unlink()


def test_a_thaw_that_fails_is_tried_until_it_works(tiny: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeze, "THAW_NOW", 0.2)
    agent = tiny.host.machines.running(tiny.uuid).agent
    call, failures = agent.call, [0]

    def deaf(command: str, *rest: object, **more: object) -> object:
        if command in ("guest-fsfreeze-thaw", "guest-fsfreeze-status") and failures[0] < 8:
            failures[0] += 1
            raise Unavailable("the guest agent does not answer")
        return call(command, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(agent, "call", deaf)
    told = tiny.finished(uuid4())
    assert (told.done, told.frozen) == (True, True)
    until(lambda: not (tiny.directory / "frozen").exists())
    assert call("guest-fsfreeze-status") == "thawed"
    tiny.target.unlink()


KILLED_WHILE_FROZEN = """
import os, sys
from pathlib import Path
from uuid import UUID
from paddock.hypervisor.qemu import copies, freeze
from paddock.hypervisor.qemu.copies import Copy
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.hypervisor.qemu.live import Live

host = QemuHypervisor(Path(sys.argv[1]), "tcg")
class Nobody:
    def done(self):
        pass


copies.begin = lambda *_: os._exit(9)
if sys.argv[5] == "alone":
    freeze.Watch = lambda live: Nobody()
while True:
    host.disks.snapshot(UUID(sys.argv[2]), UUID(sys.argv[3]), sys.argv[4], 1)
"""


def _die_while_frozen(tiny: Node, snapshot: UUID, how: str) -> None:
    words = [str(tiny.root / "state"), str(tiny.uuid), str(snapshot), str(tiny.target), how]
    dead = subprocess.run([sys.executable, "-c", KILLED_WHILE_FROZEN, *words], timeout=60)
    assert dead.returncode == 9


def test_a_node_agent_that_dies_in_the_freeze_and_stays_away(tiny: Node) -> None:
    """The guest is thawed all the same, by the process that was left beside it."""
    live = tiny.host.machines.running(tiny.uuid)
    tiny.host.close()
    snapshot = uuid4()
    _die_while_frozen(tiny, snapshot, "watched")
    until(lambda: not (tiny.directory / "frozen").exists(), 20)
    assert live.agent.call("guest-fsfreeze-status", timeout=20) == "thawed"
    tiny.host = QemuHypervisor(tiny.root / "state", "tcg")
    tiny.host.disks.drop_snapshot(tiny.uuid, snapshot, 1)


def test_a_node_agent_that_dies_in_the_freeze_thaws_when_it_is_back(tiny: Node) -> None:
    snapshot = uuid4()
    tiny.host.close()
    _die_while_frozen(tiny, snapshot, "alone")
    assert (tiny.directory / "frozen").exists()
    tiny.host = QemuHypervisor(tiny.root / "state", "tcg")
    until(lambda: not (tiny.directory / "frozen").exists(), 15)
    assert _status(tiny) == "thawed"
    told = tiny.finished(snapshot)
    assert (told.done, told.frozen) == (True, True)
    tiny.target.unlink()


def test_a_password_is_changed_in_the_running_guest(tiny: Node) -> None:
    hashed = "$6$saltsaltsaltsalt$" + "a" * 86
    tiny.host.guest.set_password(tiny.uuid, "root", hashed)
    assert tiny.sh("cut -d: -f2 /etc/shadow | head -n 1") == hashed
    with pytest.raises(Refused):
        tiny.host.guest.set_password(tiny.uuid, "nobody-of-this-name", hashed)


def _patient(agent: GuestAgent, command: str, timeout: float) -> object:
    return agent.call(command, timeout=timeout)


def test_what_a_guest_uses_is_measured(tiny: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "AGENT_WAIT", 10.0)  # the host of a test may be busy
    monkeypatch.setattr(GuestAgent, "call_if_free", _patient)  # and so may the guest agent be, with the meter itself
    meter = tiny.host.machines._meter
    meter._patience.until.clear()
    meter._store._last.clear()  # two samples within half a minute are one otherwise
    began = clock.now().timestamp()
    meter.sample()
    tiny.sh("dd if=/dev/zero of=/root/zeros bs=64k count=64 conv=fsync; ping -c 3 -i 0.2 10.0.2.2; sync")
    clock.sleep(1.2)
    meter._store._last.clear()
    meter.sample()
    seen = tiny.host.machines.metrics(tiny.uuid, began - 1, clock.now().timestamp() + 1, 0)
    lines = {line.name: [value for _, value in line.values] for line in seen.series}
    assert 0 < lines["cpu"][-1] < 300
    assert lines["disk.0.bandwidth.write"][-1] > 100_000
    assert lines["disk.0.iops.write"][-1] > 0
    assert lines["network.0.pps.out"][-1] > 0
    assert lines["network.0.bandwidth.in"][-1] > 0
    tiny.host.machines.remove(uuid4(), 1)


def test_a_hung_qemu_and_a_busy_guest_agent_hold_nobody_up(tiny: Node) -> None:
    meter, live = tiny.host.machines._meter, tiny.host.machines.running(tiny.uuid)
    with live.agent._lock:  # somebody uses it
        took = clock.monotonic()
        meter.sample()
        assert clock.monotonic() - took < 0.5
    pid = tiny.host.machines.state(tiny.uuid).pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        took = clock.monotonic()
        meter.sample()
        assert 0.5 < clock.monotonic() - took < 2
        took = clock.monotonic()
        meter.sample()
        assert clock.monotonic() - took < 0.2  # left alone
    finally:
        os.kill(pid, signal.SIGCONT)
    meter._patience.until.clear()


def test_debian_is_held_still_too() -> None:
    built = built_image("debian-12")
    node = Node(built.manifest, built.directory)
    try:
        node.host.machines.remove(node.uuid, 1)
        node.machine = node.machine.model_copy(update={"uuid": uuid4(), "memory_mib": 512})
        node.uuid = node.machine.uuid
        node.directory = node.directory.with_name(str(node.uuid))
        node.host.disks.ensure_disk(node.uuid, node.machine.system_disk, 1)
        node.host.machines.ensure(node.machine, 1)
        node.host.machines.power(node.uuid, Power.ON, 1)
        until(lambda: "agent" in node.host.machines.readiness(node.uuid).by, 400)
        told = node.finished(uuid4())
        assert (told.done, told.frozen, told.not_frozen) == (True, True, "")
        assert _status(node) == "thawed"
        node.sh("echo it-writes > /root/x && sync")
        run.run(["qemu-img", "check", node.target])
    finally:
        node.close()
