"""The files of a node's volumes: a sparse raw file each, which counts as a volume only when it is whole.

STATE/volumes/<uuid>/disk.raw. A new one is made and formatted under another name and renamed then; one that goes is
renamed first. So a crash leaves a whole volume, or scratch that the next start throws away, and nothing in between.
"""

import errno
import fcntl
import logging
import os
import shutil
import struct
import threading
from pathlib import Path
from uuid import UUID

from paddock.base import run
from paddock.base.errors import CommandFailed, Conflict, DiskFull, Invalid, NotFound, PaddockError, Refused
from paddock.hypervisor.qemu import disks, files, identity
from paddock.hypervisor.qemu.layout import Layout
from paddock.machine.spec import Volume
from paddock.machine.state import VolumeState

DISK = "disk.raw"
SECTOR = 512
FORMAT_TIMEOUT = 600.0  # seconds
QEMU_LOCKS = range(100, 300)  # the bytes that QEMU locks, one for each thing it does or lets others do to a file
_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux, as open file description locks take it
_MADE, _GONE = ".new-", ".gone-"
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # a plain user's may lack where mkfs is
_FULL = ("no space left", "quota", "short write")  # what programs say then
_FORMATS = {
    "ext4": ("e2fsprogs", "mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"),
    "xfs": ("xfsprogs", "mkfs.xfs", "-q", "-K"),
}

log = logging.getLogger(__name__)


class VolumeStore:
    """See above. `lock` is held while it changes which volumes there are, and which machines have them."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.lock = threading.RLock()
        self._making: dict[UUID, threading.Lock] = {}
        identity.make_directory(layout.volumes)
        self._sweep()

    def file(self, volume: UUID) -> Path:
        """Its data. Raises NotFound."""
        path = self._layout.volume(volume) / DISK
        if not path.exists():
            raise NotFound(f"volume {volume} is not on this node", hint="make it there first")
        return path

    def size(self, volume: UUID) -> int | None:
        """Bytes that a guest sees; None when it is not here."""
        path = self._layout.volume(volume) / DISK
        return path.stat().st_size if path.exists() else None

    def is_open(self, volume: UUID) -> bool:
        """Whether a QEMU (or qemu-img) has it open: by the locks that it holds on bytes of the file."""
        try:
            fd = files.open_regular(self.file(volume), os.O_RDWR)
        except (FileNotFoundError, NotFound):
            return False
        try:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, QEMU_LOCKS[0], len(QEMU_LOCKS), 0)
            kind: int = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0]
            return kind != fcntl.F_UNLCK
        finally:
            os.close(fd)

    def make(self, volume: Volume) -> None:
        """Make it with its file system; one that is there is left as it is. Raises DiskFull, Refused."""
        with self._making.setdefault(volume.uuid, threading.Lock()):
            if self.size(volume.uuid) is not None:
                return
            scratch = self._layout.volumes / f"{_MADE}{volume.uuid}"
            try:
                self._make(volume, scratch)
            except OSError as e:
                raise _explained(e, self._layout.volumes, volume.size) from e
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def grow(self, volume: UUID, size: int) -> None:
        """Grow one that no QEMU has open. Raises Conflict when one has, DiskFull."""
        path = self.file(volume)
        identity.give(path, writable=True)
        words = ["qemu-img", "resize", "-q", "-f", "raw", DISK, str(size)]
        try:
            run.run(words, cwd=path.parent, identity=identity.vm_identity())
        except CommandFailed as e:
            if 'write" lock' in e.message:
                raise Conflict(f"volume {volume} is in use by a process of which this node does not know") from e
            raise full_or(e, path, size) from e

    def remove(self, volume: UUID) -> None:
        """Remove its data; the caller has looked that nobody has it."""
        with self._making.setdefault(volume, threading.Lock()):
            gone = self._layout.volumes / f"{_GONE}{volume}"
            shutil.rmtree(gone, ignore_errors=True)
            try:
                os.rename(self._layout.volume(volume), gone)
            except FileNotFoundError:
                return
            shutil.rmtree(gone)
        log.info("volume %s is removed", volume)

    def states(self) -> tuple[VolumeState, ...]:
        """All that are here and whole."""
        with os.scandir(self._layout.volumes) as entries:
            uuids = sorted(e.name for e in entries if not e.name.startswith("."))
        return tuple(state for name in uuids if (state := self._state(name)))

    def _state(self, name: str) -> VolumeState | None:
        try:
            status = (self._layout.volumes / name / DISK).stat()
            return VolumeState(uuid=UUID(name), size=status.st_size, used=status.st_blocks * SECTOR)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def _make(self, volume: Volume, scratch: Path) -> None:
        shutil.rmtree(scratch, ignore_errors=True)
        identity.make_directory(scratch)
        fd = files.create(scratch / DISK)
        try:
            os.ftruncate(fd, volume.size)
            identity.give_open(fd, writable=True)
            if volume.format:
                _format(volume.format, scratch / DISK)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(scratch, self._layout.volume(volume.uuid))
        _sync(self._layout.volumes)
        log.info("volume %s is made, with %d bytes", volume.uuid, volume.size)

    def _sweep(self) -> None:
        """What a crash of ours left of volumes that were made or removed just then."""
        for path in self._layout.volumes.iterdir():
            if path.name.startswith((_MADE, _GONE)):
                log.warning("%s is thrown away: it is left of a volume that was being made or removed", path)
                shutil.rmtree(path, ignore_errors=True)


def check_size(volume: Volume, now: int | None) -> None:
    """Raises Invalid for a size that no volume can have, or this one no more."""
    if volume.size % SECTOR:
        raise Invalid(f"{volume.size} bytes are not whole sectors", field="size", hint="use a multiple of 512")
    if now is not None and now > volume.size:
        raise Invalid(
            f"volume {volume.uuid} has {now} bytes and can't shrink to {volume.size}",
            field="size",
            hint="volumes only grow",
        )


def full_or(error: PaddockError, path: Path, size: int) -> PaddockError:
    """DiskFull where a program's words mean that, else the error itself."""
    said = error.message.lower()
    return disks.full(path.parent, size) if any(word in said for word in _FULL) else error


def _format(kind: str, path: Path) -> None:
    """As the user that QEMU runs as: a file system's maker need not be trusted with more."""
    package, program, *options = _FORMATS[kind]
    found = shutil.which(program, path=_PATH)
    if found is None:
        raise Refused(f"{program} is not installed on this node", hint=f"install the package {package}")
    try:
        run.run([found, *options, path.name], cwd=path.parent, identity=identity.vm_identity(), timeout=FORMAT_TIMEOUT)
    except CommandFailed as e:
        raise full_or(e, path, path.stat().st_size) from e


def _explained(error: OSError, path: Path, size: int) -> PaddockError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disks.full(path, size)
    if error.errno == errno.EFBIG:
        return DiskFull(f"the file system of {path} can't hold a file of {size} bytes", hint="make a smaller volume")
    return Refused(f"the volume can't be made in {path}: {error}", hint="see `paddock doctor`")


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
