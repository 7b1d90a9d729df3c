"""What boots a disk, told by its beginning."""

import io

import pytest

from paddock.images.partitions import BIOS_BOOT, EFI_SYSTEM, HEAD, LINUX_ROOT_X86_64, Partition, boots_by, write_table

EFI = Partition(EFI_SYSTEM, "efi", 2048, 2048)
ROOT = Partition(LINUX_ROOT_X86_64, "root", 4096, 2048)
BIOS = Partition(BIOS_BOOT, "bios", 34, 100)
SECTORS = 16384
CODE = b"\xeb\x63\x90" + bytes(437)


def gpt(*partitions: Partition, code: bytes = b"") -> bytes:
    disk = io.BytesIO(code.ljust(SECTORS * 512, b"\0"))
    write_table(disk, SECTORS, partitions)
    return disk.getvalue()[:HEAD]


def mbr(kind: int, code: bytes = b"") -> bytes:
    entry = bytes([0, 0, 2, 0, kind, 0, 0, 0]) + bytes(8)
    return (code.ljust(446, b"\0") + bytes(16) + entry + bytes(32) + b"\x55\xaa").ljust(HEAD, b"\0")


@pytest.mark.parametrize(("head", "firmware"), [
    (gpt(EFI, ROOT), "uefi"),
    (gpt(ROOT, EFI), "uefi"),
    (gpt(BIOS, EFI, ROOT, code=CODE), "bios"),  # as distributions make images for both
    (gpt(BIOS, ROOT, code=CODE), "bios"),
    (gpt(ROOT), "bios"),
    (mbr(0xEF), "uefi"),
    (mbr(0xEF, CODE), "bios"),
    (mbr(0x83, CODE), "bios"),
    (bytes(HEAD), "bios"),
    (b"", "bios"),
    (gpt(EFI)[:600], "bios"),  # cut short
])  # fmt: skip
def test_what_boots_it(head: bytes, firmware: str) -> None:
    assert boots_by(head) == firmware


def test_a_table_that_lies_is_none() -> None:
    head = bytearray(gpt(EFI))
    for at, size in ((512 + 72, 8), (512 + 80, 4), (512 + 84, 4)):
        for value in (0, 1, 2**31, 256**size - 1):
            bad = bytearray(head)
            bad[at : at + size] = value.to_bytes(size, "little")
            assert boots_by(bytes(bad)) in ("bios", "uefi")
