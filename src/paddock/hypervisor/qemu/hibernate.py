"""Hibernation: a machine's memory and devices in a file beside its disk, written and read by QEMU as a migration.

The file is there only when it is whole, and it is used once: it is gone before the guest goes on, since from then on
the guest's disk is another one than its memory knows. QEMU gets it as an open descriptor, as its sandbox demands.
"""

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

from paddock.base import clock
from paddock.base.errors import Conflict, DiskFull, PaddockError, Refused, Unavailable
from paddock.hypervisor.qemu import capacity, copies, disks, files, media, memory
from paddock.hypervisor.qemu.live import RUNNING, Live
from paddock.hypervisor.qemu.memory import Kept
from paddock.hypervisor.qemu.slot import Slot
from paddock.machine.spec import MIB
from paddock.machine.state import Progress

PATIENCE = 0.1  # seconds that a question waits, so that a small machine's memory is written at once
LOOK_EVERY = 0.05  # seconds between looks at how far QEMU is
GIVE_UP_WAIT = 15.0
FAST = 2**40  # bytes per second: as fast as it goes
_STANDS_STILL = 32 * MIB  # of QEMU's own memory, and what it writes besides the guest's

log = logging.getLogger(__name__)


class _GivenUp(Exception):
    """Somebody asked us to stop."""


class Hibernations:
    """The machines of a node that are on their way into a file. `volume_file` says where a volume lies; `over` is
    called, under the slot's lock, with one whose file is whole, to end its QEMU."""

    def __init__(self, volume_file: Callable[[UUID], Path], over: Callable[[Slot, Live], None]) -> None:
        self._volume_file = volume_file
        self._over = over
        self._lock = threading.Lock()
        self._works: dict[UUID, _Work] = {}

    def hibernate(self, slot: Slot, live: Live, qemu: str) -> Progress:
        """How far it is; begins it when it is not under way. Raises Conflict, DiskFull, Refused: then it runs on."""
        with slot.lock:  # before our own, as everywhere
            work = self._works.get(slot.uuid)
            if work is None or work.live is not live:  # or one of an earlier run, whose end nobody asked for
                work = _Work(slot, live, qemu, self._volume_file, self._over)
                work.begin()
                with self._lock:
                    self._works[slot.uuid] = work
                work.start()
        work.join(PATIENCE)
        if work.is_alive():
            return work.progress()
        with self._lock:
            if self._works.get(slot.uuid) is work:
                del self._works[slot.uuid]
        return work.told()

    def give_up(self, slot: Slot) -> None:
        """It shall go on, or end: nothing of it is kept. Raises Unavailable when that takes too long."""
        with self._lock:
            work = self._works.pop(slot.uuid, None)
        if work:
            work.stop.set()
            work.join(GIVE_UP_WAIT)
            if work.is_alive():
                raise Unavailable(f"the hibernation of machine {slot.uuid} does not end", hint="ask again")

    def close(self) -> None:
        """Let go: QEMU writes on, and the next process of ours finds out how far it came."""
        with self._lock:
            works = list(self._works.values())
        for work in works:
            work.let_go.set()
        for work in works:
            work.join(GIVE_UP_WAIT)


class _Work(threading.Thread):
    """One machine on its way."""

    def __init__(
        self,
        slot: Slot,
        live: Live,
        qemu: str,
        volume_file: Callable[[UUID], Path],
        over: Callable[[Slot, Live], None],
    ) -> None:
        super().__init__(name=f"hibernate-{slot.uuid}", daemon=True)
        self.stop, self.let_go = threading.Event(), threading.Event()
        self._slot, self.live, self._qemu = slot, live, qemu
        self._volume_file, self._over = volume_file, over
        self._ran = True
        self._bytes = 0, 0
        self._done = False
        self._error: PaddockError | None = None

    def progress(self) -> Progress:
        """How far it is."""
        done, total = self._bytes
        return Progress(done=False, bytes_done=done, bytes_total=total)

    def told(self) -> Progress:
        """What came of it, once it has ended. Raises DiskFull when it failed for that."""
        if isinstance(self._error, DiskFull):
            raise self._error
        return self.progress().model_copy(update={"done": self._done, "error": str(self._error or "")})

    def begin(self) -> None:
        """Have QEMU write, unless it does, or has done so for an earlier process of ours."""
        status = self.live.refresh()
        if status == "postmigrate" or memory.migration(self.live).get("status") in memory.UNDER_WAY:
            return
        self._ran = status in RUNNING
        self._prepare()
        self.live.execute("stop")
        try:
            self._write()
        except BaseException:
            self._go_on()
            raise

    def _prepare(self) -> None:
        live, spec = self.live, self._slot.spec
        assert spec
        if self._slot.run.started is None:
            raise Conflict("it was started by an older version of the node agent", hint="power it off and on once")
        if self._slot.run.started.rescue:
            raise Conflict("it runs the rescue system", hint="reboot it first")
        if copies.busy(live):
            raise Conflict("a snapshot of it is being made", hint="ask again when that is done")
        if capacity.was_grown(live):
            raise Conflict("CPUs or memory were added to it while it ran", hint="power it off and on once")
        media.bring_volumes(live, spec.machine.volumes)
        whole = spec.machine.memory_mib * MIB  # and so much it may be where part of it is a warm image's still
        size = (whole if self._slot.run.warm else min(live.process.memory(), whole)) + _STANDS_STILL
        copies.check_room(live.directory, size)

    def _write(self) -> None:
        live = self.live
        fd = files.create(memory.unfinished(live.directory))
        try:
            live.execute("migrate-set-parameters", {"max-bandwidth": FAST})
            live.give(memory.FD, fd)
            live.execute("migrate", {"uri": memory.URI})
        finally:
            os.close(fd)

    def run(self) -> None:
        try:
            self._follow()
            self._finish()
        except _GivenUp:
            if not self.let_go.is_set():
                self._cancel()
        except (PaddockError, OSError) as e:
            log.warning("machine %s is not hibernated: %s", self._slot.uuid, e)
            self._cancel()
            self._error = e if isinstance(e, PaddockError) else Refused(f"its memory can't be written: {e}")

    def _follow(self) -> None:
        while True:
            if self.stop.is_set() or self.let_go.is_set():
                raise _GivenUp
            found = memory.migration(self.live)
            ram = found.get("ram", {})
            self._bytes = ram.get("total", 0) - ram.get("remaining", 0), ram.get("total", 0)
            if found.get("status") == "completed":
                return
            if found.get("status") not in memory.UNDER_WAY:
                raise self._why(str(found.get("error-desc") or found.get("status") or "it did not begin"))
            clock.sleep(LOOK_EVERY)

    def _why(self, said: str) -> PaddockError:
        root = self.live.directory.root
        if shutil.disk_usage(root).free < copies.RESERVE:
            return disks.full(root, self._bytes[1])
        return Refused(f"QEMU could not write its memory: {said}", hint="see qemu.log in the machine's directory")

    def _finish(self) -> None:
        """Whole, on disk, and described: only then is it hibernated."""
        directory = self.live.directory
        if not memory.is_there(directory):
            size, found = memory.hashed(memory.unfinished(directory), sync=True)
            kept = self._kept(size, found)
            with self._slot_lock():
                os.replace(memory.unfinished(directory), directory.memory)
                files.write_whole(directory.memory_record, kept.model_dump_json().encode())
        with self._slot_lock():
            self._over(self._slot, self.live)
        self._done = True
        log.info("machine %s is hibernated", self._slot.uuid)

    def _kept(self, size: int, found: str) -> Kept:
        slot = self._slot
        assert slot.spec, "BUG: it has no definition"
        assert slot.run.started, "BUG: begun without knowing how it was started"
        assert slot.run.accelerator, "BUG: it runs under nothing"
        wanted = slot.spec.machine
        there = media.iso_of(self.live)
        machine = slot.run.started.model_copy(update={"volumes": wanted.volumes, "iso": there})
        return Kept(
            machine=machine, size=size, sha256=found, accelerator=slot.run.accelerator, qemu=self._qemu,
            given=slot.run.given, serial_from=self.live.serial_from, places=media.places(self.live),
            disks=memory.marks(self.live.directory, machine, self._volume_file), warm=bool(slot.run.warm),
            depth=slot.run.depth,
        )  # fmt: skip

    @contextlib.contextmanager
    def _slot_lock(self) -> Iterator[None]:
        while not self._slot.lock.acquire(timeout=LOOK_EVERY):
            if self.stop.is_set() or self.let_go.is_set():
                raise _GivenUp
        try:
            yield
        finally:
            self._slot.lock.release()

    def _cancel(self) -> None:
        """It runs on as if nothing had been, unless its QEMU is gone."""
        try:
            memory.stop_writing(self.live)
            self._go_on()
        except PaddockError as e:
            log.warning("machine %s: after a hibernation that was given up: %s", self._slot.uuid, e)
        memory.discard(self.live.directory)

    def _go_on(self) -> None:
        if self._ran and not self.live.process.gone() and not self.stop.is_set():
            self.live.execute("cont")
            self.live.refresh()
