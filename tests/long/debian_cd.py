"""Debian's own installer as a bootable CD that asks nothing.

The kernel and the initrd are those of Debian's package with the netboot images; beside them lie only a boot menu for
the serial console and the answers to the installer's questions, in a second initrd, where it looks for them by itself.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import pycdlib

from paddock.base import cpio
from paddock.images import small

NETBOOT = "debian-installer-12-netboot-amd64"  # the Debian package
_INSTALLER = Path("/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64")
_LOADER = Path("/usr/lib/ISOLINUX/isolinux.bin")  # of Debian's packages isolinux and syslinux-common
_MODULE = Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")
_MENU = """SERIAL 0 115200
PROMPT 0
DEFAULT install
LABEL install
  KERNEL /LINUX
  INITRD /INITRD,/ANSWERS
  APPEND auto=true priority=critical DEBIAN_FRONTEND=text TERM=dumb console=ttyS0,115200 ---
"""
# What the installation is to be: one partition, no swap, no user but root, who is let in by a key.
_ANSWERS = """\
d-i debian-installer/locale string C
d-i keyboard-configuration/xkb-keymap select us
d-i netcfg/choose_interface select auto
d-i netcfg/get_hostname string {name}
d-i netcfg/get_domain string
d-i hw-detect/load_firmware boolean false
d-i mirror/country string manual
d-i mirror/protocol string http
d-i mirror/http/hostname string 10.0.2.2:{port}
d-i mirror/http/directory string /debian
d-i mirror/http/proxy string
d-i mirror/suite string {suite}
d-i clock-setup/utc boolean true
d-i clock-setup/ntp boolean false
d-i time/zone string Etc/UTC
d-i passwd/root-login boolean true
d-i passwd/root-password-crypted password *
d-i passwd/make-user boolean false
d-i partman-auto/disk string /dev/sda
d-i partman-auto/method string regular
d-i partman-auto/expert_recipe string one-root :: \
 1024 1024 -1 ext4 $primary{{ }} $bootable{{ }} method{{ format }} format{{ }} \
 use_filesystem{{ }} filesystem{{ ext4 }} mountpoint{{ / }} .
d-i partman-basicfilesystems/no_swap boolean false
d-i partman-partitioning/confirm_write_new_label boolean true
d-i partman/choose_partition select finish
d-i partman/confirm boolean true
d-i partman/confirm_nooverwrite boolean true
d-i base-installer/install-recommends boolean false
d-i base-installer/kernel/image string linux-image-cloud-amd64
d-i apt-setup/services-select multiselect
d-i apt-setup/enable-source-repositories boolean false
d-i pkgsel/run_tasksel boolean false
d-i pkgsel/include string openssh-server qemu-guest-agent cloud-init cloud-guest-utils python3 systemd-timesyncd
d-i pkgsel/upgrade select none
d-i pkgsel/update-policy select none
d-i grub-installer/only_debian boolean true
d-i grub-installer/bootdev string /dev/sda
d-i preseed/late_command string sh /late /target
d-i finish-install/reboot_in_progress note
d-i cdrom-detect/eject boolean false
d-i debian-installer/exit/poweroff boolean true
"""
# By hand one would do this at the end: the key; who configures the network from now on; root keeps that key.
_LATE = """#!/bin/sh -e
mkdir -p "$1/root/.ssh"
cp /root-key "$1/root/.ssh/authorized_keys"
chmod 700 "$1/root/.ssh"
chmod 600 "$1/root/.ssh/authorized_keys"
printf 'disable_root: false\\nlocale: C.UTF-8\\n' > "$1/etc/cloud/cloud.cfg.d/50_root.cfg"
printf 'auto lo\\niface lo inet loopback\\nsource /etc/network/interfaces.d/*\\n' > "$1/etc/network/interfaces"
"""


@dataclass(frozen=True)
class Answers:
    """What an installation is told. `port` is a mirror's on the host's loopback."""

    name: str
    suite: str
    port: int
    public_key: str


def is_there() -> bool:
    """Whether the package with the installer is on this host."""
    return (_INSTALLER / "initrd.gz").exists()


def write(target: Path, answers: Answers) -> Path:
    """Write the CD to `target`."""
    text = _ANSWERS.format(name=answers.name, port=answers.port, suite=answers.suite)
    more = [
        cpio.file("preseed.cfg", text.encode()),
        cpio.file("late", _LATE.encode(), 0o755),
        cpio.file("root-key", f"{answers.public_key}\n".encode()),
    ]
    files = {
        "/ISOLINUX.BIN;1": _LOADER.read_bytes(),
        "/LDLINUX.C32;1": _MODULE.read_bytes(),
        "/ISOLINUX.CFG;1": _MENU.encode(),
        "/LINUX.;1": (_INSTALLER / "linux").read_bytes(),
        "/INITRD.;1": (_INSTALLER / "initrd.gz").read_bytes(),
        "/ANSWERS.;1": small.compressed(cpio.archive(more)),
    }
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident="DEBIAN-INSTALLER")
    try:
        for path, data in files.items():
            iso.add_fp(io.BytesIO(data), len(data), path)
        iso.add_eltorito("/ISOLINUX.BIN;1", bootcatfile="/BOOT.CAT;1", boot_load_size=4, boot_info_table=True)
        iso.write(str(target))
    finally:
        iso.close()
    return target
