"""Unpacking a tar file of somebody hostile: nothing gets out of the directory, and it costs no more than was allowed.

What would lead out is refused; links that point out, devices and the like are left out and counted. Every directory
on the way is opened without following links, so that a link that the tar made first is no door.
"""

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from paddock.base.errors import Invalid, Refused

MOST_ENTRIES = 500_000
MOST_AT_ONCE = 1024 * 1024  # bytes that the tar's own headers may have
DEEPEST = 200  # directories
CHUNK = 256 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass
class Unpacked:
    """What was made, and what was left out with the reason."""

    files: int = 0
    directories: int = 0
    links: int = 0
    bytes: int = 0
    left_out: list[str] = field(default_factory=list)

    @property
    def entries(self) -> int:
        return self.files + self.directories + self.links + len(self.left_out)


def unpack(tar: BinaryIO, target: Path, most: int, made: Callable[[int], None] = lambda _: None) -> Unpacked:
    """Unpack into `target`, an empty directory of ours, at most `most` bytes; `made` is told of bytes written. Modes
    and times are kept, owners are not, nor set-user-id bits.

    Raises Refused for a tar that is none or wants out, Invalid for one that is larger; what was unpacked is left."""
    done, late = Unpacked(), list[tuple[tuple[str, ...], int, float]]()
    try:
        with tarfile.open(fileobj=_Careful(tar), mode="r:") as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # it would remember each
                parts = _parts(member.name)
                if done.entries > MOST_ENTRIES:
                    raise Refused(f"the tar has more than {MOST_ENTRIES} entries")
                if member.isdir():
                    late.append((parts, member.mode, max(member.mtime, 0)))
                _one(archive, member, parts, target, done, most, made)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as e:
        raise Refused(f"what came is no whole tar file: {e}") from e
    for parts, mode, time in reversed(late):  # a directory may be read-only, so its mode comes last
        with _within(target, parts) as fd:
            os.fchmod(fd, mode & 0o777 | stat.S_IRWXU)
            os.utime(fd, (time, time))
    return done


def _one(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    parts: tuple[str, ...],
    target: Path,
    done: Unpacked,
    most: int,
    made: Callable[[int], None],
) -> None:
    if member.isdir():
        with _within(target, parts):
            done.directories += 1
    elif not parts:
        raise Refused("the tar has a file in the place of its own directory")
    elif member.isreg():
        if member.size < 0 or done.bytes + member.size > most:
            raise Invalid(f"the tar has more than the allowed {most} bytes", hint="--max-size allows more")
        with _within(target, parts[:-1]) as fd:
            _file(archive, member, parts[-1], fd, made)
        done.files, done.bytes = done.files + 1, done.bytes + member.size
    elif member.issym() or member.islnk():
        _link(member, parts, target, done)
    else:
        done.left_out.append(f"{'/'.join(parts)}: neither a file nor a directory nor a link")


def _file(
    archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, directory: int, made: Callable[[int], None]
) -> None:
    content = archive.extractfile(member)
    assert content, "BUG: a regular member has content"
    with os.fdopen(_made(name, directory), "wb") as file:
        left = member.size
        while left:
            data = content.read(min(CHUNK, left))
            if not data:
                raise Refused("what came is no whole tar file: it ends within a file")
            file.write(data)
            left -= len(data)
            made(len(data))
        file.flush()
        os.fchmod(file.fileno(), member.mode & 0o777 | stat.S_IRUSR)
        os.utime(file.fileno(), (max(member.mtime, 0), max(member.mtime, 0)))


def _made(name: str, directory: int) -> int:
    try:
        return os.open(name, _NEW, 0o600, dir_fd=directory)
    except FileExistsError as e:
        raise Refused(f"the tar has {name} twice") from e


def _link(member: tarfile.TarInfo, parts: tuple[str, ...], target: Path, done: Unpacked) -> None:
    """A link that stays within; a hard link is to a file that the tar made before."""
    shown = f"{'/'.join(parts)} -> {member.linkname}"
    start = parts[:-1] if member.issym() else ()
    if member.linkname.startswith("/") or (inside := _resolved(start, member.linkname)) is None:
        done.left_out.append(f"{shown}: it leads out")
        return
    try:
        with _within(target, parts[:-1]) as fd:
            if member.issym():
                os.symlink(member.linkname, parts[-1], dir_fd=fd)
            else:
                with _within(target, inside[:-1]) as other:
                    os.link(inside[-1], parts[-1], src_dir_fd=other, dst_dir_fd=fd, follow_symlinks=False)
    except FileExistsError as e:
        raise Refused(f"the tar has {'/'.join(parts)} twice") from e
    except (OSError, IndexError):
        done.left_out.append(f"{shown}: it can't be made here")
        return
    done.links += 1


def _resolved(start: tuple[str, ...], path: str) -> tuple[str, ...] | None:
    """A path from a directory on, without `.` and `..`; None when it leads out, or may: `a/..` is elsewhere when `a` is
    a link."""
    kept, climbing = list(start), True
    for part in path.split("/"):
        climbing = climbing and part in ("..", ".", "")
        if part == ".." and not (climbing and kept):
            return None
        if part == "..":
            kept.pop()
        elif part not in ("", "."):
            kept.append(part)
    return tuple(kept)


def _parts(name: str) -> tuple[str, ...]:
    parts = tuple(p for p in name.split("/") if p not in ("", "."))
    if name.startswith("/") or ".." in parts or "\0" in name or len(parts) > DEEPEST:
        raise Refused(f"the tar wants to write to {name[:200]!r}, which is outside of its directory")
    return parts


@contextmanager
def _within(target: Path, parts: tuple[str, ...]) -> Iterator[int]:
    """A directory below the target, made if need be, reached through no link."""
    fd = os.open(target, _DIRECTORY)
    try:
        for part in parts:
            with suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=fd)
            try:
                inner = os.open(part, _DIRECTORY, dir_fd=fd)
            except OSError as e:
                raise Refused(f"the tar wants to write through {part!r}, which it made no directory") from e
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


class _Careful(io.RawIOBase):
    """A file of which only so much is read at once: a header may say that it is of any size."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_AT_ONCE:
            raise Refused(f"the tar has a header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
