"""Initial RAM disks: cpio archives in the `newc` format, all files root's, whoever makes them.

The format is described in the Linux kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A file, directory or symbolic link of an archive. `data` of a link is what it points to."""

    name: str
    mode: int
    data: bytes = b""


def directory(name: str) -> Entry:
    """A directory that all may enter."""
    return Entry(name, stat.S_IFDIR | 0o755)


def file(name: str, source: Path | bytes, mode: int = 0o644) -> Entry:
    """A regular file with the contents of `source`."""
    return Entry(name, stat.S_IFREG | mode, source if isinstance(source, bytes) else source.read_bytes())


def link(name: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def archive(entries: list[Entry]) -> bytes:
    """The whole archive. Directories must come before what is in them."""
    parts = [_member(number, entry) for number, entry in enumerate(entries, start=1)]
    return b"".join([*parts, _member(0, Entry("TRAILER!!!", 0))])


def _member(number: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device and rdev (major, minor), length of the name, checksum
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % f for f in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
