"""What goes wrong with warm images, with real guests: a QEMU that is killed between any two steps, a disk that is full,
a node agent that is killed. Whatever it is, machines start and say how, and nothing is left behind."""

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from paddock.base import clock
from paddock.base.errors import DiskFull, PaddockError, Unavailable
from paddock.base.run import run
from paddock.hypervisor.qemu import disks, media, memory
from paddock.hypervisor.qemu.warm import guest as warm_guest
from paddock.hypervisor.qemu.warm import start as warm_start
from paddock.hypervisor.qemu.warm.make import Maker
from paddock.hypervisor.qemu.warm.store import Record
from paddock.hypervisor.qemu.warm.ways import Way
from paddock.hypervisor.remote import RemoteHypervisor
from paddock.machine.spec import MIB, Machine, Power, Seed
from paddock.machine.state import Phase
from paddock.machine.warm import Start
from tests.agent.process import AgentProcess
from tests.guests.qemu_node import Node, until
from tests.guests.test_warm import Warm
from tests.hypervisor.qemu.machines import free_port, make_machine
from tests.support_images import built_image

pytestmark = [pytest.mark.guest, pytest.mark.slow]
MOMENTS = (0.1, 0.25, 0.4)  # seconds after a start was asked for
TINY = {"cpus": 1, "memory_mib": 128, "layout": 2, "max_cpus": 4, "warm": "public"}


def below(directory: Path) -> list[int]:
    """The processes that work in a directory, or below it."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path(os.readlink(f"/proc/{name}/cwd")).is_relative_to(directory):
                found.append(int(name))
        except OSError:
            continue
    return found


def kill(directory: Path) -> None:
    """End the QEMUs of a directory."""
    for pid in below(directory):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not below(directory))


class Before:
    """Does something once, right before the nth call of a function, which then goes on."""

    def __init__(self, patched: pytest.MonkeyPatch, owner: Any, name: str, action: Callable[[], object]) -> None:
        self._real, self._action, self.left = getattr(owner, name), action, 1
        before = self

        def called(*args: Any, **kwargs: Any) -> Any:
            before.left -= 1
            if before.left == 0:
                before._action()
            return before._real(*args, **kwargs)

        patched.setattr(owner, name, called)


def ended_in_error(warm: Warm, machine: Machine) -> PaddockError:
    """What having a warm image made came to."""
    deadline = clock.monotonic() + 300  # it is made with low priority
    while clock.monotonic() < deadline:
        try:
            progress = warm.node.host.warm.make_warm(machine)
            assert not progress.done
        except PaddockError as e:
            return e
        clock.sleep(0.05)
    raise AssertionError(f"it does not end: it is {progress.doing}")


def nothing_left(warm: Warm) -> None:
    """Neither files nor guests of what was being made."""
    place = warm.node.state / "warm"
    until(lambda: [p.name for p in place.iterdir() if not p.name.startswith(".seen-")] == [])
    assert below(place) == []


@pytest.fixture
def made_warm(tmp_path: Path) -> Iterator[Warm]:
    """A node with `tiny`, of which nothing was made yet."""
    node = Node()
    try:
        image = built_image("tiny")
        yield Warm(node, image.manifest, image.directory)
    finally:
        node.close()


# Where a guest of making is killed: a function, and which of its calls.
MAKING: list[tuple[Any, str, int]] = [
    (Maker, "_wait_booted", 1),
    (warm_guest, "settle", 1),  # it has no network card any more
    (warm_guest, "state", 2),
    (memory, "migration", 1),
    (warm_guest, "tell", 1),
    (Maker, "_met", 3),
    (warm_guest, "sample", 2),
]


def test_a_guest_that_is_killed_while_a_warm_image_is_made(made_warm: Warm) -> None:
    warm, place = made_warm, made_warm.node.state / "warm"
    machine = warm.define()
    for owner, name, nth in MAKING:
        with pytest.MonkeyPatch.context() as patched:
            Before(patched, owner, name, lambda: kill(place)).left = nth
            begun = clock.monotonic()
            error = ended_in_error(warm, machine)
        assert isinstance(error, Unavailable), (name, error)
        assert "guest ended" in error.message or "QEMU does not start" in error.message, (name, error.message)
        assert clock.monotonic() - begun < 60, f"it was waited for after it was killed at {name}"
        nothing_left(warm)
        cold = warm.define()
        assert warm.start(cold).why.startswith("there is no warm image of tiny"), name
        warm.off(cold)
    assert warm.made(machine).made
    assert warm.start(warm.define()) == Start(warm=True)


# Where a machine's QEMU is killed that begins from a warm image.
BEGINNING: list[tuple[Any, str]] = [
    (Way, "read"),
    (memory, "load"),
    (warm_start, "wake"),
    (warm_guest, "tell"),
    (warm_start, "plug_card"),
    (media, "bring_volumes"),
]


def test_a_guest_that_is_killed_while_it_begins_from_one(made_warm: Warm) -> None:
    """It boots, from a disk that nobody has used."""
    warm = made_warm
    warm.made(warm.define())
    for owner, name in BEGINNING:
        machine = warm.define()
        directory = warm.node.directory(machine)
        with pytest.MonkeyPatch.context() as patched:
            before = Before(patched, owner, name, partial(kill, directory))
            begun = clock.monotonic()
            began = warm.start(machine)
        assert before.left == 0
        assert clock.monotonic() - begun < 10, f"it was waited for after it was killed before {name}"
        assert began.why.startswith("its warm image could not be used: "), (name, began)
        assert disks.warm_of(directory) == ""
        assert disks.header(directory / "system.qcow2").backing
        assert warm.node.host.machines.state(machine.uuid).phase is Phase.RUNNING
        if name == "tell":
            warm.until_ready(machine)
        warm.off(machine)
    assert warm.start(warm.define()) == Start(warm=True)


def test_a_warm_image_that_goes_while_a_machine_begins_from_it(made_warm: Warm) -> None:
    warm = made_warm
    image = warm.made(warm.define())
    machine = warm.define()
    with pytest.MonkeyPatch.context() as patched:
        Before(patched, Way, "read", lambda: warm.node.host.warm.remove_warm(image.id))
        assert warm.start(machine).why.startswith("its warm image could not be used: its memory can't be read")
    warm.until_ready(machine)
    nothing_left(warm)


def test_six_while_one_is_made_anew(made_warm: Warm) -> None:
    """None waits for it, and each says which it was and why."""
    warm = made_warm
    machine = warm.define()
    warm.node.host.warm.remove_warm(warm.made(machine).id)
    assert not warm.node.host.warm.make_warm(machine).done
    six = [warm.define(f"web-{n}") for n in range(6)]
    why = "there is no warm image of tiny with 1 CPUs and 128 MiB yet: it is being made"
    assert [warm.start(one) for one in six[:3]] == [Start(why=why)] * 3
    warm.made(machine)
    assert [warm.start(one) for one in six[3:]] == [Start(warm=True)] * 3
    for one in six:
        until(partial(warm.answers, one), 300)
        assert warm.sh(one, "hostname") == one.name


# --- A full disk


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Warm]:
    """The same on a small file system."""
    place = tmp_path / "small"
    place.mkdir()
    for parent in (place, *place.parents):  # pytest's directories are private, and QEMU's user must pass
        if parent.is_relative_to("/tmp/pytest-of-root"):
            parent.chmod(parent.stat().st_mode | 0o011)
    run(["mount", "-t", "tmpfs", "-o", "size=700m,mode=0755", "none", place])
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(tempfile, "tempdir", str(place))
            node = Node()
        try:
            image = built_image("tiny")
            yield Warm(node, image.manifest, image.directory)
        finally:
            (place / "ballast").unlink(missing_ok=True)
            node.close()
    finally:
        run(["umount", "--lazy", place])


def fill(warm: Warm) -> Path:
    """Take all the room that there is."""
    ballast = warm.node.root.parent / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while True:
                    file.write(b"\1" * size)
            except OSError:
                continue
    return ballast


FULL: list[tuple[Any, str, int]] = [
    (Maker, "_prepare", 1),
    (Maker, "_wait_booted", 1),
    (Maker, "_save", 1),
    (Maker, "_sample", 1),
    (Record, "model_dump_json", 1),
]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_disk_that_is_full(small: Warm) -> None:
    warm = small
    machine, early = warm.define(), warm.define()
    for owner, name, nth in FULL:
        with pytest.MonkeyPatch.context() as patched:
            Before(patched, owner, name, lambda: fill(warm)).left = nth
            error = ended_in_error(warm, machine)
        assert isinstance(error, DiskFull), (name, error)
        nothing_left(warm)
        (warm.node.root.parent / "ballast").unlink()
    assert warm.start(early).why.startswith("there is no warm image")
    warm.off(early)
    assert warm.made(machine).made

    late = warm.define()
    ballast = fill(warm)
    with pytest.raises(DiskFull):  # there is no room to start anything
        warm.start(late)
    ballast.unlink()
    with pytest.MonkeyPatch.context() as patched:  # nor to write down that it has its identity
        Before(patched, warm_start, "wake", lambda: fill(warm))
        with pytest.raises(DiskFull):
            warm.start(late)
    ballast.unlink()
    assert warm.start(late) == Start(warm=True)
    warm.until_ready(late)
    warm.node.restart()
    assert warm.node.host.machines.state(late.uuid).phase is Phase.RUNNING


# --- A node agent that is killed


class Served:
    """A node agent in a process of its own, with `tiny`."""

    def __init__(self) -> None:
        self.agent = AgentProcess("qemu")
        self.agent.start()
        self.host = RemoteHypervisor(self.agent.url)
        self.image = built_image("tiny")
        until(lambda: self.host.disks.ensure_image(self.image.manifest, str(self.image.directory)).done, 60)

    def define(self) -> Machine:
        uuid = uuid4()
        seed = Seed(instance_id=str(uuid), hostname=f"h-{uuid.hex[:6]}")
        machine = make_machine(self.image.manifest, free_port(), uuid).model_copy(update={**TINY, "seed": seed})
        self.host.disks.ensure_disk(uuid, machine.system_disk, 1)
        self.host.machines.ensure(machine, 1)
        return machine

    def is_making(self, machine: Machine, doing: str) -> bool:
        return self.host.warm.make_warm(machine).doing == doing

    def answers(self, machine: Machine) -> bool:
        return "agent" in self.host.machines.readiness(machine.uuid).by

    def die(self) -> None:
        """By SIGKILL, and another one takes its place."""
        self.host.close()
        self.agent.stop(signal.SIGKILL)
        self.agent.start()
        self.host = RemoteHypervisor(self.agent.url)

    def close(self) -> None:
        self.host.close()
        self.agent.close()


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    try:
        yield made
    finally:
        made.close()


def test_a_node_agent_that_is_killed(served: Served) -> None:
    place = served.agent.state_dir / "warm"
    for doing in ("booting its guest", "comparing two guests of it"):
        until(partial(served.is_making, served.define(), doing), 300)
        until(lambda: bool(below(place)))
        served.die()
        until(lambda: not below(place), 5)
        assert [p.name for p in place.iterdir() if p.is_dir()] == []
        assert served.host.warm.warm_images() == ()
    machine = served.define()
    until(lambda: served.host.warm.make_warm(machine).done, 300)

    names = set()
    for moment in MOMENTS:  # while a machine begins from it
        machine = served.define()
        starting = threading.Thread(target=_try_to_start, args=(served.host, machine.uuid))
        starting.start()
        clock.sleep(moment)
        served.die()
        starting.join()
        served.host.machines.power(machine.uuid, Power.ON, 1)
        until(partial(served.answers, machine), 120)
        said = served.host.guest.exec(machine.uuid, ("/bin/sh", "-c", "hostname; ls /sys/class/net"), "", 30).stdout
        assert said.split()[0] == machine.seed.hostname
        assert "eth0" in said.split()
        names.add(said.split()[0])
        served.host.machines.power(machine.uuid, Power.OFF, 1)
    assert len(names) == len(MOMENTS)


def _try_to_start(host: RemoteHypervisor, uuid: UUID) -> None:
    with contextlib.suppress(PaddockError):
        host.machines.power(uuid, Power.ON, 1)
