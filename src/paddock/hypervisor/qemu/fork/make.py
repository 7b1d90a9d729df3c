"""Making a fork point of a machine that runs, which notices nothing but a pause of milliseconds.

A note in the machine's directory says that one is being made. A node agent that ended in the middle has its successor
put the machine right by it: it goes on, and the point is made anew when somebody asks for it again.
"""

import contextlib
import logging
import os
import shutil
from pathlib import Path
from uuid import UUID

from paddock.base import clock
from paddock.base.errors import CommandFailed, Conflict, DiskFull, PaddockError, Refused, Unavailable
from paddock.hypervisor.qemu import capacity, copies, disks, files, identity, media, memory, thaw
from paddock.hypervisor.qemu.copies import GivenUp
from paddock.hypervisor.qemu.fork import guest
from paddock.hypervisor.qemu.fork import point as points
from paddock.hypervisor.qemu.fork.point import Point
from paddock.hypervisor.qemu.fork.switch import Switch, clear
from paddock.hypervisor.qemu.layout import Layout, MachineDir, image_file, warm_file
from paddock.hypervisor.qemu.live import Live
from paddock.hypervisor.qemu.slot import Slot
from paddock.hypervisor.qemu.works import Work, Works
from paddock.machine.image import Role
from paddock.machine.spec import MIB
from paddock.machine.state import Fork

DEEPEST = 11  # forks of forks without a boot between: each takes one of the addresses before the guest's own
_BESIDES = 64 * MIB  # of memory that QEMU writes besides the guest's

log = logging.getLogger(__name__)


class Forks:
    """The fork points of a node."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._works: Works[_Work] = Works()

    def fork(self, slot: Slot, live: Live, point: UUID, qemu: str) -> Fork:
        """How far it is; begins it when it is not under way. Raises Conflict, Refused, DiskFull: then the machine runs
        on, as after any error."""
        if made := points.read(self._layout, point):
            return Fork(done=True, bytes_done=made.memory, bytes_total=made.memory, paused_ms=made.paused_ms)
        with slot.lock, self._works.lock:
            work = self._works.find(point)
            if work is None:
                if self._works.busy(slot.uuid):
                    raise Conflict("another fork of it is being made", hint="ask again when that is done")
                refuse_unfit(slot, live)
                work = self._works.begin(point, _Work(self._layout, slot, live, point, qemu))
        self._works.look(point, work)
        return work.told()

    def busy(self, machine: UUID) -> bool:
        """Whether one is made of that machine now."""
        with self._works.lock:
            return self._works.busy(machine)

    def drop(self, point: UUID) -> None:
        """Nobody begins from it any more. Raises Unavailable when it is being made and does not end."""
        if not self._works.drop(point):
            raise Unavailable(f"the fork point {point} is being made, and that does not end", hint="ask again")
        points.drop(self._layout, point)

    def forget(self, machine: UUID) -> None:
        """The machine is being removed."""
        self._works.forget(machine)

    def close(self) -> None:
        """Give up those that are being made: their machines go on."""
        self._works.close()


def refuse_unfit(slot: Slot, live: Live) -> None:
    """Raises Conflict with the reason why a machine that runs can't be forked as it is."""
    started = slot.run.started
    if live.refresh() != "running":
        raise Conflict(f"its guest does not run: QEMU says {live.status}", hint="resume it first")
    if started is None:
        raise Conflict("it was started by an older version of the node agent", hint="power it off and on once")
    if started.rescue:
        raise Conflict("it runs the rescue system", hint="reboot it first")
    if media.places(live) or (slot.spec and slot.spec.machine.volumes):
        raise Conflict("it has volumes, which can't be forked", hint="detach them first")
    if media.iso_of(live):
        raise Conflict("a CD is in its drive", hint="take it out first")
    if started.firmware == "uefi":
        raise Conflict("it boots by UEFI, and what that remembers can't be forked")
    if capacity.was_grown(live):
        raise Conflict("CPUs or memory were added to it while it ran", hint="power it off and on once")
    if slot.run.depth >= DEEPEST:
        raise Conflict(f"it is a fork of a fork, {DEEPEST} times over", hint="power it off and on once")
    if copies.busy(live) or thaw.note(live.directory).exists():
        raise Conflict("a snapshot of it is being made", hint="ask again when that is done")
    if memory.migration(live).get("status") in memory.UNDER_WAY:
        raise Conflict("its memory is being written already", hint="ask again when that is done")
    if not live.agent_open():
        raise Conflict("no guest agent answers in it", hint="its image has none, or it is still booting")


def note(directory: MachineDir) -> Path:
    """There while a fork point of the machine is being made."""
    return directory.root / "forking"


def put_right(slot: Slot, live: Live) -> None:
    """A machine whose fork an earlier process of ours did not finish goes on. Raises Unavailable."""
    known = files.read_tail(note(slot.directory), 64).decode(errors="replace").strip()
    clear(live)
    note(slot.directory).unlink(missing_ok=True)
    log.warning("machine %s goes on after a fork that was not finished", slot.uuid)
    with contextlib.suppress(ValueError):
        guest.leave(live.agent, UUID(known))


class _Work(Work):
    """One fork point on its way."""

    def __init__(self, layout: Layout, slot: Slot, live: Live, point: UUID, qemu: str) -> None:
        super().__init__(f"fork-{point}", slot.uuid)
        self._layout, self._slot, self._live = layout, slot, live
        self._point, self._qemu = point, qemu
        self._scratch = points.scratch(layout, point)
        self._switch = Switch(live, self.stop)
        self._made: Point | None = None
        self._doing = "asking its guest"
        self._error: PaddockError | None = None

    def told(self) -> Fork:
        """How far it is. Raises DiskFull, Conflict, Refused when it failed for that."""
        if isinstance(self._error, DiskFull | Conflict):
            raise self._error
        done, total = self._switch.bytes
        paused = self._made.paused_ms if self._made else 0.0
        return Fork(
            done=self._made is not None, bytes_done=done, bytes_total=total, error=str(self._error or ""),
            doing=self._doing, paused_ms=paused,
        )  # fmt: skip

    def run(self) -> None:
        try:
            self._make()
        except GivenUp:
            self._undo()
        except (PaddockError, OSError) as e:
            log.warning("machine %s is not forked, and runs on: %s", self.machine, e)
            self._fail(self._explained(e))
        except Exception as e:
            log.exception("BUG: while machine %s was forked", self.machine)
            self._fail(Refused(f"BUG: {e}", hint="see the node's log"))

    def _fail(self, error: PaddockError) -> None:
        """Told only when the machine is as it was."""
        self._undo()
        self._error = error

    def _make(self) -> None:
        guest.prepare(self._live.agent, self._point, self.stop)
        self._doing = "copying its disk"
        self._prepare()
        try:
            self._switch.mirror(self._from_machine(self._scratch.system_disk))
            self._doing = "writing its memory"
            fd = files.create(self._scratch.root / points.MEMORY)
            try:
                self._switch.write(fd)
                paused = self._switch.cross()
            finally:
                os.close(fd)
        finally:
            clear(self._live)
        made = self._described(paused)
        points.keep(self._layout, made)
        self._end_note()
        self._made = made
        log.info("machine %s was forked: it stood still for %.1f ms", self.machine, paused)

    def _prepare(self) -> None:
        """A directory, an empty disk over what the machine's own stands on, and room for it all."""
        slot, directory = self._slot, self._slot.directory
        assert slot.run.started
        size = slot.run.started.memory_mib * MIB + _BESIDES
        copies.check_room(directory, size + directory.system_disk.lstat().st_blocks * 512)
        shutil.rmtree(self._scratch.root, ignore_errors=True)
        identity.make_directory(self._scratch.root)
        below = disks.warm_of(directory.root)
        if below:  # before it stands on that: what the mark names is kept
            files.write_whole(self._scratch.root / "warm", below.encode(), sync=False)
        base = warm_file(below, disks.WARM_DISK) if below else image_file(disks.image_of(directory.root), Role.DISK)
        virtual = disks.virtual_size(directory.system_disk)
        disks.make_over(self._scratch, base, virtual)
        identity.give(self._scratch.system_disk, writable=True)
        files.write_whole(note(directory), str(self._point).encode())

    def _from_machine(self, path: Path) -> str:
        """As QEMU names a file, from where it stands."""
        return os.path.relpath(path, self._slot.directory.root)

    def _described(self, paused: float) -> Point:
        run = self._slot.run
        assert run.started and run.accelerator, "BUG: a machine runs under nothing"  # noqa: PT018
        identity.give(self._scratch.system_disk, writable=False)
        return Point(
            point=self._point, parent=self.machine, machine=run.started, accelerator=run.accelerator, qemu=self._qemu,
            warm=run.warm, depth=run.depth + 1, disk=disks.virtual_size(self._scratch.system_disk),
            seed=files.size_of(self._slot.directory.seed),
            memory=files.size_of(self._scratch.root / points.MEMORY), paused_ms=paused, made=clock.now(),
        )  # fmt: skip

    def _undo(self) -> None:
        """The machine runs on as if nothing had been, unless its QEMU is gone."""
        try:
            clear(self._live)
            self._end_note()
        except PaddockError as e:
            log.warning("machine %s: after a fork that was given up: %s", self.machine, e)
        shutil.rmtree(self._scratch.root, ignore_errors=True)

    def _end_note(self) -> None:
        note(self._slot.directory).unlink(missing_ok=True)
        if not self._live.process.gone():
            guest.leave(self._live.agent, self._point)

    def _explained(self, error: PaddockError | OSError) -> PaddockError:
        root = self._slot.directory.root
        if self._live.process.gone(0.5):
            return Unavailable("the machine ended while it was forked", hint="start it, and fork it again")
        if root.exists() and shutil.disk_usage(root).free < copies.RESERVE and not isinstance(error, Conflict):
            return disks.full(root, self._switch.bytes[1])
        if isinstance(error, CommandFailed | OSError):
            return Refused(f"a fork point can't be made: {error}", hint="see the node's log")
        return error
