"""A GUID partition table, written into a file: no root, no loop device, no partitioning program.

The layout is that of the UEFI specification 2.10, chapter 5: a protective MBR, a header and an array of 128 entries at
the start of the disk, and the same mirrored at its end. Sectors have 512 bytes.
"""

import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal
from uuid import UUID

SECTOR = 512
EFI_SYSTEM = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
BIOS_BOOT = UUID("21686148-6449-6e6f-744e-656564454649")
LINUX_ROOT_X86_64 = UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
_ENTRIES = 128
_ENTRY_SIZE = 128
_ARRAY_SECTORS = _ENTRIES * _ENTRY_SIZE // SECTOR
_BOOT_CODE = 440  # bytes of the first sector: a disk's signature and the partition table follow
_EFI_MBR = 0xEF
HEAD = (2 + _ARRAY_SECTORS) * SECTOR  # bytes at a disk's beginning that tell what boots it
END_SECTORS = _ARRAY_SECTORS + 1  # what the mirror takes at the disk's end


@dataclass(frozen=True)
class Partition:
    """A partition, in sectors: the first one, and how many."""

    kind: UUID
    name: str
    first: int
    sectors: int


def write_table(disk: BinaryIO, sectors: int, partitions: Sequence[Partition]) -> None:
    """Write the partition table of a disk with that many sectors. Boot code in the first sector is kept."""
    array = b"".join(_entry(p) for p in partitions).ljust(_ENTRIES * _ENTRY_SIZE, b"\0")
    disk_id = uuid.uuid4()
    last = sectors - 1
    _write(disk, 0, _protective_mbr(_read_boot_code(disk), sectors))
    _write(disk, 1, _header(1, last, 2, disk_id, array, sectors))
    _write(disk, 2, array)
    _write(disk, last - _ARRAY_SECTORS, array)
    _write(disk, last, _header(last, 1, last - _ARRAY_SECTORS, disk_id, array, sectors))


def boots_by(head: bytes) -> Literal["bios", "uefi"]:
    """What firmware boots the disk that begins with these bytes (HEAD of them). Only a disk that has an EFI system
    partition and no boot code in its first sector needs UEFI; of others a BIOS can make something, or nobody."""
    has_code = any(head[:_BOOT_CODE])
    return "uefi" if not has_code and (_has_efi_mbr(head) or _has_efi_gpt(head)) else "bios"


def _has_efi_mbr(head: bytes) -> bool:
    """Its type is the fifth byte of each of the four entries that follow the boot code."""
    if head[510:512] != b"\x55\xaa":
        return False
    return any(head[446 + 16 * n + 4] == _EFI_MBR for n in range(4))


def _has_efi_gpt(head: bytes) -> bool:
    if head[SECTOR : SECTOR + 8] != b"EFI PART":
        return False
    array, count, size = struct.unpack_from("<QII", head, SECTOR + 72)
    first = array * SECTOR
    if size < _ENTRY_SIZE:
        return False
    ends = range(first, min(first + min(count, _ENTRIES) * size, len(head) - 16), size)
    return any(head[at : at + 16] == EFI_SYSTEM.bytes_le for at in ends)


def _entry(partition: Partition) -> bytes:
    end = partition.first + partition.sectors - 1
    name = partition.name.encode("utf-16-le").ljust(72, b"\0")
    return struct.pack(
        "<16s16sQQQ72s", partition.kind.bytes_le, uuid.uuid4().bytes_le, partition.first, end, 0, name
    )  # fmt: skip


def _header(own: int, other: int, array_at: int, disk_id: UUID, array: bytes, sectors: int) -> bytes:
    first_usable = 2 + _ARRAY_SECTORS
    last_usable = sectors - END_SECTORS - 1

    def packed(checksum: int) -> bytes:
        return struct.pack(
            "<8sIIIIQQQQ16sQIII",
            b"EFI PART", 0x00010000, 92, checksum, 0, own, other, first_usable, last_usable,
            disk_id.bytes_le, array_at, _ENTRIES, _ENTRY_SIZE, zlib.crc32(array),
        )  # fmt: skip

    return packed(zlib.crc32(packed(0))).ljust(SECTOR, b"\0")


def _protective_mbr(boot_code: bytes, sectors: int) -> bytes:
    """One partition of type 0xee over the whole disk, for programs that know no GPT."""
    size = min(sectors - 1, 0xFFFFFFFF)
    entry = struct.pack("<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, size)
    return boot_code + entry + bytes(48) + b"\x55\xaa"


def _read_boot_code(disk: BinaryIO) -> bytes:
    disk.seek(0)
    return disk.read(446).ljust(446, b"\0")


def _write(disk: BinaryIO, sector: int, data: bytes) -> None:
    disk.seek(sector * SECTOR)
    disk.write(data)
