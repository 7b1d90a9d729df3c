"""A disk that only UEFI can boot, made of files without root: a FAT partition with the rescue system and a script.

OVMF finds no boot entry and no \\EFI\\BOOT on it, and so opens its shell, which runs startup.nsh.
"""

from pathlib import Path

from paddock.base.run import run
from paddock.machine.image import Role
from tests.support_images import BuiltImage

SCRIPT = "echo the script of the disk runs\r\n\\vmlinuz.efi initrd=\\initrd console=ttyS0 quiet\r\n"
_TYPE_OF_FIRST = 446 + 4  # of the first partition, in the first sector
_EFI_SYSTEM = 0xEF


def uefi_disk(image: BuiltImage, place: Path) -> Path:
    """The disk, as qcow2. QEMU's vvfat makes it; what the partition is said to be is corrected."""
    files = place / "esp"
    files.mkdir()
    (files / "vmlinuz.efi").write_bytes(image.file(Role.KERNEL).read_bytes())
    (files / "initrd").write_bytes(image.file(Role.INITRD).read_bytes())
    (files / "startup.nsh").write_bytes(SCRIPT.encode())
    raw, disk = place / "esp.raw", place / "esp.qcow2"
    run(["qemu-img", "convert", "-f", "vvfat", "-O", "raw", f"fat:16:{files}", raw], timeout=120)
    with raw.open("r+b") as file:
        file.seek(_TYPE_OF_FIRST)
        file.write(bytes([_EFI_SYSTEM]))
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], timeout=120)
    raw.unlink()
    return disk
