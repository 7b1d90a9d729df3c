"""A GUID partition table, written into a file: no root, no loop device, no partitioning program.

The layout is that of the UEFI specification 2.10, chapter 5: a protective MBR, a header and an array of 128 entries at
the start of the disk, and the same mirrored at its end. Sectors have 512 bytes.
"""

import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO
from uuid import UUID

SECTOR = 512
BIOS_BOOT = UUID("21686148-6449-6e6f-744e-656564454649")
LINUX_ROOT_X86_64 = UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
_ENTRIES = 128
_ENTRY_SIZE = 128
_ARRAY_SECTORS = _ENTRIES * _ENTRY_SIZE // SECTOR
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
