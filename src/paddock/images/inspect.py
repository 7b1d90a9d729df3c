"""What a stranger's disk file is, read by us before QEMU opens it: by content, never by name.

A qcow2 can name other files of the host (a backing file, an external data file) that QEMU would open and a guest could
then read, and can claim sizes that cost QEMU memory and time. So its header is read here, strictly: what is not
understood is refused. Format: QEMU's docs/interop/qcow2.txt.
"""

import os
import struct
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from paddock.base.errors import Invalid
from paddock.images import foreign
from paddock.machine.spec import GIB

MAX_DISK = 16 * 1024 * GIB  # bytes that a guest may see; more is a mistake or an attack
MAX_ISO = 64 * GIB  # bytes; the largest discs have 128 GB, the largest installers 20
SECTOR = 512


class Format(StrEnum):
    """The formats that can be imported."""

    QCOW2 = "qcow2"
    RAW = "raw"
    VMDK = "vmdk"
    VHDX = "vhdx"
    VHD = "vpc"  # QEMU's name for it
    VDI = "vdi"


@dataclass(frozen=True)
class Found:
    """A disk file: its format, and how many bytes a guest would see (0: only its driver can tell)."""

    format: Format
    disk_size: int


def inspect(path: Path) -> Found:
    """Look at a file. Raises Invalid, naming what the file is, unless it can be imported."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise _invalid("the file is empty", "was the upload cut short?")
        head = file.read(_HEAD)
        if head.startswith(_QCOW2_MAGIC):
            return Found(Format.QCOW2, _qcow2_disk_size(file, head, size))
        if foreign_found := _foreign(file, head, size):
            return foreign_found
        _refuse_other_formats(file, head)
        return Found(Format.RAW, _raw_disk_size(head, size))


def inspect_iso(path: Path) -> int:
    """The bytes of a CD image (ISO 9660, also a hybrid one). Raises Invalid, saying what is wrong with it.

    ECMA-119: volume descriptors from sector 16 on, each with a type, `CD001` and a version; the primary one (type 1)
    says how many blocks the volume has.
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_ISO:
            raise _invalid(f"the ISO has {size} bytes", f"an ISO has at most {MAX_ISO // GIB} GiB")
        volume = _iso_volume(_primary_descriptor(file))
        if volume > size:
            raise _invalid(f"the ISO has {size} bytes of the {volume} it says", "was the upload cut short?")
        return size


_CD_SECTOR = 2048
_FIRST_DESCRIPTOR, _MOST_DESCRIPTORS = 16, 64
_PRIMARY, _TERMINATOR = 1, 255


def _primary_descriptor(file: BinaryIO) -> bytes:
    for number in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + _MOST_DESCRIPTORS):
        found = _at(file, number * _CD_SECTOR, _CD_SECTOR)
        if len(found) < _CD_SECTOR or found[1:6] != b"CD001" or found[0] == _TERMINATOR:
            break
        if found[0] == _PRIMARY:
            return found
    raise _invalid("the file is not an ISO 9660 image", "a disk (qcow2 or raw) is imported as an image, not as an ISO")


def _iso_volume(descriptor: bytes) -> int:
    """The bytes of the volume: its number of blocks and their size, as little-endian numbers."""
    (blocks,) = struct.unpack_from("<I", descriptor, 80)
    (block,) = struct.unpack_from("<H", descriptor, 128)
    if not blocks or block not in (512, 1024, 2048):
        raise _invalid(f"the ISO says it has {blocks} blocks of {block} bytes", "download or make it again")
    return int(blocks) * int(block)


def _opened(path: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as e:
        raise _invalid(f"{path} can't be read: {e.strerror}", "an image is a regular file") from e


_QCOW2_MAGIC = b"QFI\xfb"
# ext2 to ext4, xfs, btrfs, squashfs, erofs: what a disk without partitions is, whose kernel comes beside it
_FILE_SYSTEMS = (
    (b"\x53\xef", 1080), (b"XFSB", 0), (b"_BHRfS_M", 0x10040), (b"hsqs", 0), (b"\xe2\xe1\xf5\xe0", 1024),
)  # fmt: skip
_HEAD = 0x10040 + 8  # bytes: as far as the last of these
_CONVERT = "convert it with `qemu-img convert -O qcow2`"
_UNPACK = "unpack it first"

# (bytes, offset, what it is, what to do)
_OTHERS = (
    (b"\x1f\x8b", 0, "a gzip archive", _UNPACK),
    (b"\xfd7zXZ\0", 0, "an xz archive", _UNPACK),
    (b"BZh", 0, "a bzip2 archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", 0, "a zstd archive", _UNPACK),
    (b"PK\x03\x04", 0, "a zip archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7-Zip archive", _UNPACK),
    (b"ustar", 257, "a tar archive (or an OVA)", _UNPACK),
    (b"# Disk DescriptorFile", 0, "a VMDK's description, which names the files of its disk", _CONVERT),
    (b"COWD", 0, "a VMDK disk of an old version", _CONVERT),
    (b"QED\0", 0, "a QED disk", _CONVERT),
    (b"LUKS\xba\xbe", 0, "an encrypted LUKS disk", "images must not be encrypted"),
    (b"\x7fELF", 0, "an ELF program", "an image is a disk: qcow2, raw, VMDK, VHDX, VHD or VDI"),
    (b"%PDF", 0, "a PDF document", "an image is a disk: qcow2, raw, VMDK, VHDX, VHD or VDI"),
    (b"<!DOCTYPE", 0, "an HTML page", "was an error page downloaded instead of the image?"),
    (b"<html", 0, "an HTML page", "was an error page downloaded instead of the image?"),
    (b"CD001", 32769, "an ISO 9660 image (a CD)", "an image is a disk; upload this as an ISO"),
)
_VHD_FOOTER = b"conectix"


def _refuse_other_formats(file: BinaryIO, head: bytes) -> None:
    for magic, offset, what, hint in _OTHERS:
        if _at(file, offset, len(magic)) == magic and not _is_bootable_hybrid(head, magic):
            raise _invalid(f"the file is {what}", hint)


def _foreign(file: BinaryIO, head: bytes, size: int) -> Found | None:
    """A disk of another hypervisor, if it is one."""
    if head.startswith(b"KDMV"):
        return Found(Format.VMDK, sane_disk_size(foreign.vmdk_size(file)))
    if head.startswith(b"vhdxfile"):
        return Found(Format.VHDX, 0)
    if head[64:68] == b"\x7f\x10\xda\xbe":
        return Found(Format.VDI, sane_disk_size(foreign.vdi_size(file)))
    if head.startswith(_VHD_FOOTER) or (size > SECTOR and _at(file, size - SECTOR, len(_VHD_FOOTER)) == _VHD_FOOTER):
        return Found(Format.VHD, sane_disk_size(foreign.vhd_size(file)))
    return None


def _is_bootable_hybrid(head: bytes, magic: bytes) -> bool:
    """A disk whose file system happens to have an archive's magic inside, at no offset that means anything."""
    return magic == b"ustar" and head[510:512] == b"\x55\xaa"


def _raw_disk_size(head: bytes, size: int) -> int:
    """A raw disk has no magic; what boots has at least a boot sector's signature or is a file system."""
    boot_sector = head[510:512] == b"\x55\xaa"
    gpt = head[512:520] == b"EFI PART"
    if not (boot_sector or gpt or any(head[at : at + len(magic)] == magic for magic, at in _FILE_SYSTEMS)):
        raise _invalid(
            "the file is not a disk: it is no qcow2, and has neither a boot sector nor a file system",
            "an image is a disk: qcow2, raw, VMDK, VHDX, VHD or VDI",
        )
    if size % SECTOR:
        raise _invalid(f"the raw disk ends within a sector, after {size} bytes", "was the upload cut short?")
    return sane_disk_size(size)


# --- qcow2

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")  # up to snapshots_offset, version 2: 72 bytes
_MORE = struct.Struct(">QQQII")  # version 3: incompatible, compatible, autoclear, refcount_order, header_length
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = 1, 2, 4, 8, 16
_KNOWN_INCOMPATIBLE = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_EXTENSION_END, _EXTENSION_BACKING, _EXTENSION_DATA_FILE = 0, 0xE2792ACA, 0x44415441
_EXTENSION_CRYPTO = 0x0537BE77


def _qcow2_disk_size(file: BinaryIO, head: bytes, size: int) -> int:
    if len(head) < 104:
        raise _invalid("the qcow2 file ends within its header", "was the upload cut short?")
    (
        _, version, backing_at, backing_size, cluster_bits, disk_size, crypt,
        l1_size, l1_at, refcounts_at, refcount_clusters, snapshots, snapshots_at,
    ) = _HEADER.unpack_from(head)  # fmt: skip
    if version not in (2, 3):
        raise _invalid(f"the qcow2 file has version {version}", _CONVERT)
    if backing_at or backing_size:
        raise _invalid("the qcow2 file stands on a backing file", f"{_CONVERT}, which makes one file of both")
    if crypt:
        raise _invalid("the qcow2 file is encrypted", "images must not be encrypted")
    if not 9 <= cluster_bits <= 21:
        raise _invalid(f"the qcow2 file has clusters of 2^{cluster_bits} bytes", "its header is damaged")
    header_length = _check_version_3(head) if version == 3 else 72
    if version == 3:
        _check_extensions(file, header_length, 1 << cluster_bits)
    _check_l1(l1_size, disk_size, cluster_bits, _extended_l2(head, version))
    _check_table("L1 table", l1_at, l1_size * 8, cluster_bits, size)
    _check_table("refcount table", refcounts_at, refcount_clusters << cluster_bits, cluster_bits, size)
    if snapshots:
        raise _invalid(f"the qcow2 file has {snapshots} internal snapshots", f"{_CONVERT}, which leaves them out")
    del snapshots_at  # without snapshots it means nothing
    return sane_disk_size(disk_size)


def _check_version_3(head: bytes) -> int:
    """The header's length, after a look at the features that a reader must know."""
    incompatible, _, _, refcount_order, header_length = _MORE.unpack_from(head, 72)
    if incompatible & _DATA_FILE:
        raise _invalid("the qcow2 file keeps its data in another file", f"{_CONVERT}, which makes one file of both")
    if incompatible & _CORRUPT:
        raise _invalid("the qcow2 file is marked as corrupt", "try `qemu-img check -r all` on a copy")
    if incompatible & ~_KNOWN_INCOMPATIBLE:
        raise _invalid(f"the qcow2 file has features that we don't know ({incompatible:#x})", _CONVERT)
    if refcount_order > 6 or not 104 <= header_length <= 4096 or header_length % 8:
        raise _invalid("the qcow2 file's header is damaged", "download or make it again")
    return int(header_length)


def _check_extensions(file: BinaryIO, at: int, cluster: int) -> None:
    """Walk the header's extensions: some name other files, and a damaged chain means a damaged file."""
    while at + 8 <= cluster:
        kind, length = struct.unpack(">II", _at(file, at, 8).ljust(8, b"\0"))
        if kind == _EXTENSION_END:
            return
        if kind in (_EXTENSION_BACKING, _EXTENSION_DATA_FILE):
            raise _invalid("the qcow2 file names another file in its header", _CONVERT)
        if kind == _EXTENSION_CRYPTO:
            raise _invalid("the qcow2 file is encrypted", "images must not be encrypted")
        at += 8 + (length + 7) // 8 * 8
    if at > cluster:
        raise _invalid("the qcow2 file's header extensions leave its first cluster", "its header is damaged")


def _extended_l2(head: bytes, version: int) -> bool:
    return version == 3 and bool(_MORE.unpack_from(head, 72)[0] & _EXTENDED_L2)


def _check_l1(entries: int, disk_size: int, cluster_bits: int, extended: bool) -> None:
    """The L1 table must cover the disk, and not claim to be far larger than that takes."""
    covered = 1 << (cluster_bits + cluster_bits - (4 if extended else 3))  # bytes behind one entry
    needed = -(-disk_size // covered)
    if not needed <= entries <= max(needed, 1) * 2 + 1024:
        raise _invalid(
            f"the qcow2 file has {entries} L1 entries where a disk of {disk_size} bytes takes {needed}",
            "its header is damaged",
        )


def _check_table(what: str, at: int, length: int, cluster_bits: int, size: int) -> None:
    if at % (1 << cluster_bits) or at + length > size or (length and not at):
        raise _invalid(f"the qcow2 file's {what} is not within the file", "was the upload cut short?")


def sane_disk_size(disk_size: int) -> int:
    """The size, if a disk can have it. Raises Invalid."""
    if not SECTOR <= disk_size <= MAX_DISK:
        raise _invalid(
            f"the disk has {disk_size} bytes", f"a disk has from {SECTOR} bytes to {MAX_DISK // GIB} GiB"
        )  # fmt: skip
    return disk_size


def _at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def _invalid(message: str, hint: str) -> Invalid:
    return Invalid(message, hint=hint, field="content")
