"""Partition table and boot loader: read back by other eyes than those that wrote them."""

import io
import struct
import zlib

import pytest

from paddock.base.errors import Refused
from paddock.images import boot_loader
from paddock.images.partitions import BIOS_BOOT, LINUX_ROOT_X86_64, SECTOR, Partition, write_table

SECTORS = 16384
BOOT_IMG = bytes(510) + b"\x55\xaa"


def _core(count: int, segment: int = 0x820) -> bytes:
    return struct.pack("<QHH", 1, count - 1, segment).rjust(512, b"\x11") + b"\x22" * 512 * (count - 1)


def _sector(disk: io.BytesIO, number: int, count: int = 1) -> bytes:
    return disk.getvalue()[number * SECTOR : (number + count) * SECTOR]


def _written() -> io.BytesIO:
    disk = io.BytesIO(bytes(SECTORS * SECTOR))
    boot_loader.install(disk, BOOT_IMG, _core(60), 2048, 2048)
    parts = [Partition(BIOS_BOOT, "bios", 2048, 2048), Partition(LINUX_ROOT_X86_64, "root", 4096, 8192)]
    write_table(disk, SECTORS, parts)
    return disk


@pytest.mark.parametrize(("at", "other", "array_at"), [(1, SECTORS - 1, 2), (SECTORS - 1, 1, SECTORS - 33)])
def test_both_headers_carry_right_checksums(at: int, other: int, array_at: int) -> None:
    disk = _written()
    header = bytearray(_sector(disk, at)[:92])
    assert header[:8] == b"EFI PART"
    checksum = struct.unpack_from("<I", header, 16)[0]
    header[16:20] = bytes(4)
    assert zlib.crc32(header) == checksum
    assert struct.unpack_from("<QQ", header, 24) == (at, other)
    assert struct.unpack_from("<Q", header, 72)[0] == array_at
    assert zlib.crc32(_sector(disk, array_at, 32)) == struct.unpack_from("<I", header, 88)[0]


def test_the_entries_say_where_the_partitions_are() -> None:
    array = _sector(_written(), 2, 32)
    assert array[:16] == BIOS_BOOT.bytes_le
    assert struct.unpack_from("<QQ", array, 32) == (2048, 4095)
    assert struct.unpack_from("<QQ", array, 128 + 32) == (4096, 12287)
    assert array[128 + 56 :].decode("utf-16-le").startswith("root\0")


def test_the_first_sector_has_boot_code_and_a_protective_partition() -> None:
    first = _sector(_written(), 0)
    assert struct.unpack_from("<Q", first, 0x5C)[0] == 2048
    assert first[0x66:0x68] == b"\x90\x90"
    assert first[446 + 4] == 0xEE
    assert first[510:] == b"\x55\xaa"


def test_core_knows_where_its_rest_is() -> None:
    assert struct.unpack_from("<QHH", _sector(_written(), 2048), 0x1F4) == (2049, 59, 0x820)


def test_a_core_that_does_not_fit_or_is_none_is_refused() -> None:
    disk = io.BytesIO(bytes(SECTORS * SECTOR))
    with pytest.raises(Refused, match="60 sectors"):
        boot_loader.install(disk, BOOT_IMG, _core(60), 2048, 59)
    with pytest.raises(Refused, match="not one of GRUB 2"):
        boot_loader.install(disk, BOOT_IMG, _core(60, segment=0x900), 2048, 2048)
    with pytest.raises(Refused, match="boot image"):
        boot_loader.install(disk, b"short", _core(60), 2048, 2048)
    assert disk.getvalue().count(0) == SECTORS * SECTOR, "nothing is written before all is checked"
