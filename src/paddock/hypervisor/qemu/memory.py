"""The file of a hibernated machine's memory: whether it is there and sound, and how QEMU reads it."""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from paddock.base import clock
from paddock.base.errors import PaddockError, Refused, Unavailable
from paddock.hypervisor.qemu import files
from paddock.hypervisor.qemu.devices import volume_words
from paddock.hypervisor.qemu.layout import MachineDir
from paddock.hypervisor.qemu.live import Live
from paddock.hypervisor.qemu.record import Given
from paddock.machine.spec import Attached, Frozen, Machine
from paddock.machine.state import Accelerator

LOAD_SECONDS = 900.0
CANCEL_SECONDS = 10.0
UNDER_WAY = {"setup", "active", "device", "pre-switchover", "wait-unplug", "cancelling"}
LOOK_EVERY = 0.02  # seconds
FD = "memory"  # QEMU's name for our descriptor
URI = f"fd:{FD}"
WAITING = "inmigrate"  # the run state of a QEMU that has not been given all of its memory yet
_BLOCK = 4 * 1024 * 1024

Marks = dict[str, tuple[int, int, int]]

log = logging.getLogger(__name__)


class Unusable(Refused):
    """What was written can't be gone on with."""


class Kept(Frozen):
    """`memory.json`: what the file beside it is the memory of, and by whom it can be read."""

    machine: Machine  # as QEMU was started with it, and what was plugged since
    size: int
    sha256: str
    accelerator: Accelerator
    qemu: str
    given: Given | None
    serial_from: int
    places: dict[str, int]  # of its volumes on the SCSI bus
    disks: Marks  # of its disks, by name: another one after somebody else wrote to it
    warm: bool = False  # its machine had begun from a warm image
    depth: int = 0  # how many forks lie between it and a boot


def is_there(directory: MachineDir) -> bool:
    """Whether the machine's memory lies in a file that is whole."""
    return directory.memory.exists() and directory.memory_record.exists()


def discard(directory: MachineDir) -> None:
    """It is not to be used any more, even after a power cut."""
    found = directory.memory.exists()
    for path in (directory.memory, directory.memory_record, unfinished(directory)):
        path.unlink(missing_ok=True)
    if found:
        _sync(directory.root)


def unfinished(directory: MachineDir) -> Path:
    """Where it is written."""
    return directory.memory.with_name(".memory.new")


def read(directory: MachineDir) -> Kept:
    """What is known of the file. Raises Unusable."""
    try:
        return Kept.model_validate_json(directory.memory_record.read_bytes())
    except (OSError, ValidationError) as e:
        raise Unusable("the record of its memory is missing or damaged") from e


def check(directory: MachineDir, wanted: Machine, qemu: str, accelerator: Accelerator, now: Marks) -> Kept:
    """That the file is sound, that this QEMU can read it, and that its disks are as it knows them. Raises Unusable."""
    kept = read(directory)
    if kept.accelerator != accelerator:
        raise Unusable(f"its memory was written under {kept.accelerator}, and this host has {accelerator} now")
    if _series(kept.qemu) != _series(qemu):
        raise Unusable(f"its memory was written by QEMU {kept.qemu}, and this is QEMU {qemu}")
    if wanted.rescue:
        raise Unusable("the rescue system was to be booted instead of what it was hibernated with")
    if gone := {a.volume for a in kept.machine.volumes} - {a.volume for a in wanted.volumes}:
        raise Unusable(f"volume {gone.pop()} was taken from it while it was hibernated")
    if changed := [name for name, mark in kept.disks.items() if now.get(name) != mark]:
        raise Unusable(f"disk {changed[0]} was changed while it was hibernated")
    try:
        size, found = hashed(directory.memory)
    except OSError as e:
        raise Unusable(f"its memory can't be read: {e}") from e
    if (size, found) != (kept.size, kept.sha256):
        what = f"{size} bytes instead of {kept.size}" if size != kept.size else "another content than was written"
        raise Unusable(f"its memory is damaged: the file has {what}")
    return kept


def hashed(path: Path, sync: bool = False) -> tuple[int, str]:
    """Bytes and sha256 of a file of ours; `sync`: and it is on the disk."""
    fd = files.open_regular(path)
    try:
        if sync:
            os.fsync(fd)
        found, size = hashlib.sha256(), 0
        while block := os.read(fd, _BLOCK):
            found.update(block)
            size += len(block)
        return size, found.hexdigest()
    finally:
        os.close(fd)


def marks(directory: MachineDir, machine: Machine, volume_file: Callable[[UUID], Path]) -> Marks:
    """What changes when somebody writes to one of its disks."""
    paths = {"system": directory.system_disk}
    for attached in machine.volumes:
        with contextlib.suppress(PaddockError):
            paths[str(attached.volume)] = volume_file(attached.volume)
    return {name: _mark(path) for name, path in paths.items() if path.exists()}


def _mark(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def words(kept: Kept, command_line: list[str]) -> list[str]:
    """What to start the QEMU with that goes on, from the words of the machine without its volumes: each volume is in
    its place on the bus, and QEMU waits for its memory, then for us."""
    volumes = [word for attached in kept.machine.volumes for word in _placed(kept, attached)]
    return [*command_line, *volumes, "-incoming", "defer"]


def _placed(kept: Kept, attached: Attached) -> list[str]:
    *head, device = volume_words(attached)
    place = next((n for name, n in kept.places.items() if f"id={name}," in device), None)
    return [*head, device if place is None else f"{device},scsi-id={place}"]


def load(live: Live, begin: Callable[[], None] | None = None, look_every: float = LOOK_EVERY) -> None:
    """Give a QEMU that waits for its memory the file, unless it reads it already, and wait until it has read it all.
    `begin`: gives it another one. Raises Unusable when it does not take it, Unavailable when it is silent."""
    deadline = clock.monotonic() + LOAD_SECONDS
    try:
        if live.refresh() == WAITING and not migration(live).get("status"):
            begin() if begin else _give(live)
        while live.refresh() == WAITING:
            if migration(live).get("status") == "failed":
                raise Unusable(f"QEMU does not take its memory: {migration(live).get('error-desc', 'it says no more')}")
            if clock.monotonic() > deadline:
                raise Unusable(f"QEMU did not read its memory within {LOAD_SECONDS:g} s")
            clock.sleep(look_every)
    except (Unavailable, Refused) as e:
        if live.process.gone(1.0):
            raise Unusable("QEMU does not take its memory") from e
        raise


def _give(live: Live) -> None:
    fd = files.open_regular(live.directory.memory)
    try:
        live.give(FD, fd)
        live.execute("migrate-incoming", {"uri": URI})
    finally:
        os.close(fd)


def stop_writing(live: Live) -> None:
    """Have a QEMU that writes its memory give that up. Raises Unavailable when it does not."""
    deadline = clock.monotonic() + CANCEL_SECONDS
    while (status := migration(live).get("status")) in UNDER_WAY:
        if status != "cancelling":
            live.execute("migrate_cancel")
        if clock.monotonic() > deadline:
            raise Unavailable(f"QEMU does not give up writing its memory within {CANCEL_SECONDS:g} s", hint="ask again")
        clock.sleep(LOOK_EVERY)


def migration(live: Live) -> dict[str, Any]:
    """What QEMU says of the one that is under way, or was the last."""
    found: dict[str, Any] = live.execute("query-migrate")
    return found


def _series(version: str) -> str:
    """Of one series of QEMU, all speak the same."""
    return ".".join(version.split(".")[:2])


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
