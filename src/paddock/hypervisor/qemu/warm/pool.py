"""Guests that are held ready: restored from a warm image and paused, so that a start is a resume.

How many of which, the operator says. They are made one after another when nobody starts anything, only of memory that
the host can spare, and given up again when that runs short: they are never in the way of machines. Each has a directory
as machines have, which becomes the machine's when one is taken. None outlives this process: the next one ends what it
finds.
"""

import contextlib
import logging
import os
import shutil
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paddock.base import clock
from paddock.base.errors import PaddockError, Unavailable
from paddock.hypervisor.qemu import files, identity, process, room, start
from paddock.hypervisor.qemu.layout import SOCKETS, Layout, MachineDir
from paddock.hypervisor.qemu.live import Live
from paddock.hypervisor.qemu.process import Process
from paddock.hypervisor.qemu.qmp import QmpThread
from paddock.hypervisor.qemu.warm import guest
from paddock.hypervisor.qemu.warm.make import OVERHEAD_MIB, Plan
from paddock.hypervisor.qemu.warm.start import nobody, words
from paddock.hypervisor.qemu.warm.store import Record, WarmStore
from paddock.machine.spec import Machine

EVERY = 1.0  # seconds between looks
QUIET = 1.0  # seconds without a start before one more is made
RETRY = 60.0  # seconds after one could not be made
PING_SECONDS = 30.0
SMALL = 1024 * 1024  # bytes of a file that says something of a machine
_HELD = {"system.qcow2", "seed.iso", "lock", "serial.log", "qemu.log", "fresh", "warm", *SOCKETS}

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Ready:
    """A guest that is held. Its QEMU was started with a uuid of its own, which its directory is called by."""

    record: Record
    size: int  # bytes of its disk
    directory: MachineDir
    process: Process
    agent: socket.socket  # a connection to its guest agent, over which nothing is on its way

    def end(self) -> None:
        """Nobody takes it."""
        self.agent.close()
        with contextlib.suppress(Unavailable):
            self.process.end()
        shutil.rmtree(self.directory.root, ignore_errors=True)


class Pool:
    """See above. `find` gives the warm image of a plan that can be used now, or why there is none, and may have one
    made; `free` the MiB that the host has free."""

    def __init__(
        self,
        layout: Layout,
        thread: QmpThread,
        store: WarmStore,
        find: Callable[[Plan], tuple[Record | None, str]],
        free: Callable[[], int] = room.free_mib,
    ) -> None:
        self._layout = layout
        self._thread = thread
        self._store = store
        self._find = find
        self._free = free
        self._lock = threading.Lock()
        self._wishes: dict[str, tuple[Plan, int]] = {}  # by key: like what, and how many
        self._ready: list[Ready] = []
        self._lacking: dict[str, str] = {}  # by key: why there are not as many as wished
        self._started = float("-inf")  # when somebody last started a machine
        self._again: dict[str, float] = {}  # by key: not before
        self._work = threading.Event()
        self._stop = False
        identity.make_directory(layout.pool)
        end_all(layout.pool)
        self._keeper: threading.Thread | None = None

    def keep(self, wishes: list[tuple[Plan, int]]) -> None:
        """Hold these from now on, and no others. What is wished for anew is tried at once."""
        with self._lock:
            before = {key: count for key, (_, count) in self._wishes.items()}
            self._wishes = {plan.key.id: (plan, count) for plan, count in wishes if count}
            now = {key: count for key, (_, count) in self._wishes.items()}
            self._again = {key: at for key, at in self._again.items() if before.get(key) == now.get(key)}
            if (self._wishes or self._ready) and self._keeper is None and not self._stop:
                self._keeper = threading.Thread(target=self._keep, name="warm-pool", daemon=True)
                self._keeper.start()
        self._work.set()

    def hold_off(self) -> None:
        """Somebody starts a machine: that goes first."""
        self._started = clock.monotonic()

    def take(self, record: Record, machine: Machine) -> Ready | None:
        """One that began from that warm image, for this machine, if there is one; it is the caller's now."""
        size = machine.system_disk.size
        with self._lock:
            fits = (r for r in self._ready if r.record == record and r.size == size and not r.process.gone())
            if not machine.dedicated_cpus and (found := next(fits, None)):
                self._ready.remove(found)
                return found
        return None

    def told(self, key: str) -> tuple[int, int, str]:
        """Of a key: how many are ready, how many are wished for, and why not all are there."""
        with self._lock:
            wanted = self._wishes[key][1] if key in self._wishes else 0
            ready = sum(r.record.key.id == key for r in self._ready)
            return ready, wanted, self._lacking.get(key, "") if ready < wanted else ""

    def close(self) -> None:
        """End them all. A second time does nothing."""
        self._stop = True
        self._work.set()
        if self._keeper:
            self._keeper.join()
        self._end(list(self._ready))

    def _keep(self) -> None:
        while not self._stop:
            self._work.clear()
            try:
                self._drop()
                busy = self._fill()
            except Exception:
                log.exception("BUG: while guests were made ready")
                busy = False
            if not busy:
                self._work.wait(EVERY)

    def _drop(self) -> None:
        """Those that nobody wishes for or could take; one at a time where memory runs short."""
        with self._lock:
            kept = dict.fromkeys(self._wishes, 0)
            spare = []
            for ready in self._ready:
                if self._wanted(ready, kept):
                    kept[ready.record.key.id] += 1
                else:
                    spare.append(ready)
            if not spare and self._ready and self._free() < room.RESERVE_MIB:
                log.info("memory runs short: a guest that was held ready is given up")
                spare = self._ready[-1:]
        self._end(spare)

    def _wanted(self, ready: Ready, kept: dict[str, int]) -> bool:
        """`kept`: how many of each key are there besides."""
        plan, count = self._wishes.get(ready.record.key.id, (None, 0))
        if plan is None or kept[plan.key.id] >= count or ready.process.gone():
            return False
        return ready.size == plan.machine.system_disk.size and self._store.read(ready.record.id) == ready.record

    def _end(self, these: list[Ready]) -> None:
        """Those of them that nobody has taken meanwhile."""
        with self._lock:
            ending = [ready for ready in self._ready if ready in these]
            self._ready = [ready for ready in self._ready if ready not in these]
        for ready in ending:
            ready.end()
        if ending:
            self._store.sweep()

    def _fill(self) -> bool:
        """Make one that is missing. Returns whether it did."""
        for key, (plan, count) in list(self._wishes.items()):
            if self.told(key)[0] >= count or clock.monotonic() < self._again.get(key, 0):
                continue
            try:
                lacking = self._make(plan)
            except PaddockError as e:
                lacking = e.message
                log.warning("no guest of %s is ready: %s", plan.manifest.name, e)
                self._again[key] = clock.monotonic() + RETRY
            with self._lock:
                self._lacking[key] = lacking
            if not lacking:
                return True
        return False

    def _make(self, plan: Plan) -> str:
        """Returns why there can be none now; empty: there is one more. Raises PaddockError."""
        if clock.monotonic() - self._started < QUIET:
            return "machines are being started"
        needed = plan.machine.memory_mib + OVERHEAD_MIB
        if (spare := self._free() - room.RESERVE_MIB) < needed:
            return f"the node can spare {max(0, spare)} MiB of memory, and one takes up to {needed} MiB"
        record, why = self._find(plan)
        if record is None:
            return why
        ready = self._restored(plan, record)
        with self._lock:
            self._ready.append(ready)
        return ""

    def _restored(self, plan: Plan, record: Record) -> Ready:
        machine = nobody(plan.machine, "ready")
        directory = MachineDir(self._layout.pool / str(machine.uuid))
        identity.make_machine_directory(directory.root)
        try:
            with start.plain_errors(directory):
                self._store.stand_on(record, directory, machine.system_disk.size)
                files.write_whole(directory.seed, bytes(record.seed), sync=False)
            line = words(machine, plan.manifest, plan.binary, plan.accelerator, record.id)
            started = start.launch(line, directory)
            try:
                agent = self._restore(machine, record, directory, started)
            except BaseException:
                started.end()
                raise
        except BaseException:
            shutil.rmtree(directory.root, ignore_errors=True)
            raise
        return Ready(record, machine.system_disk.size, directory, started, agent)

    def _restore(self, machine: Machine, record: Record, directory: MachineDir, started: Process) -> socket.socket:
        """Its guest agent answers once, alone in the guest, so that it is quicker the next time. Returns the connection
        to it."""
        live = Live(directory, started, self._thread, changed=lambda _: None, asked=lambda *_: None)
        try:
            qmp = start.meet(self._thread, started, machine, directory, live.on_event)
            if qmp is None:
                raise Unavailable(f"QEMU does not start: {process.last_words(directory)}")
            live.attach(qmp)
            record.way.read(live, self._layout.warm_image(record.id))
            live.execute("cont")
            with live.agent.conversation(PING_SECONDS) as talk:
                talk.read_file(guest.STATE)
                live.execute("stop")
                return talk.kept()
        finally:
            live.let_go()


def move_in(ready: Ready, machine: MachineDir, seed: bytes) -> None:
    """The guest's directory becomes the machine's: with what is said of the machine, and the CD that it is told by,
    which its QEMU has open already."""
    _overwrite(ready.directory.seed, seed)
    for path in machine.root.iterdir():
        if path.name not in _HELD:
            files.write_whole(ready.directory.root / path.name, files.read_tail(path, SMALL), sync=False)
    old = aside(machine.root)
    machine.root.rename(old)
    try:
        ready.directory.root.rename(machine.root)
    except OSError:
        old.rename(machine.root)
        raise
    shutil.rmtree(old, ignore_errors=True)


def aside(root: Path) -> Path:
    """Where a machine's directory lies while another takes its place."""
    return root.with_name(f".{root.name}.old")


def put_back(machines: Path) -> None:
    """What a crash left aside: it is the machine's again where nothing took its place."""
    for old in machines.glob(".*.old"):
        root = old.with_name(old.name.removeprefix(".").removesuffix(".old"))
        if root.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(root)


def end_all(pool: Path) -> None:
    """Those of an earlier process."""
    for root in pool.iterdir():
        with contextlib.suppress(PaddockError):
            if found := process.find(MachineDir(root), None):
                found.end()
        shutil.rmtree(root, ignore_errors=True)


def _overwrite(path: Path, content: bytes) -> None:
    """The same file with other content of the same size. Raises Unavailable."""
    with os.fdopen(files.open_regular(path, os.O_RDWR), "r+b") as file:
        if len(content) != files.size_of(path):
            raise Unavailable("the CD that it is told by has another size than its guest knows")
        file.write(content)
