"""Files that a guest's QEMU may have planted or may be writing: read and cut without following links."""

import errno
import fcntl
import os
import stat
from pathlib import Path

from paddock.base.errors import Refused
from paddock.base.files import write_whole as write_whole  # one name for all that this driver does with files


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file with one name, made 0600 with O_CREAT. It never blocks.

    Raises Refused when it is anything else, OSError when it is missing.
    """
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise _planted(path) if e.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR) else e from e
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return fd
    os.close(fd)
    raise _planted(path)


def create(path: Path) -> int:
    """A descriptor to write a new file of ours. Raises Refused when somebody is quicker to put one there."""
    path.unlink(missing_ok=True)
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError as e:
        raise _planted(path) from e


def _planted(path: Path) -> Refused:
    return Refused(
        f"{path} is not a plain file of ours", hint="somebody put it there: look who, then remove the machine"
    )


def read_tail(path: Path, limit: int, start: int = 0) -> bytes:
    """The last `limit` bytes of what stands at or after `start`; nothing when there is no such file."""
    try:
        fd = open_regular(path)
    except (OSError, Refused):
        return b""
    try:
        size = os.fstat(fd).st_size
        first = max(size - limit, start if start <= size else 0)
        return os.pread(fd, min(limit, size - first), first)
    finally:
        os.close(fd)


def size_of(path: Path) -> int:
    """Bytes; 0 when there is no such file."""
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def cut(path: Path, maximum: int, keep: int) -> int:
    """When a log has more than `maximum` bytes, keep its last `keep`. Returns how many bytes went away.

    The writer appends (O_APPEND), so it goes on at the new end. What it writes in the microseconds between our last
    read and the truncation is lost: a log may lose a few bytes in 4 MiB, the guest must not wait for us.
    """
    if size_of(path) <= maximum:
        return 0
    try:
        fd = open_regular(path, os.O_RDWR | os.O_APPEND)
    except (OSError, Refused):
        return 0
    try:
        size = os.fstat(fd).st_size
        kept = os.pread(fd, keep, size - keep)
        late = os.pread(fd, keep, size)
        os.ftruncate(fd, 0)
        os.write(fd, kept + late)
        return size - len(kept)
    finally:
        os.close(fd)


def take_lock(path: Path, kind: int = fcntl.LOCK_EX) -> int | None:
    """A descriptor that holds an flock on `path`, or None when somebody holds it already."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def is_locked(path: Path) -> bool:
    """Whether a QEMU holds the flock on `path`. (Those who look share it.)"""
    if not path.exists():
        return False
    fd = take_lock(path, fcntl.LOCK_SH)
    if fd is None:
        return True
    os.close(fd)
    return False
