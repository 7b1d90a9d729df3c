"""A CD that installs itself: it boots the rescue system, copies itself onto an empty disk and switches off.

The CD is a hybrid one, which a BIOS boots from a disk too: so what was installed boots the same system, sees that the
disk is not empty any more, and stays. Booted by UEFI, it installs as installers do that leave the removable media path
alone: the disk's kernel is where only an entry of the firmware's variables leads to.
"""

import io
import tempfile
from pathlib import Path

import pycdlib

from paddock.base import cpio
from paddock.base.run import run
from paddock.images import small
from paddock.machine.image import Role
from tests.support_images import BuiltImage

LABEL = "INSTALL-ME"
INSTALLING, INSTALLED, RUNS = "test-cd: installing", "test-cd: installed", "test-cd: runs from the disk"
_LOADER = Path("/usr/lib/ISOLINUX/isolinux.bin")  # of Debian's packages isolinux and syslinux-common
_MODULE = Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")
_MENU = """SERIAL 0 115200
PROMPT 0
DEFAULT linux
LABEL linux
  KERNEL /VMLINUZ
  INITRD /INITRD,/INSTALL
  APPEND console=ttyS0 quiet
"""
_GRUB = """search --set=root --file /vmlinuz
linux /vmlinuz console=ttyS0 quiet
initrd /initrd /install
boot
"""
_MODULES = ("iso9660", "fat", "part_gpt", "part_msdos", "search", "search_fs_file", "linux", "boot")
_SCRIPT = f"""#!/bin/sh
say() {{ echo "$1" > /dev/console; }}
for_bios() {{ dd if="$1" of=/dev/sda bs=1M 2> /dev/null; }}
for_uefi() {{
    mkdir -p /cd /disk && mount -t iso9660 -o ro "$1" /cd || return
    printf 'label: gpt\\ntype=U\\n' | /sbin/sfdisk -q /dev/sda && mkfs.fat /dev/sda1 > /dev/null || return
    mount -t vfat /dev/sda1 /disk && mkdir -p /disk/EFI/test && cp /cd/vmlinuz /disk/EFI/test/linux.efi || return
    cat /cd/initrd /cd/install > /disk/EFI/test/initrd && umount /disk || return
    mount -t efivarfs efivarfs /sys/firmware/efi/efivars || return
    efibootmgr -q -c -d /dev/sda -p 1 -L "test system" -l '\\EFI\\test\\linux.efi' \\
        -u 'initrd=\\EFI\\test\\initrd console=ttyS0 quiet'
}}
until [ -b /dev/sda ] && [ -b /dev/sr0 ]; do usleep 100000; done
if [ "$(dd if=/dev/sda bs=512 count=1 2> /dev/null | tr -d '\\0' | wc -c)" -gt 0 ]; then
    say "{RUNS}"
    exit
fi
for cd in /dev/sr*; do
    [ "$(dd if=$cd bs=8 skip=4101 count=2 2> /dev/null | cut -c 1-{len(LABEL)})" = {LABEL} ] || continue
    say "{INSTALLING}"
    [ -d /sys/firmware/efi ] && how=uefi || how=bios
    for_$how $cd 2> /dev/console && sync && say "{INSTALLED}" && exec poweroff
done
say "test-cd: no CD to install from"
"""


def installer(image: BuiltImage, target: Path) -> Path:
    """Write the CD to `target`. `image` is the rescue system."""
    inittab = small.guest_files()["tiny-inittab"] + b"::once:/etc/init.d/install-me\n"
    more = [cpio.file("etc/inittab", inittab), cpio.file("etc/init.d/install-me", _SCRIPT.encode(), 0o755)]
    files = {
        "/ISOLINUX.BIN;1": _LOADER.read_bytes(),
        "/LDLINUX.C32;1": _MODULE.read_bytes(),
        "/ISOLINUX.CFG;1": _MENU.encode(),
        "/VMLINUZ.;1": image.file(Role.KERNEL).read_bytes(),
        "/INITRD.;1": image.file(Role.INITRD).read_bytes(),
        "/INSTALL.;1": small.compressed(cpio.archive(more)),
        "/ESP.IMG;1": _for_uefi(),
    }
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident=LABEL)
    try:
        for path, data in files.items():
            iso.add_fp(io.BytesIO(data), len(data), path)
        iso.add_eltorito("/ISOLINUX.BIN;1", bootcatfile="/BOOT.CAT;1", boot_load_size=4, boot_info_table=True)
        iso.add_eltorito("/ESP.IMG;1", efi=True)
        iso.add_isohybrid(efi=True)
        iso.write(str(target))
    finally:
        iso.close()
    return target


def _for_uefi() -> bytes:
    """A FAT file system with GRUB where any UEFI looks for a loader, which finds the rest on the CD itself."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "grub.cfg").write_text(_GRUB)
        run(["grub-mkimage", "-O", "x86_64-efi", "-p", "/", "-c", place / "grub.cfg", "-o", place / "grub", *_MODULES])
        run(["mkfs.fat", "-C", place / "esp", "4096"])
        run(["mmd", "-i", place / "esp", "::/EFI", "::/EFI/BOOT"])
        run(["mcopy", "-i", place / "esp", place / "grub", "::/EFI/BOOT/BOOTX64.EFI"])
        return (place / "esp").read_bytes()
