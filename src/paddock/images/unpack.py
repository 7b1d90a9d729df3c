"""Unpacks what was compressed for the way: gzip, bzip2, xz and zstd, known by their first bytes.

Within limits, since a few kilobytes can unpack to any size: of the size, of the room on the disk (zeros take none) and
of memory. zstd is unpacked by its program, which gets limits of its own.
"""

import bz2
import errno
import lzma
import os
import shutil
import signal
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from paddock.base.errors import CommandFailed, DiskFull, Invalid, Refused
from paddock.base.run import run
from paddock.machine.spec import MIB

_BLOCK = 128 * 1024
_MEMORY = 256 * MIB  # for the dictionary of xz and zstd
_LOOK_EVERY = 64  # blocks between looks at the room that is left
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_TIMEOUT = 3600  # seconds
_ZEROS = bytes(_BLOCK)


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's object in the shape of those of bz2 and lzma."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=31)  # 31: with gzip's header

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def needs_input(self) -> bool:
        return not self._object.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._object.decompress(self._object.unconsumed_tail + data, max_length)


_MAKERS: dict[bytes, Callable[[], _Unpacker]] = {
    b"\x1f\x8b": _Gzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY),
}


def is_compressed(source: Path) -> bool:
    """Whether it is in one of the formats that `unpack` knows."""
    head = _head(source)
    return head.startswith((*_MAKERS, _ZSTD))


def unpack(source: Path, target: Path, *, size: int, reserve: int) -> None:
    """Unpack `source` to a new file `target` of at most `size` bytes, leaving `reserve` bytes free on its file system.

    Raises Invalid when it is damaged or unpacks to more than that, DiskFull. `target` may be there then, and is no use.
    """
    head = _head(source)
    if head.startswith(_ZSTD):
        return _unpack_zstd(source, target, size, reserve)
    magic = next(m for m in _MAKERS if head.startswith(m))
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with source.open("rb") as packed, os.fdopen(fd, "wb", buffering=0) as file:
        try:
            _unpack_all(packed, _Sparse(file, target.parent, size, reserve), magic)
        except (zlib.error, lzma.LZMAError, OSError, EOFError) as e:
            raise _explained(e) from e
    return None


def _unpack_all(packed: BinaryIO, out: "_Sparse", magic: bytes) -> None:
    """One member after another: files of these formats may be several in a row."""
    rest = packed.read(_BLOCK)
    while rest:
        if not rest.startswith(magic):
            raise Invalid("something follows the compressed data", hint="is the file damaged?", field="content")
        rest = _unpack_member(packed, out, _MAKERS[magic](), rest)
        rest = rest.lstrip(b"\0")  # padding
        while len(rest) < len(magic) and (more := packed.read(_BLOCK)):
            rest = (rest + more).lstrip(b"\0")
    out.close()


def _unpack_member(packed: BinaryIO, out: "_Sparse", unpacker: _Unpacker, data: bytes) -> bytes:
    """Unpack to the member's end. Returns what was read beyond it."""
    while not unpacker.eof:
        out.write(unpacker.decompress(data, _BLOCK))
        data = b""
        if unpacker.needs_input and not unpacker.eof:
            data = packed.read(_BLOCK)
            if not data:
                raise EOFError
    return unpacker.unused_data


class _Sparse:
    """A file that grows, in which zeros take no room, within limits."""

    def __init__(self, file: BinaryIO, directory: Path, size: int, reserve: int) -> None:
        self._file, self._directory, self._size, self._reserve = file, directory, size, reserve
        self._at = self._written = 0

    def write(self, data: bytes) -> None:
        self._at += len(data)
        if self._at > self._size:
            raise _too_large(self._size)
        if data == _ZEROS[: len(data)]:
            return
        if self._written % _LOOK_EVERY == 0 and shutil.disk_usage(self._directory).free < self._reserve:
            raise DiskFull("no room is left to unpack what came", hint="remove images that are not needed")
        self._written += 1
        os.pwrite(self._file.fileno(), data, self._at - len(data))

    def close(self) -> None:
        self._file.truncate(self._at)


def _unpack_zstd(source: Path, target: Path, size: int, reserve: int) -> None:
    free = max(shutil.disk_usage(target.parent).free - reserve, 0)
    limit = min(size, free)
    fence = ["setpriv", "--no-new-privs", "--pdeathsig=KILL", "prlimit", f"--fsize={limit}", "--core=0", "--nofile=64"]
    words = ["zstd", "--decompress", "--quiet", "--force", "--sparse", f"--memory={_MEMORY // MIB}MiB", "-o"]
    try:
        done = run([*fence, *words, target, source], timeout=_ZSTD_TIMEOUT, check=False)
    except CommandFailed as e:
        raise Invalid(f"what came can't be unpacked: {e.message}", field="content") from e
    if done.code == 0:
        return
    if done.code == -signal.SIGXFSZ or "File too large" in done.stderr:
        raise _too_large(size) if limit == size else DiskFull("no room is left to unpack what came")
    if "No such file" in done.stderr and "zstd" in done.stderr and not target.exists():
        raise Refused("zstd is not installed, which unpacks this", hint="install the package zstd")
    raise Invalid(f"what came can't be unpacked: {done.stderr.strip()[-500:]}", field="content")


def _head(source: Path) -> bytes:
    with source.open("rb") as file:
        return file.read(8)


def _too_large(size: int) -> Invalid:
    return Invalid(f"what came unpacks to more than {size // MIB} MiB, which is the limit", field="content")


def _explained(error: Exception) -> Exception:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"what came can't be unpacked: {error.strerror}", hint="remove images that are not needed")
    what = "it ends too early" if isinstance(error, EOFError) else str(error) or type(error).__name__
    return Invalid(f"what came can't be unpacked: {what}", hint="is the file damaged?", field="content")
