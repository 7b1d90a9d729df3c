"""GRUB for BIOS, installed into the file of a disk: no root, no loop device, and no grub-install.

grub-install would write three things, and so do we. `boot.img` (440 bytes of code) goes to the first sector, with the
address of the second piece at 0x5c. `core.img` goes to the BIOS boot partition; its first sector loads the rest of it
by a list of blocks that ends at 0x200, whose one entry (8 bytes first sector, 2 bytes count, 2 bytes segment) lies at
0x1f4. The modules lie in /boot/grub of the root file system, where core.img was told to look for them.

Source: GRUB 2.06, include/grub/i386/pc/boot.h (offsets), include/grub/offsets.h and util/setup.c (what is patched).
"""

import struct
from typing import BinaryIO

from paddock.base.errors import Refused
from paddock.images.partitions import SECTOR

_KERNEL_SECTOR = 0x5C  # in boot.img: where core.img begins, 8 bytes
_BOOT_DRIVE = 0x64  # in boot.img: 0xff means the drive that the BIOS started from
_DRIVE_CHECK = 0x66  # in boot.img: a jump over a fix for floppies; two NOPs turn the fix on, as on hard disks
_BOOT_CODE_END = 0x1B8  # of the first sector: a disk's signature and partition table follow
_BLOCK_LIST = 0x1F4  # in the first sector of core.img: 8 bytes first sector, 2 count, 2 segment
_CORE_SEGMENT = 0x820  # where GRUB 2 has the rest of core.img loaded


def install(disk: BinaryIO, boot_img: bytes, core_img: bytes, first: int, sectors: int) -> None:
    """Write boot and core images; core goes to the BIOS boot partition at sector `first`, `sectors` long.

    Raises Refused when the images are not those of GRUB 2 for BIOS, or core does not fit.
    """
    core = bytearray(core_img.ljust(-(-len(core_img) // SECTOR) * SECTOR, b"\0"))
    count = len(core) // SECTOR
    if count > sectors:
        raise Refused(f"GRUB's core image has {count} sectors, its partition only {sectors}")
    _, listed, segment = struct.unpack_from("<QHH", core, _BLOCK_LIST)
    if segment != _CORE_SEGMENT or listed != count - 1:
        raise Refused(f"GRUB's core image is not one of GRUB 2 for BIOS: it loads {listed} sectors to {segment:#x}")
    struct.pack_into("<Q", core, _BLOCK_LIST, first + 1)
    boot = _boot_sector(boot_img, first)
    disk.seek(0)
    disk.write(boot)
    disk.seek(first * SECTOR)
    disk.write(core)


def _boot_sector(boot_img: bytes, core_at: int) -> bytes:
    if len(boot_img) != SECTOR or boot_img[-2:] != b"\x55\xaa":
        raise Refused("GRUB's boot image is not one sector of boot code")
    boot = bytearray(boot_img)
    struct.pack_into("<Q", boot, _KERNEL_SECTOR, core_at)
    boot[_BOOT_DRIVE] = 0xFF
    boot[_DRIVE_CHECK : _DRIVE_CHECK + 2] = b"\x90\x90"
    return bytes(boot[:_BOOT_CODE_END])
