"""The fence in front of every driver: changes of a machine run one at a time, and never after a newer owner's.

The highest epoch seen, and whether the machine was removed, is kept in `<directory>/<uuid>.json`, so that a delayed
call of a worker that was replaced changes nothing, even after a restart of this process. Volumes have owners of their
own, and the same in `<directory>/volumes/`.
"""

import errno
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from pydantic import ValidationError

from paddock.base import clock
from paddock.base.errors import Conflict, Invalid, NotFound, Removed, StaleEpoch, Unavailable
from paddock.base.files import overwrite, write_atomically
from paddock.hypervisor.base import Capabilities, Disks, Guest, Hypervisor, Machines, Streams, Volumes, WarmImages
from paddock.machine.cleaning import Cleaning
from paddock.machine.image import ImageManifest
from paddock.machine.spec import Disk, Frozen, Machine, Power, Volume
from paddock.machine.state import (
    Adapted,
    Change,
    Fork,
    HostFacts,
    MachineState,
    Metrics,
    Progress,
    Readiness,
    Sizes,
    Snapshot,
    VolumeState,
)

log = logging.getLogger(__name__)

TOMBSTONE_LIFE = timedelta(days=30)
PRUNE_EVERY = 24 * 3600.0  # seconds
LOCK_WAIT = 10.0  # seconds: as long as a caller waits for a node's answer


class Record(Frozen):
    """What is remembered of a machine or a volume."""

    epoch: int = 0
    removed: datetime | None = None


class Gate:
    """Lets changes of a machine (or of whatever `what` is) through, one at a time, in the order of their epochs."""

    def __init__(self, directory: Path | None, lock_wait: float = LOCK_WAIT, what: str = "machine") -> None:
        self._what = what
        self._directory = directory
        self._lock_wait = lock_wait
        self._locks: dict[UUID, threading.Lock] = {}
        self._records: dict[UUID, Record] = {}
        if directory:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def record(self, uuid: UUID) -> Record:
        """What is remembered of it, which may be nothing."""
        known = self._records.get(uuid)
        # A reader without the lock must never put what it loaded over what a change has saved meanwhile.
        return known or self._records.setdefault(uuid, self._load(uuid))

    @contextmanager
    def change(self, uuid: UUID, epoch: int, *, removal: bool = False) -> Iterator[Record]:
        """Around a change; gives what was remembered before. Raises StaleEpoch, and Unavailable when another change
        takes too long."""
        if epoch < 0:
            raise Invalid(f"epoch {epoch} is negative", field="epoch")
        with self._locked(uuid):
            before = self.record(uuid)
            self._admit(uuid, epoch, removal)
            yield before

    def take_back(self, uuid: UUID, epoch: int) -> None:
        """Within a removal that was refused before it touched anything: it is there, and may be changed again."""
        self._save(uuid, Record(epoch=epoch))

    @contextmanager
    def _locked(self, uuid: UUID) -> Iterator[None]:
        lock = self._locks.setdefault(uuid, threading.Lock())
        if not lock.acquire(timeout=self._lock_wait):
            waited = f"another change of {self._what} {uuid} did not end within {self._lock_wait:g} s"
            raise Unavailable(waited, hint="try again; if it lasts, look at the node agent's log")
        try:
            yield
        finally:
            lock.release()

    def _admit(self, uuid: UUID, epoch: int, removal: bool) -> None:
        known = self.record(uuid)
        if epoch < known.epoch:
            raise StaleEpoch(f"epoch {epoch} is older than {known.epoch}, which {self._what} {uuid} has already seen")
        if known.removed and not removal:
            raise Removed(f"{self._what} {uuid} was removed in epoch {known.epoch}; epoch {epoch} can't bring it back")
        if removal and not known.removed:
            # Before the removal begins: one that is cut off half-way can only be finished.
            self._save(uuid, Record(epoch=epoch, removed=clock.now()))
        elif epoch > known.epoch:
            self._save(uuid, known.model_copy(update={"epoch": epoch}))

    def _save(self, uuid: UUID, record: Record) -> None:
        if self._directory:
            # A power cut ends every call under way, so only tombstones must survive one.
            path, text, sync = self._directory / f"{uuid}.json", record.model_dump_json(), record.removed is not None
            try:
                write_atomically(path, text, sync=sync)
            except OSError as e:
                if e.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self._save_without_room(path, record, e)
        self._records[uuid] = record

    def _save_without_room(self, path: Path, record: Record, error: OSError) -> None:
        """A full disk must not stop a power off or a removal: those are what makes room."""
        if path.exists():
            overwrite(path, record.model_dump_json(), sync=record.removed is not None)
        elif record.removed is None:
            raise error
        else:  # no change was ever let through, so there is nothing to remove
            log.warning("the tombstone of %s %s is kept in memory only: %s", self._what, path.stem, error)

    def _load(self, uuid: UUID) -> Record:
        if self._directory is None:
            return Record()
        path = self._directory / f"{uuid}.json"
        try:
            return Record.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return Record()
        except ValidationError:
            log.warning("%s is damaged (a power cut?): the next call's epoch is taken for the newest", path)
            return Record()

    def old_tombstones(self) -> list[UUID]:
        """What was removed longer ago than any call can be delayed."""
        before = clock.now() - TOMBSTONE_LIFE
        paths = self._directory.glob("[0-9a-f]*.json") if self._directory else ()
        aged = [UUID(p.stem) for p in paths if p.stat().st_mtime < before.timestamp()]
        return [u for u in aged if (removed := self.record(u).removed) and removed < before]

    def forget(self, uuid: UUID) -> None:
        """Drop what is remembered of it."""
        with self._locked(uuid):
            self._records.pop(uuid, None)
            if self._directory:
                (self._directory / f"{uuid}.json").unlink(missing_ok=True)


class Fenced:
    """A hypervisor behind its fence. Without a directory it forgets with the process."""

    def __init__(self, hypervisor: Hypervisor, directory: Path | None, lock_wait: float = LOCK_WAIT) -> None:
        self._inner = hypervisor
        self._gate = Gate(directory, lock_wait)
        self._machines = FencedMachines(hypervisor.machines, self._gate)
        self._disks = FencedDisks(hypervisor.disks, self._gate)
        volumes = Gate(directory / "volumes" if directory else None, lock_wait, "volume")
        self._volumes = FencedVolumes(hypervisor.volumes, volumes)

    @property
    def machines(self) -> Machines:
        return self._machines

    @property
    def disks(self) -> Disks:
        return self._disks

    @property
    def volumes(self) -> Volumes:
        return self._volumes

    @property
    def warm(self) -> WarmImages:
        """They change no machine, and nobody owns them."""
        return self._inner.warm

    @property
    def guest(self) -> Guest:
        return self._inner.guest

    @property
    def streams(self) -> Streams:
        return self._inner.streams

    def close(self) -> None:
        self._inner.close()


class FencedMachines:
    """Machines whose changes pass the gate, and whose states tell the epoch."""

    def __init__(self, inner: Machines, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate
        self._told: dict[UUID, tuple[MachineState, MachineState]] = {}
        self._pruned = clock.monotonic()
        self._prune()

    def capabilities(self) -> Capabilities:
        return self._inner.capabilities()

    def facts(self) -> HostFacts:
        return self._inner.facts()

    def ensure(self, machine: Machine, epoch: int) -> None:
        with self._gate.change(machine.uuid, epoch):
            self._inner.ensure(machine, epoch)

    def power(self, machine: UUID, power: Power, epoch: int) -> MachineState:
        with self._gate.change(machine, epoch):
            return self._inner.power(machine, power, epoch)

    def hibernate(self, machine: UUID, epoch: int) -> Progress:
        with self._gate.change(machine, epoch):
            return self._inner.hibernate(machine, epoch)

    def fork(self, machine: UUID, point: UUID, epoch: int) -> Fork:
        """It goes on in the background, as a snapshot does."""
        with self._gate.change(machine, epoch):
            return self._inner.fork(machine, point, epoch)

    def drop_fork(self, point: UUID) -> None:
        """A point is nobody's, and outlives the machine that it was made of."""
        self._inner.drop_fork(point)

    def remove(self, machine: UUID, epoch: int) -> None:
        with self._gate.change(machine, epoch, removal=True):
            self._inner.remove(machine, epoch)
        if clock.monotonic() - self._pruned > PRUNE_EVERY:
            self._prune()

    def adapt(self, machine: UUID, epoch: int) -> Adapted:
        with self._gate.change(machine, epoch):
            return self._inner.adapt(machine, epoch)

    def state(self, machine: UUID) -> MachineState:
        return self._with_epoch(self._inner.state(machine))

    def changes(self, cursor: int, timeout: float) -> Change:
        change = self._inner.changes(cursor, timeout)
        states = tuple(self._remembered(s) for s in change.machines)
        if len(self._told) > 2 * len(states) + 100:
            self._told.clear()
        return Change.model_construct(cursor=change.cursor, machines=states)

    def readiness(self, machine: UUID) -> Readiness:
        return self._inner.readiness(machine)

    def metrics(self, machine: UUID, start: float, end: float, step: float) -> Metrics:
        return self._inner.metrics(machine, start, end, step)

    def sizes(self, machine: UUID) -> Sizes:
        return self._inner.sizes(machine)

    def _with_epoch(self, state: MachineState) -> MachineState:
        return state.model_copy(update={"epoch": self._gate.record(state.uuid).epoch})

    def _remembered(self, state: MachineState) -> MachineState:
        """The same as the last time while nothing changed: there may be ten thousand of them."""
        before, told = self._told.get(state.uuid, (None, None))
        if told is None or before is not state or told.epoch != self._gate.record(state.uuid).epoch:
            told = self._with_epoch(state)
            self._told[state.uuid] = (state, told)
        return told

    def _prune(self) -> None:
        self._pruned = clock.monotonic()
        for machine in self._gate.old_tombstones():
            try:
                self._inner.state(machine)
            except NotFound:
                self._gate.forget(machine)


class FencedDisks:
    """Disks whose changes pass the gate. Images belong to no machine."""

    def __init__(self, inner: Disks, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def ensure_image(self, manifest: ImageManifest, source: str) -> Progress:
        return self._inner.ensure_image(manifest, source)

    def images(self) -> tuple[str, ...]:
        return self._inner.images()

    def remove_image(self, image: str) -> None:
        self._inner.remove_image(image)

    def ensure_disk(self, machine: UUID, disk: Disk, epoch: int) -> None:
        with self._gate.change(machine, epoch):
            self._inner.ensure_disk(machine, disk, epoch)

    def snapshot(
        self, machine: UUID, snapshot: UUID, target: str, epoch: int, cleaning: Cleaning | None = None
    ) -> Snapshot:
        """The copying goes on in the background, outside the gate: it holds up nothing, and a removal ends it."""
        with self._gate.change(machine, epoch):
            return self._inner.snapshot(machine, snapshot, target, epoch, cleaning)

    def drop_snapshot(self, machine: UUID, snapshot: UUID, epoch: int) -> None:
        with self._gate.change(machine, epoch):
            self._inner.drop_snapshot(machine, snapshot, epoch)

    def set_password(self, machine: UUID, user: str, password_hash: str, helper: str, epoch: int) -> Progress:
        """It goes on in the background, as a snapshot does."""
        with self._gate.change(machine, epoch):
            return self._inner.set_password(machine, user, password_hash, helper, epoch)


class FencedVolumes:
    """Volumes whose changes pass a gate of their own, and whose states tell the epoch."""

    def __init__(self, inner: Volumes, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate
        self._pruned = clock.monotonic()
        self._prune()

    def ensure_volume(self, volume: Volume, epoch: int) -> None:
        with self._gate.change(volume.uuid, epoch):
            self._inner.ensure_volume(volume, epoch)

    def remove_volume(self, volume: UUID, epoch: int) -> None:
        with self._gate.change(volume, epoch, removal=True) as before:
            try:
                self._inner.remove_volume(volume, epoch)
            except Conflict:  # a machine has it, so nothing of it was touched
                if not before.removed:
                    self._gate.take_back(volume, epoch)
                raise
        if clock.monotonic() - self._pruned > PRUNE_EVERY:
            self._prune()

    def volumes(self) -> tuple[VolumeState, ...]:
        return tuple(v.model_copy(update={"epoch": self._gate.record(v.uuid).epoch}) for v in self._inner.volumes())

    def _prune(self) -> None:
        self._pruned = clock.monotonic()
        if not (old := self._gate.old_tombstones()):
            return
        there = {state.uuid for state in self._inner.volumes()}
        for volume in old:
            if volume not in there:
                self._gate.forget(volume)
