"""The fake's fork points: what a machine is, and what its guest has, as of one instant, and machines
that begin from that by the same rules as real ones."""

import copy
from typing import Any
from uuid import UUID

from paddock.base import clock
from paddock.base.errors import Conflict, Refused
from paddock.hypervisor.fake_files import FakeFile
from paddock.hypervisor.fake_guest import files_of
from paddock.hypervisor.fake_host import Fake, FakeHost
from paddock.hypervisor.fake_store import Point
from paddock.machine.spec import MIB, Machine
from paddock.machine.state import Fork, Phase
from paddock.machine.warm import Start

PAUSED_MS = 10.0
_ALIKE = (
    "cpus", "memory_mib", "machine_type", "cpu_model", "layout", "max_cpus", "max_memory_mib", "image", "firmware",
    "kernel_args", "nested", "dedicated_cpus", "huge_pages",
)  # fmt: skip


class FakeForks:
    """The fork points of a fake host."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host
        self._begun: dict[UUID, float] = {}  # since when one is being made, as a monotonic time
        self._points = {point.point: point for point in host.store.forks()}
        self._memory: dict[UUID, dict[str, FakeFile]] = {}  # its guest's files

    def fork(self, machine: UUID, point: UUID) -> Fork:
        """See `Machines.fork`. The caller holds the host's lock."""
        if made := self._points.get(point):
            return _told(made)
        fake, faults = self._host.running(machine), self._host.faults
        self._refuse_unfit(fake)
        total = fake.saved.memory_mib * MIB
        begun = self._begun.setdefault(point, clock.monotonic())
        if (age := clock.monotonic() - begun) < faults.copy_seconds:
            done = int(total * age / faults.copy_seconds)
            return Fork(done=False, bytes_done=done, bytes_total=total, doing="writing its memory")
        del self._begun[point]
        if faults.copy_error:
            return Fork(done=False, bytes_total=total, error=faults.copy_error)
        self._host.claim(total)
        assert fake.saved.has
        made = Point(point=point, machine=fake.saved.has, size=total, passwords=fake.saved.passwords)
        self._points[point], self._memory[point] = made, copy.deepcopy(files_of(fake).files)
        self._save()
        return _told(made)

    def drop(self, point: UUID) -> None:
        """See `Machines.drop_fork`. The caller holds the host's lock."""
        self._begun.pop(point, None)
        self._memory.pop(point, None)
        if made := self._points.pop(point, None):
            self._host.used -= made.size
            self._save()

    def check(self, fake: Fake, paused: bool) -> Point:
        """What a machine begins from that was defined as a fork. Raises Refused."""
        machine = fake.saved.machine
        assert machine and machine.fork, "BUG: it is no fork"  # noqa: PT018
        if paused:
            raise Refused("a fork begins with its guest running: it could not become somebody of its own")
        made = self._points.get(machine.fork)
        if made is None:
            raise Refused(
                "the memory that it was to begin from is not there any more",
                hint="delete it, and fork the server again",
            )
        _check_alike(machine, made.machine)
        return made

    def begin(self, fake: Fake, paused: bool) -> dict[str, Any]:
        """How it begins: what changes of what is saved of it. Raises as `check`."""
        made, files = self.check(fake, paused), files_of(fake)
        files.files |= copy.deepcopy(self._memory.get(made.point, {}))
        hostname = fake.saved.machine.seed.hostname if fake.saved.machine else ""
        files.files["/etc/hostname"] = FakeFile(f"{hostname}\n".encode())
        began = {"began": Start(fork=True), "woken": True, "fresh": False, "stands_on": "", "greets": False}
        return {**began, "passwords": made.passwords}

    def _refuse_unfit(self, fake: Fake) -> None:
        has, started = fake.saved.has, fake.saved.started
        assert has
        reasons = {
            "its guest does not run: it is paused": fake.saved.phase is not Phase.RUNNING,
            "it runs the rescue system": has.rescue is not None,
            "it has volumes, which can't be forked": bool(fake.saved.volumes),
            "a CD is in its drive": has.iso is not None,
            "it boots by UEFI, and what that remembers can't be forked": has.firmware == "uefi",
            "CPUs or memory were added to it while it ran": started is not None
            and (has.cpus, has.memory_mib) != (started.cpus, started.memory_mib),
            "no guest agent answers in it": self._host.why_silent(fake) != "",
        }
        if why := next((why for why, holds in reasons.items() if holds), ""):
            raise Conflict(why, hint="change that, and fork it again")

    def _save(self) -> None:
        self._host.store.save_forks(tuple(self._points.values()))


def _told(made: Point) -> Fork:
    return Fork(done=True, bytes_done=made.size, bytes_total=made.size, paused_ms=PAUSED_MS)


def _check_alike(machine: Machine, parent: Machine) -> None:
    if different := [name for name in _ALIKE if getattr(machine, name) != getattr(parent, name)]:
        raise Refused(f"it is to have another {different[0]} than the server that it is a fork of")
    if machine.volumes or machine.iso or machine.rescue:
        raise Refused("a fork begins without volumes, CD and rescue system", hint="attach them when it runs")
    if machine.system_disk.size < parent.system_disk.size:
        size = parent.system_disk.size
        raise Refused(f"its disk is smaller than the {size} bytes of the server that it is a fork of")
