"""The warm images of a node: which there are, whether they can be trusted, what they take, and their end.

None is used before its checksums were found right by this process, and none that changed since. Deleting one leaves
machines that started from it alone: they have its memory, and its disk stays as long as theirs stand on it.
"""

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from paddock.base import clock
from paddock.base.errors import DiskFull, Unavailable
from paddock.hypervisor.qemu import disks, files, identity, memory
from paddock.hypervisor.qemu.layout import Layout, MachineDir, WarmDir
from paddock.hypervisor.qemu.warm.key import Key
from paddock.hypervisor.qemu.warm.ways import WAYS, Way
from paddock.machine.spec import Frozen
from paddock.machine.warm import WarmImage

USERS_EVERY = 20.0  # seconds between counts of machines, for who only wants to know
SEEN_SECONDS = 30 * 86400.0  # a use that is longer ago is none

_NEVER = datetime.min.replace(tzinfo=UTC)

Stamp = tuple[int, int, int, int]

log = logging.getLogger(__name__)


class Part(Frozen):
    """One of its files."""

    size: int
    sha256: str


class Record(Frozen):
    """`warm.json`. With `unusable`, there is none, and why: it is not tried again."""

    id: str  # of this one; others may have had the same key
    key: Key
    name: str
    disk: int = 0  # bytes that the guest sees
    seed: int = 0  # bytes of the CD that it was told by
    parts: dict[str, Part] = {}
    made: datetime
    seconds: float = 0.0  # that it took
    unusable: str = ""

    @property
    def way(self) -> Way:
        """How it was written, and is to be read."""
        return WAYS[self.key.way]


class WarmStore:
    """See above. `budget`: bytes that all of them together may take; 0: there are none."""

    def __init__(self, layout: Layout, budget: int) -> None:
        self._layout = layout
        self.budget = budget
        self._trusted: dict[str, tuple[Record, tuple[Stamp, ...]]] = {}
        self._checking: set[str] = set()
        self._lock = threading.Lock()
        self._standing = threading.Lock()  # nobody removes a disk while somebody is about to stand on it
        self._users: tuple[float, dict[str, int]] = float("-inf"), {}
        identity.make_directory(layout.warm)
        for rest in layout.warm.glob(".*/"):  # of what an earlier process was making, whose guests died with it
            shutil.rmtree(rest, ignore_errors=True)
        for note in layout.warm.glob(".seen-*"):
            if _age(note) > SEEN_SECONDS:
                note.unlink(missing_ok=True)
        self.sweep()

    def find(self, key: Key) -> tuple[Record | None, str]:
        """The warm image, or why there is none that can be used now. It is looked through in the background first,
        once in the life of this process and whenever its files changed."""
        record = self.of(key)
        if record is None:
            return None, ""
        if record.unusable:
            return None, record.unusable
        stamps = self._stamps(record)
        if self._trusted.get(record.id) == (record, stamps):
            return record, ""
        self._look_through(record, stamps)
        return None, "its warm image is being checked"

    def of(self, key: Key) -> Record | None:
        """What is known of the one of that key."""
        names = [d.root.name for d in self._directories() if d.root.name.startswith(key.id)]
        return next((record for name in names if (record := self.read(name)) and record.key == key), None)

    def read(self, id: str) -> Record | None:
        """What is known of it, sound or not."""
        try:
            record = Record.model_validate_json(self._layout.warm_image(id).record.read_bytes())
        except (OSError, ValidationError):
            return None
        return record if record.id == id else None

    def trust(self, record: Record) -> None:
        """It was made just now."""
        self._trusted[record.id] = (record, self._stamps(record))

    def give_up(self, key: Key, name: str, why: str) -> None:
        """There can be none of that key: it is not tried again until somebody removes this note."""
        record = Record(id=f"{key.id}-none", key=key, name=name, made=clock.now(), unusable=why)
        identity.make_directory(self._layout.warm_image(record.id).root)
        files.write_whole(self._layout.warm_image(record.id).record, record.model_dump_json(indent=1).encode())

    def seen(self, key: Key) -> bool:
        """Whether a machine of that key was started not long ago; it is noted, where the disk has room for that."""
        note = self._layout.warm / f".seen-{key.id}"
        before = _age(note) < SEEN_SECONDS
        with contextlib.suppress(OSError):
            note.touch(0o600)
        return before

    def stand_on(self, record: Record, machine: MachineDir, size: int) -> None:
        """Give a machine a disk that stands on its. Raises Unavailable when it was just removed, DiskFull, Conflict
        while the machine runs."""
        with self._standing:
            if self.read(record.id) is None:
                raise Unavailable("it was removed in this moment")
            disks.stand_on_warm(self._layout, machine, record.id, size)

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """Meanwhile no disk is removed, so that another may be made to stand on it."""
        with self._standing:
            yield

    def note_use(self, id: str) -> None:
        """A machine starts from it."""
        with contextlib.suppress(OSError):
            self._layout.warm_image(id).used.touch()

    def images(self) -> tuple[WarmImage, ...]:
        """All that there are."""
        records = [r for d in self._directories() if (r := self.read(d.root.name))]
        users = self._known_users() if records else {}
        return tuple(self._described(r, users.get(r.id, 0)) for r in records)

    def _known_users(self) -> dict[str, int]:
        """The same, as it was not long ago: the node is asked often."""
        looked, users = self._users
        if clock.monotonic() - looked > USERS_EVERY:
            self._users = clock.monotonic(), (users := self.users())
        return users

    def users(self) -> dict[str, int]:
        """How many disks of machines, and of fork points, stand on each one's disk."""
        marks = [*_stood_on(self._layout.machines), *_stood_on(self._layout.warm)]
        return {mark: marks.count(mark) for mark in set(marks)}

    def remove(self, id: str) -> None:
        """Nobody starts from it any more. What machines need of it stays. Removing what is not there succeeds."""
        with self._lock:
            self._trusted.pop(id, None)
            directory = self._layout.warm_image(id)
            for path in (directory.record, directory.ram, directory.devices):
                path.unlink(missing_ok=True)
        self.sweep()

    def sweep(self) -> None:
        """Remove what nobody needs: the disks of those that were removed, without a disk on them; fork points' too."""
        with self._standing:
            before: list[WarmDir] = []
            while (unused := self._unused()) and unused != before:
                before = unused
                for directory in unused:  # each may have been the last that stood on another
                    shutil.rmtree(directory.root, ignore_errors=True)
                    for overlay in self._layout.overlays.glob(f"{directory.root.name}-*.qcow2"):
                        overlay.unlink(missing_ok=True)

    def _unused(self) -> list[WarmDir]:
        users = {*self.users(), *_stood_on(self._layout.pool)}
        names = [d.root.name for d in self._directories() if d.root.name not in users]
        found = [self._layout.warm_image(name) for name in names if self.read(name) is None]
        return [d for d in found if not d.fork_record.exists()]

    def make_room(self, size: int, keep: str = "") -> None:
        """Remove the least recently used until `size` more bytes are within the budget; never the one of that id.
        Raises DiskFull."""
        if size > self.budget:
            raise DiskFull(
                f"a warm image of {size} bytes is more than all may take on this node, {self.budget} bytes",
                hint="raise warm_budget_gib in paddock.toml",
            )
        images = sorted(self.images(), key=lambda image: image.used or image.made or _NEVER)
        taken = sum(image.size for image in images)
        for image in images:
            if taken + size <= self.budget:
                return
            if not image.unusable and image.id != keep:
                log.info("warm image %s of %s makes room", image.id, image.name)
                self.remove(image.id)
                taken -= image.size

    def _directories(self) -> list[WarmDir]:
        return [WarmDir(d) for d in self._layout.warm.iterdir() if d.is_dir() and not d.name.startswith(".")]

    def _described(self, record: Record, machines: int) -> WarmImage:
        directory = self._layout.warm_image(record.id)
        with contextlib.suppress(OSError):
            used = datetime.fromtimestamp(directory.used.stat().st_mtime, UTC)
            return _image(record, machines, taken(directory), used)
        return _image(record, machines, taken(directory), None)

    def _stamps(self, record: Record) -> tuple[Stamp, ...]:
        root = self._layout.warm_image(record.id).root
        return tuple(_stamp(root / name) for name in record.parts)

    def _look_through(self, record: Record, stamps: tuple[Stamp, ...]) -> None:
        with self._lock:
            if record.id in self._checking:
                return
            self._checking.add(record.id)
        threading.Thread(target=self._check, args=(record, stamps), name="warm-check", daemon=True).start()

    def _check(self, record: Record, stamps: tuple[Stamp, ...]) -> None:
        id = record.id
        try:
            if damaged := [name for name, part in record.parts.items() if not self._sound(id, name, part)]:
                log.warning("warm image %s of %s is damaged (%s): it is removed", id, record.name, damaged[0])
                self.remove(id)
            else:
                self._trusted[id] = (record, stamps)
        finally:
            with self._lock:
                self._checking.discard(id)

    def _sound(self, id: str, name: str, part: Part) -> bool:
        try:
            size, found = memory.hashed(self._layout.warm_image(id).root / name)
        except OSError:
            return False
        return (size, found) == (part.size, part.sha256)


def taken(directory: WarmDir) -> int:
    """Bytes of disk that it really takes."""
    return sum(f.lstat().st_blocks * 512 for f in directory.root.iterdir()) if directory.root.exists() else 0


def _image(record: Record, machines: int, size: int, used: datetime | None) -> WarmImage:
    key = record.key
    return WarmImage(
        id=record.id, image=key.image, name=record.name, scope=key.scope, cpus=key.cpus, memory_mib=key.memory_mib,
        disk=record.disk, size=size, made=record.made, used=used, machines=machines, shared=record.way.shared,
        unusable=record.unusable,
    )  # fmt: skip


def _stood_on(directories: Path) -> list[str]:
    """The warm images whose disks those of machines stand on."""
    found = directories.iterdir() if directories.exists() else ()
    return [mark for directory in found if (mark := disks.warm_of(directory))]


def _age(note: Path) -> float:
    """Seconds since it was touched; of one that is not there: more than any."""
    try:
        return clock.now().timestamp() - note.stat().st_mtime
    except OSError:
        return float("inf")


def _stamp(path: Path) -> Stamp:
    """Another one after anybody wrote to it."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return (0, 0, 0, 0)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
