"""Snapshots of system disks: made in the background, found again by the next node agent, delivered only when whole.

A record beside the machine's disk says how far one is. Whoever asks starts what is not under way; a failure is told
once and leaves nothing behind, then it may be asked for again.
"""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from pydantic import ValidationError

from paddock.base.errors import Conflict, DiskFull, NotFound, PaddockError, Refused, Unavailable
from paddock.hypervisor.qemu import copies, files, firmware, record
from paddock.hypervisor.qemu.clean import Cleaner
from paddock.hypervisor.qemu.copies import Copy, GivenUp
from paddock.hypervisor.qemu.freeze import Freezer
from paddock.hypervisor.qemu.helper_guest import Boot
from paddock.hypervisor.qemu.layout import Layout, MachineDir
from paddock.hypervisor.qemu.live import GUEST_SHUTDOWN, Live
from paddock.hypervisor.qemu.works import Work, Works
from paddock.machine.cleaning import Cleaning
from paddock.machine.image import Role
from paddock.machine.spec import Frozen
from paddock.machine.state import Phase, Snapshot

UNKNOWN = "the node agent ended in the moment of the snapshot, so it is not known whether they stood still"
ENDING_WAIT = 3.0  # seconds for a QEMU that is silent to be gone
RESTARTS = 3  # times that a copy is begun again because the machine was started under it

log = logging.getLogger(__name__)


class Record(Frozen):
    """`snapshot-<uuid>.json`. `pid` is that of the QEMU that copies; none: qemu-img does."""

    target: str
    pid: int | None = None
    frozen: bool = False
    not_frozen: str = ""
    copied: bool = False  # whole, and closed by whoever wrote it
    clean: bool = False  # and nothing in it that two servers must not share, as far as that was asked for
    done: bool = False  # and at its target
    size: int = 0
    cleaned: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


class Snapshots:
    """The snapshots of a node. `live_of` gives what is held of a machine that runs, None of one that does not."""

    def __init__(self, layout: Layout, live_of: Callable[[UUID], Live | None], boot_of: Callable[[str], Boot]) -> None:
        self._layout = layout
        self._live_of = live_of
        self._boot_of = boot_of
        self._works: Works[_Work] = Works()
        self.freezer = Freezer()
        for directory in [d for d in layout.machines.iterdir() if (d / "frozen").exists()]:
            with contextlib.suppress(ValueError):
                uuid = UUID(directory.name)
                self.freezer.thaw_left(MachineDir(directory), lambda uuid=uuid: live_of(uuid))  # type: ignore[misc]

    def snapshot(self, machine: UUID, snapshot: UUID, target: Path, cleaning: Cleaning | None = None) -> Snapshot:
        """How far it is; begins it when it is not under way. Raises NotFound, DiskFull."""
        copy = Copy(self._layout.machine(machine), snapshot)
        if not copy.directory.system_disk.exists():
            raise NotFound(f"there is no machine {machine} with a disk on this node")
        with self._works.lock:
            work = self._works.find(snapshot)
            if work is None:
                known = read_record(copy)
                if known and known.done and target.exists():
                    return _told(known, known.size, known.size)
                if self._works.busy(machine):
                    return Snapshot(done=False)  # one after another
                if known is None:
                    _tidy(copy.directory)
                    copies.check_room(copy.directory, copies.needed(self._layout, copy.directory))
                cleaner = Cleaner(copy, cleaning, self._boot_of(cleaning.helper)) if cleaning else None
                work = _Work(self._layout, copy, target, lambda: self._live_of(machine), self.freezer, cleaner)
                self._works.begin(snapshot, work)
        self._works.look(snapshot, work)
        return work.told()

    def drop(self, machine: UUID, snapshot: UUID) -> None:
        """Give it up, and remove what is here of it. Raises Unavailable when QEMU does not let go of it."""
        copy = Copy(self._layout.machine(machine), snapshot)
        if not self._works.drop(snapshot):
            raise Unavailable(f"the copy for snapshot {snapshot} does not end", hint="ask again")
        if copy.directory.root.exists():
            give_up(copy, read_record(copy), self._live_of(machine))

    def forget(self, machine: UUID) -> None:
        """The machine is being removed, with all that is beside its disk."""
        self._works.forget(machine)

    def close(self) -> None:
        """Let go: what QEMU copies goes on, what qemu-img copies is begun again when somebody asks."""
        self._works.close()
        self.freezer.close()


class _Work(Work):
    """One snapshot on its way."""

    def __init__(
        self,
        layout: Layout,
        copy: Copy,
        target: Path,
        live_of: Callable[[], Live | None],
        freezer: Freezer,
        cleaner: Cleaner | None,
    ) -> None:
        super().__init__(copy.name, UUID(copy.directory.root.name))
        self._cleaner = cleaner
        self._doing = "copying the disk"
        self._layout = layout
        self._copy = copy
        self._target = target
        self._live_of = live_of
        self._freezer = freezer
        self._record = read_record(copy) or Record(target=str(target))
        self._bytes = 0, 0
        self._error: PaddockError | None = None

    def told(self) -> Snapshot:
        """How far it is. Raises DiskFull when it failed for that."""
        if isinstance(self._error, DiskFull):
            raise self._error
        told = _told(self._record, *self._bytes, error=str(self._error or ""))
        return told if told.done else told.model_copy(update={"doing": self._doing})

    def run(self) -> None:
        try:
            self._make()
        except GivenUp:
            return
        except PaddockError as e:
            self._fail(e)
        except OSError as e:
            self._fail(Refused(f"the disk of {self.machine} can't be copied: {e}", hint="see the node's log"))
        else:
            log.info("snapshot %s of machine %s is made", self._copy.snapshot, self.machine)

    def _fail(self, error: PaddockError) -> None:
        log.warning("snapshot %s of machine %s failed: %s", self._copy.snapshot, self.machine, error)
        try:
            give_up(self._copy, read_record(self._copy), self._live_of())
        except (PaddockError, OSError) as e:
            log.warning("what is left of snapshot %s could not be removed: %s", self._copy.snapshot, e)
        self._error = error

    def _make(self) -> None:
        if self._record.done:  # and taken from its target since
            self._record = Record(target=str(self._target))
        self._write(target=str(self._target))
        if not self._record.copied:
            self._fill()
            self._write(copied=True)
        live = self._live_of()
        if live and live.process.pid == self._record.pid:
            copies.dismiss(self._copy, live)
        if self._cleaner and not self._record.clean:
            self._say(0, "starting a helper guest")
            cleaned, shared = self._cleaner.clean(self.stop, self._say)
            self._write(clean=True, cleaned=cleaned, shared=shared)
        beside = self._target.with_name(f"{self._target.name}-{Role.VARIABLES}")
        firmware.copy_variables(self._copy.directory, beside)
        copies.deliver(self._copy, self._target)
        size = files.size_of(self._target)
        self._bytes = size, size
        self._write(done=True, size=size)

    def _fill(self) -> None:
        for _ in range(RESTARTS):
            live = self._live_of()
            if self._record.pid and (live is None or live.process.pid != self._record.pid):
                raise copies.ended()
            if live and self._under_way(live):
                return copies.follow(self._copy, live, self.stop, self._report)
            if live:
                self._begin(live)
            elif self._convert():
                return None
        raise Unavailable("the machine was started and stopped while its disk was copied", hint="ask again later")

    def _under_way(self, live: Live) -> bool:
        return self._record.pid is not None and copies.find(self._copy, live) is not None

    def _begin(self, live: Live) -> None:
        """Take the moment: everything is prepared before the guest is held still."""
        copies.cancel(self._copy, live)
        if copies.busy(live):
            raise Conflict("another snapshot of this machine is being made", hint="ask again when it is done")
        copies.prepare(self._copy, copies.needed(self._layout, self._copy.directory))
        copies.open_target(self._copy, live)
        self._write(pid=live.process.pid, frozen=False, not_frozen=UNKNOWN)
        with self._freezer.held_still(live) as not_frozen:
            copies.begin(self._copy, live)
        self._write(frozen=not not_frozen, not_frozen=not_frozen)

    def _convert(self) -> bool:
        """Copy the disk of a machine that is off; False when it was started meanwhile, so that the copy is worth
        nothing."""
        directory = self._copy.directory
        self._copy.remove()
        size = copies.needed(self._layout, directory)
        copies.prepare(self._copy, size)
        not_frozen = _how_it_ended(directory)
        before = _mark(directory)
        if before is None:
            return False
        try:
            copies.convert(self._copy, size, self.stop, self._report)
        except Refused:
            if _mark(directory) == before:
                raise
        if _mark(directory) != before:
            return False
        self._write(pid=None, frozen=not not_frozen, not_frozen=not_frozen)
        return True

    def _report(self, done: int, total: int) -> None:
        self._bytes = done, total

    def _say(self, _percent: int, doing: str) -> None:
        self._doing = f"cleaning the copy: {doing}"

    def _write(self, **changes: object) -> None:
        record = self._record.model_copy(update=changes)
        files.write_whole(_path(self._copy), record.model_dump_json().encode())
        self._record = record  # told only once it is kept


def read_record(copy: Copy) -> Record | None:
    """None when it was never begun, or was given up."""
    try:
        return Record.model_validate_json(_path(copy).read_bytes())
    except (OSError, ValidationError):
        return None


def give_up(copy: Copy, known: Record | None, live: Live | None) -> None:
    """End the copy and remove what is left of it, its target excepted. Raises Unavailable when QEMU is silent,
    and not for being about to end."""
    if known and known.pid and live and live.process.pid == known.pid:
        try:
            copies.cancel(copy, live)
        except Unavailable:
            if not live.process.gone(ENDING_WAIT):
                raise
    copy.remove()
    _path(copy).unlink(missing_ok=True)
    if known:
        target = Path(known.target)
        target.with_name(f".{target.name}.new").unlink(missing_ok=True)


def _tidy(directory: MachineDir) -> None:
    """Records of snapshots that were made and taken from their targets long since are of no use to anybody."""
    for path in directory.root.glob("snapshot-*.json"):
        with contextlib.suppress(OSError, ValidationError):
            known = Record.model_validate_json(path.read_bytes())
            if known.done and not Path(known.target).exists():
                path.unlink()


def _path(copy: Copy) -> Path:
    return copy.directory.root / f"{copy.name}.json"


def _told(known: Record, done: int, total: int, error: str = "") -> Snapshot:
    return Snapshot(
        done=known.done,
        bytes_done=done,
        bytes_total=total,
        error=error,
        frozen=known.frozen,
        not_frozen="" if known.frozen else known.not_frozen,
        cleaned=known.cleaned,
        shared=known.shared,
    )


def _how_it_ended(directory: MachineDir) -> str:
    """Why the disk of a machine that is off may be like after a power cut; empty when its guest ended it itself."""
    last = record.read_run(directory)
    if last.phase == Phase.DEFINED or last.reason == GUEST_SHUTDOWN:
        return ""
    return f"the machine is off, and its guest had not shut down: {last.reason or last.phase}"


def _mark(directory: MachineDir) -> tuple[int, int, int] | None:
    """What changes when a QEMU uses the disk; None while one does."""
    if files.is_locked(directory.lock):
        return None
    status = directory.system_disk.lstat()
    return status.st_ino, status.st_mtime_ns, status.st_size
