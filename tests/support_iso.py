"""A CD that installs itself: it boots the rescue system, copies itself onto an empty disk and switches off.

The CD is a hybrid one, which a BIOS boots from a disk too: so what was installed boots the same system, sees that the
disk is not empty any more, and stays.
"""

import io
from pathlib import Path

import pycdlib

from paddock.base import cpio
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
_SCRIPT = f"""#!/bin/sh
say() {{ echo "$1" > /dev/console; }}
until [ -b /dev/sda ] && [ -b /dev/sr0 ]; do usleep 100000; done
if [ "$(dd if=/dev/sda bs=512 count=1 2> /dev/null | tr -d '\\0' | wc -c)" -gt 0 ]; then
    say "{RUNS}"
    exit
fi
for cd in /dev/sr*; do
    [ "$(dd if=$cd bs=8 skip=4101 count=2 2> /dev/null | cut -c 1-{len(LABEL)})" = {LABEL} ] || continue
    say "{INSTALLING}"
    dd if=$cd of=/dev/sda bs=1M 2> /dev/null && sync && say "{INSTALLED}" && exec poweroff
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
    }
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident=LABEL)
    try:
        for path, data in files.items():
            iso.add_fp(io.BytesIO(data), len(data), path)
        iso.add_eltorito("/ISOLINUX.BIN;1", bootcatfile="/BOOT.CAT;1", boot_load_size=4, boot_info_table=True)
        iso.add_isohybrid()
        iso.write(str(target))
    finally:
        iso.close()
    return target
