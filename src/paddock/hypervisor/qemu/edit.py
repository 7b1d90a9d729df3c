"""Changes of a machine's disk while it is off, each in a helper guest, and each whole or not at all.

The guest works on an empty overlay over the disk. Only when it has done its job, and the overlay is on stable storage,
a mark is set, and the overlay's content is put into the disk. Whoever dies before the mark leaves the disk as it was;
after it, what is missing is put there by the next who needs the disk, before anything else may happen to it.
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from paddock.base import clock, run
from paddock.base.errors import CommandFailed, Conflict, NotFound, PaddockError, Refused
from paddock.hypervisor.qemu import disks, files, helper_guest, identity
from paddock.hypervisor.qemu.copies import GivenUp
from paddock.hypervisor.qemu.helper_guest import Boot, Job, Place
from paddock.hypervisor.qemu.layout import Layout, MachineDir
from paddock.hypervisor.qemu.works import Work, Works
from paddock.machine.spec import GIB, MIB
from paddock.machine.state import Progress

COMMIT_SECONDS = 600.0
ROOM = 64 * MIB  # bytes that must be free for what a job writes, twice: in the overlay and in the disk
_MEMORY = 4 * GIB  # address space of qemu-img

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Edit:
    """Where one machine's edit lies."""

    directory: MachineDir

    @property
    def overlay(self) -> Path:
        return self.directory.root / "edit.qcow2"

    @property
    def mark(self) -> Path:
        """It is there while the overlay's content belongs into the disk."""
        return self.directory.root / "edit-done"

    @property
    def guest(self) -> Path:
        return self.directory.root / "edit-guest"

    def remove(self) -> None:
        """The mark last: it must not be gone while the overlay is needed, nor stay for another one."""
        if self.mark.exists():
            self.mark.unlink()
            _sync(self.directory.root)
        self.overlay.unlink(missing_ok=True)
        helper_guest.remove(self.guest)


class Edits:
    """The edits of a node. `boot_of` prepares the helper guest of an image."""

    def __init__(self, layout: Layout, boot_of: Callable[[str], Boot]) -> None:
        self._layout = layout
        self._boot_of = boot_of
        self._works: Works[_Work] = Works()
        for directory in [d for d in layout.machines.iterdir() if (d / "edit.qcow2").exists()]:
            with contextlib.suppress(ValueError):
                self._settle_left(UUID(directory.name))

    def set_password(self, machine: UUID, user: str, password_hash: str, helper: str) -> Progress:
        """How far it is; begins it when nothing is under way. A failure is told once. Raises NotFound, Conflict."""
        job = Job("password", (("user", user), ("hash", password_hash)))
        with self._works.lock:
            work = self._works.find(machine)
            if work is None:
                work = self._works.begin(machine, self._made(machine, job, helper))
            elif work.job != job:
                return Progress(done=False, doing="waiting for another change of its disk")
        self._works.look(machine, work)
        return work.told()

    def settle(self, machine: UUID) -> None:
        """Before anything else happens to the disk: put there what belongs there. Raises Conflict while an edit is
        under way, DiskFull, Refused."""
        with self._works.lock:
            if self._works.busy(machine):
                raise Conflict("its disk is being changed in a helper guest", hint="try again when that is done")
        edit = Edit(self._layout.machine(machine))
        if edit.mark.exists():
            with held_still(edit.directory.lock):
                finish(edit)

    def forget(self, machine: UUID) -> None:
        """The machine is being removed, with its disk."""
        self._works.forget(machine)

    def close(self) -> None:
        """Give up what is under way; it is begun again when somebody asks."""
        self._works.close()

    def _made(self, machine: UUID, job: Job, helper: str) -> "_Work":
        edit = Edit(self._layout.machine(machine))
        if not edit.directory.system_disk.exists():
            raise NotFound(f"there is no machine {machine} with a disk on this node")
        return _Work(edit, job, self._boot_of(helper))

    def _settle_left(self, machine: UUID) -> None:
        """What an earlier process of ours left. What can't be settled now is tried when somebody needs the disk."""
        try:
            edit = Edit(self._layout.machine(machine))
            with held_still(edit.directory.lock):
                finish(edit)
        except (PaddockError, OSError) as e:
            log.warning("machine %s: a change of its disk is not finished: %s", machine, e)


class _Work(Work):
    """One edit on its way."""

    def __init__(self, edit: Edit, job: Job, boot: Boot) -> None:
        super().__init__(f"edit-{edit.directory.root.name}", UUID(edit.directory.root.name))
        self.job = job
        self._edit = edit
        self._boot = boot
        self._doing = "starting a helper guest"
        self._done = False
        self._error: PaddockError | None = None

    def told(self) -> Progress:
        """How far it is. Raises Conflict when the machine runs."""
        if isinstance(self._error, Conflict):
            raise self._error
        return Progress(done=self._done, error=str(self._error or ""), doing="" if self._done else self._doing)

    def run(self) -> None:
        name = self._edit.directory.root.name
        try:
            with held_still(self._edit.directory.lock) as lock:
                self._make(lock)
            self._done = True
        except GivenUp:
            self._error = Refused("the change of the disk was given up", hint="ask again")
        except PaddockError as e:
            self._error = e
        except OSError as e:
            self._error = Refused(f"the disk can't be changed: {e}", hint="see the node's log")
        log.info("the disk of machine %s: %s: %s", name, self.job.name, self._error or "done")

    def _make(self, lock: int) -> None:
        edit = self._edit
        finish(edit)
        prepare(edit)
        try:
            place = Place(edit.guest, chain(edit.directory, edit.overlay.name, up="../"), lock)
            helper_guest.work(self._boot, place, self.job, self.stop, self._report)
            _check_room(edit)
            _sync(edit.overlay)
            files.write_whole(edit.mark, b"")
        finally:
            if not edit.mark.exists():
                edit.remove()
        finish(edit)

    def _report(self, _percent: int, doing: str) -> None:
        self._doing = doing


@contextlib.contextmanager
def held_still(path: Path) -> Iterator[int]:
    """A machine's (or a copy's) lock: no QEMU has its disk, nor gets it meanwhile. Raises Conflict while one has."""
    deadline = clock.monotonic() + 2
    while (lock := files.take_lock(path)) is None:  # others look at it for an instant
        if clock.monotonic() > deadline:
            raise Conflict("the disk can't be changed while the machine runs", hint="power it off first")
        clock.sleep(0.01)
    try:
        yield lock
    finally:
        os.close(lock)


def prepare(edit: Edit) -> None:
    """An empty overlay that QEMU's user may fill. Raises DiskFull, Refused."""
    disk = edit.directory.system_disk
    if disks.header(disk).data_file:
        raise Refused(f"{disk} names another file for its data", hint="somebody changed it: look who")
    _check_room(edit)
    identity.give(disk, writable=True)
    fd = files.create(edit.overlay)
    try:
        words: list[str | Path] = [
            "qemu-img",
            "create",
            "-q",
            "-u",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            disk.name,
            edit.overlay,
        ]
        run.run([*words, str(disks.virtual_size(disk))])
        identity.give_open(fd, writable=True)
    finally:
        os.close(fd)


def finish(edit: Edit) -> None:
    """Put the overlay's content into the disk if it belongs there, and remove what is left. It may be done again after
    a crash at any point. Raises DiskFull, Refused."""
    if edit.mark.exists():
        disks.use(edit.directory)  # something is in it from now on
        _commit(edit)
    edit.remove()


def chain(directory: MachineDir, overlay: str, up: str = "") -> dict[str, Any]:
    """The overlay, the disk and its image as a block node, by name, so that what their headers say of other files is
    not looked at. `up` leads from where QEMU stands to the machine's directory."""
    disk = {**disks.qcow2(up + directory.system_disk.name, disks.backing(directory, up)), "discard": "unmap"}
    return {**disks.qcow2(up + overlay, disk), "discard": "unmap"}


def _commit(edit: Edit) -> None:
    """By qemu-img as QEMU's user. What it does is the same however often it is begun anew."""
    node = disks.closed(chain(edit.directory, edit.overlay.name))
    limits = [f"--as={_MEMORY}", "--nofile=64", "--core=0"]
    fence = ["setpriv", "--no-new-privs", "--pdeathsig", "KILL", "prlimit", *limits]
    words = [*fence, "qemu-img", "commit", "-q", "-d", "json:" + json.dumps(node)]
    root = edit.directory.root
    try:
        run.run(words, cwd=root, identity=identity.vm_identity(), timeout=COMMIT_SECONDS)
    except CommandFailed as e:
        if "No space left" in e.message or "Disk quota" in e.message:
            raise disks.full(root, edit.overlay.lstat().st_size) from e
        raise Refused(
            f"what was changed could not be put into the disk: {e.message}", hint="see the node's disk and `dmesg`"
        ) from e
    _sync(edit.directory.system_disk)


def _check_room(edit: Edit) -> None:
    grown = edit.overlay.lstat().st_blocks * 512 if edit.overlay.exists() else 0
    if shutil.disk_usage(edit.directory.root).free < ROOM + grown:
        raise disks.full(edit.directory.root, ROOM + grown)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
