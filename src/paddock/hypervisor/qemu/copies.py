"""Copying a machine's system disk into a file beside it: by QEMU itself while it runs, else by a fenced-in qemu-img.

While it runs, QEMU copies the disk as it was at one moment (a backup job): before a guest's write changes what was not
copied yet, that is copied first. Room for the whole copy is reserved before, so that no guest's write ever fails for
want of it. The job stays in QEMU until we dismiss it, and is found again by its name.
"""

import contextlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from paddock.base import clock, run
from paddock.base.errors import CommandFailed, DiskFull, PaddockError, Refused, Unavailable
from paddock.hypervisor.qemu import disks, files, identity
from paddock.hypervisor.qemu.layout import Layout, MachineDir
from paddock.hypervisor.qemu.live import Live
from paddock.machine.image import Role
from paddock.machine.spec import GIB, MIB

LOOK_EVERY = 0.05, 0.5  # seconds between looks at a copy, at first and at last
SILENCE = 60.0  # seconds that QEMU may say nothing of its job
CANCEL_WAIT = 10.0
RESERVE = 64 * MIB  # bytes left free on the file system
_MEMORY = 4 * GIB  # address space of qemu-img
_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
_FULL = ("No space left", "Disk quota exceeded", "File too large")

Report = Callable[[int, int], None]  # bytes done, bytes in all


class GivenUp(Exception):
    """Somebody asked us to stop."""


@dataclass(frozen=True)
class Copy:
    """One copy of one machine's system disk: where it lies, and what it is called in QEMU."""

    directory: MachineDir
    snapshot: UUID

    @property
    def name(self) -> str:
        return f"snapshot-{self.snapshot}"

    @property
    def disk(self) -> Path:
        return self.directory.root / f"{self.name}.qcow2"

    @property
    def log(self) -> Path:
        return self.directory.root / f"{self.name}.log"

    @property
    def guest(self) -> Path:
        """The directory that a helper guest that cleans it has for itself."""
        return self.directory.root / f"{self.name}.guest"

    @property
    def lock(self) -> Path:
        """Held by that guest."""
        return self.directory.root / f"{self.name}.lock"

    @property
    def node(self) -> str:
        """QEMU's name of the target: at most 31 characters."""
        return f"snap-{self.snapshot.hex[:24]}"

    def remove(self) -> None:
        """What lies on this node of it."""
        for path in (self.disk, self.log, self.lock):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.guest, ignore_errors=True)


def needed(layout: Layout, directory: MachineDir) -> int:
    """Bytes that a copy of the disk takes at most: what it and its image hold, and qcow2's own tables."""
    image = disks.image_of(directory.root)
    held = directory.system_disk.lstat().st_blocks * 512 + files.size_of(layout.image(image) / Role.DISK)
    held += sum(files.size_of(layout.warm_image(id).system_disk) for id in disks.stood_on(directory.root))
    size = disks.virtual_size(directory.system_disk)
    return min(held, size) + size // 4096 + 4 * MIB


def check_room(directory: MachineDir, size: int) -> None:
    """Raises DiskFull when the copy would not leave the file system its reserve."""
    if shutil.disk_usage(directory.root).free - RESERVE < size:
        raise disks.full(directory.root, size)


def prepare(copy: Copy, size: int) -> None:
    """An empty disk for the copy that QEMU's user may fill, with `size` bytes reserved for it. Raises DiskFull."""
    check_room(copy.directory, size)
    virtual = disks.virtual_size(copy.directory.system_disk)
    fd = files.create(copy.disk)  # in a sticky directory, so that nobody else can put another in its place
    try:
        run.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=1.1", copy.disk, str(virtual)])
        kept = run.run(["fallocate", "--keep-size", "--length", str(size), copy.disk], check=False)
        if kept.code and any(words in kept.stderr for words in _FULL):
            raise disks.full(copy.directory.root, size)
        identity.give_open(fd, writable=True)
    finally:
        os.close(fd)


# --- While it runs


def begin(copy: Copy, live: Live) -> None:
    """Start the job: the moment that is copied is when this returns."""
    live.control().execute(
        "blockdev-backup",
        {
            "job-id": copy.name, "device": "system", "target": copy.node, "sync": "full",
            "auto-finalize": True, "auto-dismiss": False, "on-target-error": "report",
        },
        timeout=5,
    )  # fmt: skip


def open_target(copy: Copy, live: Live) -> None:
    """Let QEMU open the prepared disk."""
    file = {"driver": "file", "filename": copy.disk.name}
    live.execute("blockdev-add", {"driver": "qcow2", "node-name": copy.node, "file": file})


def follow(copy: Copy, live: Live, stop: threading.Event, report: Report) -> None:
    """Wait for the job's end, and have QEMU close the disk. Raises GivenUp, DiskFull, Refused (with QEMU's words),
    Unavailable when QEMU ends or falls silent."""
    pause, longest = LOOK_EVERY
    heard = clock.monotonic()
    while True:
        if stop.is_set():
            raise GivenUp
        try:
            job = find(copy, live)
            heard = clock.monotonic()
        except Unavailable as e:
            _check_alive(live, heard, e)
            job = {"status": "silent"}
        if job is None:
            raise Unavailable("QEMU knows nothing of the copy any more", hint="ask for the snapshot again")
        report(int(job.get("current-progress", 0)), int(job.get("total-progress", 0)))
        if job["status"] == "concluded":
            break
        stop.wait(pause)
        pause = min(pause * 1.5, longest)
    if error := job.get("error"):
        raise _failed(copy, str(error))
    if copy.node in live.block_nodes():  # or whoever followed it before us ended after this
        live.execute("blockdev-del", {"node-name": copy.node})  # writes all that it has to the file


def find(copy: Copy, live: Live) -> dict[str, Any] | None:
    """QEMU's job of this copy, if it has one."""
    jobs: list[dict[str, Any]] = live.execute("query-jobs")
    return next((j for j in jobs if j["id"] == copy.name), None)


def busy(live: Live) -> bool:
    """Whether QEMU copies this machine's disk already."""
    jobs: list[dict[str, Any]] = live.execute("query-jobs")
    return any(j["type"] == "backup" and j["status"] != "concluded" for j in jobs)


def dismiss(copy: Copy, live: Live) -> None:
    """Make QEMU forget the ended job."""
    with contextlib.suppress(Refused):
        live.execute("job-dismiss", {"id": copy.name})


def cancel(copy: Copy, live: Live) -> None:
    """End the job and close its disk, as far as there is one. Raises Unavailable when QEMU does not answer."""
    deadline = clock.monotonic() + CANCEL_WAIT
    while (job := find(copy, live)) and job["status"] != "concluded":
        with contextlib.suppress(Refused):
            live.execute("block-job-cancel", {"device": copy.name, "force": True})
        if clock.monotonic() > deadline:
            raise Unavailable(f"QEMU does not end the job {copy.name}", hint="its storage hangs: see `dmesg`")
        clock.sleep(0.02)
    dismiss(copy, live)
    with contextlib.suppress(Refused):
        live.execute("blockdev-del", {"node-name": copy.node})


def _check_alive(live: Live, heard: float, error: Unavailable) -> None:
    if live.process.gone(0.5):
        raise ended() from error
    if clock.monotonic() - heard > SILENCE:
        raise error


def ended() -> Unavailable:
    """The machine was stopped, or crashed, while its disk was copied."""
    return Unavailable(
        "the machine ended while its disk was copied: the copy is lost",
        hint="ask for the snapshot again: a machine that is off can be copied too",
    )


def _failed(copy: Copy, said: str) -> PaddockError:
    if any(words in said for words in _FULL):
        return disks.full(copy.directory.root, files.size_of(copy.disk))
    return Refused(f"QEMU could not copy the disk: {said}", hint="see the node's disk and `dmesg`")


# --- While it is off


def convert(copy: Copy, size: int, stop: threading.Event, report: Report) -> None:
    """Copy the disk of a machine that is off with qemu-img, as QEMU's user. Raises GivenUp, DiskFull, Refused."""
    total = disks.virtual_size(copy.directory.system_disk)
    _check_plain(copy.directory.system_disk)
    copy.log.unlink(missing_ok=True)
    # Whoever starts the copy's process must live as long as it does: it is killed when we end, however.
    process = run.spawn(
        _words(copy, size), output=copy.log, cwd=copy.directory.root, identity=identity.vm_identity()
    )  # fmt: skip
    pause, longest = LOOK_EVERY
    try:
        while process.poll() is None:
            if stop.wait(pause) or not copy.directory.root.exists():
                raise GivenUp
            report(_percent(copy.log) * total // 100, total)
            pause = min(pause * 1.5, longest)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise _failed(copy, _said(copy.log) or f"qemu-img ended with exit code {process.returncode}")
    report(total, total)


def _words(copy: Copy, size: int) -> list[str]:
    limits = [f"--as={_MEMORY}", f"--fsize={size + RESERVE}", "--nofile=64", "--core=0"]
    fence = ["setpriv", "--no-new-privs", "--pdeathsig", "KILL", "prlimit", *limits]
    words = [
        "qemu-img",
        "convert",
        "-p",
        "-n",
        "--target-is-zero",
        "-O",
        "qcow2",
        _chain(copy.directory),
        copy.disk.name,
    ]
    return [*fence, *words]


def _chain(directory: MachineDir) -> str:
    """The disk and its image by name, so that what the disk's header says of other files is not looked at. Read
    without a lock: nobody shall be kept from starting the machine (we look afterwards whether somebody did)."""
    node = disks.closed(disks.qcow2(directory.system_disk.name, disks.backing(directory)))
    return "json:" + json.dumps({**node, "force-share": True})


def _check_plain(path: Path) -> None:
    """A disk that keeps its data in another file was not made by us."""
    if disks.header(path).data_file:
        raise Refused(f"{path} names another file for its data", hint="somebody changed it: look who")


def _percent(path: Path) -> int:
    found = _PERCENT.findall(files.read_tail(path, 200))
    return int(float(found[-1])) if found else 0


def _said(path: Path) -> str:
    text = files.read_tail(path, 2000).decode(errors="replace")
    return " ".join(line.strip() for line in re.split(r"[\r\n]", text) if line.strip() and "/100%" not in line)


# --- When it is whole


def deliver(copy: Copy, target: Path) -> None:
    """Put the whole copy at `target`, as a file of ours alone. A second time does nothing. Raises DiskFull, Refused."""
    if not copy.disk.exists():
        if target.exists():
            return
        raise Refused(f"the copy {copy.disk} is gone", hint="ask for the snapshot again")
    _take(copy.disk)
    try:
        os.replace(copy.disk, target)
    except OSError:  # another file system
        _bring(copy.disk, target)
    copy.log.unlink(missing_ok=True)


def _take(path: Path) -> None:
    """Make it ours, give back what was reserved too much, and have it on the disk."""
    fd = files.open_regular(path, os.O_RDWR)
    try:
        os.fchown(fd, os.geteuid(), os.getegid())
        os.fchmod(fd, 0o600)
        if not os.path.samestat(os.fstat(fd), path.lstat()):
            raise Refused(f"{path} was swapped while we took it", hint="somebody put it there: look who")
        os.ftruncate(fd, os.fstat(fd).st_size)
        os.fsync(fd)
    finally:
        os.close(fd)
    if disks.header(path).other_files:
        raise Refused(f"{path} stands on another file", hint="somebody changed it: look who")


def _bring(source: Path, target: Path) -> None:
    new = target.with_name(f".{target.name}.new")
    new.unlink(missing_ok=True)
    try:
        run.run(["cp", "--reflink=auto", "--sparse=always", "--no-dereference", source, new], timeout=3600)
        os.replace(new, target)
    except CommandFailed as e:
        if any(words in e.message for words in _FULL):
            raise DiskFull(
                f"no room for {files.size_of(source)} bytes in {target.parent}", hint="remove images or make room"
            ) from e
        raise
    except OSError as e:
        raise Refused(f"the snapshot can't be put at {target}: {e.strerror}", hint="see the permissions there") from e
    finally:
        new.unlink(missing_ok=True)
    source.unlink()
