"""Disks shaped as distributions ship them, made and looked at in a guest of the rescue system: the host mounts none."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from paddock.base import cpio, run
from paddock.machine.image import Role
from tests.support_images import built_image

SHAPES = ("fedora", "opensuse", "lvm")
SIZE = 400 * 2**20  # bytes
_SECONDS = 240.0
_COMMON = r"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DM_DISABLE_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1
/bin/busybox mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /run /mnt
mount -t tmpfs run /run
while read -r module; do insmod "$module"; done < /etc/modules 2> /dev/null
exec > /dev/ttyS0 2>&1
lvm_config='devices { use_devicesfile=0 } activation { udev_sync=0 udev_rules=0 monitoring=0 }'
uuid() { /sbin/blkid -p -o value -s UUID "$1"; }
# The kernel names them as it finds them.
disk() { echo /dev/$(ls /sys/bus/scsi/devices/*:0:$1:0/block 2> /dev/null); }
d0=$(disk 0) d1=$(disk 1) d2=$(disk 2)
"""
_MAKE = r"""
set -e
fill() { cp -a /tree/. /mnt/; cat > /mnt/etc/fstab; umount -a -t ext4,btrfs,vfat; sync; }

# GPT, an EFI system partition, /boot apart, and a btrfs whose subvolumes are root, home and var
printf 'label: gpt\nsize=16M, type=U\nsize=64M, type=L\ntype=L\n' | /sbin/sfdisk -q $d0
mkfs.fat -n EFI ${d0}1 > /dev/null
/sbin/mke2fs -q -t ext4 -L boot ${d0}2
mkfs.btrfs -q -M -L fedora ${d0}3
mount -t btrfs ${d0}3 /mnt
for name in root home var; do btrfs -q subvolume create /mnt/$name; done
umount /mnt
mount -t btrfs -o subvol=root ${d0}3 /mnt
mkdir /mnt/home /mnt/var /mnt/boot
mount -t btrfs -o subvol=home ${d0}3 /mnt/home
mount -t btrfs -o subvol=var ${d0}3 /mnt/var
mount -t ext4 ${d0}2 /mnt/boot
mkdir /mnt/boot/efi
mount -t vfat ${d0}1 /mnt/boot/efi
mkdir -p /mnt/boot/efi/loader
echo seed > /mnt/boot/efi/loader/random-seed
fill << .
UUID=$(uuid ${d0}3) / btrfs subvol=root,compress=zstd:1 0 0
UUID=$(uuid ${d0}3) /home btrfs compress=zstd:1,subvol=home 0 0
LABEL=fedora /var btrfs subvol=var 0 0
UUID=$(uuid ${d0}2) /boot ext4 defaults 1 2
UUID=$(uuid ${d0}1) /boot/efi vfat umask=0077 0 2
tmpfs /tmp tmpfs defaults 0 0
.

# A btrfs whose default subvolume is a snapshot, as snapper has it
mkfs.btrfs -q -M $d1
mount -t btrfs $d1 /mnt
btrfs -q subvolume create /mnt/@
btrfs -q subvolume create /mnt/@/var
btrfs -q subvolume create /mnt/@/.snapshots
mkdir /mnt/@/.snapshots/1
btrfs -q subvolume create /mnt/@/.snapshots/1/snapshot
btrfs subvolume set-default /mnt/@/.snapshots/1/snapshot
umount /mnt
mount -t btrfs $d1 /mnt
mkdir /mnt/var /mnt/.snapshots
mount -t btrfs -o subvol=/@/var $d1 /mnt/var
fill << .
UUID=$(uuid $d1) / btrfs defaults 0 0
UUID=$(uuid $d1) /var btrfs subvol=/@/var 0 0
UUID=$(uuid $d1) /.snapshots btrfs subvol=/@/.snapshots 0 0
.

# LVM, with logs on a volume of their own
printf 'label: gpt\nsize=64M, type=L\ntype=V\n' | /sbin/sfdisk -q $d2
/sbin/mke2fs -q -t ext4 -L boot ${d2}1
lvm pvcreate -q -q --config "$lvm_config" ${d2}2
lvm vgcreate -q -q --config "$lvm_config" system ${d2}2
lvm lvcreate -q -q --config "$lvm_config" -L 128M -n root system
lvm lvcreate -q -q --config "$lvm_config" -L 64M -n var system
lvm vgmknodes --config "$lvm_config"
/sbin/mke2fs -q -t ext4 /dev/system/root
/sbin/mke2fs -q -t ext4 /dev/system/var
mount -t ext4 /dev/system/root /mnt
mkdir /mnt/boot /mnt/var
mount -t ext4 /dev/system/var /mnt/var
fill << .
/dev/mapper/system-root / ext4 errors=remount-ro 0 1
/dev/system/var /var ext4 defaults 0 2
LABEL=boot /boot ext4 defaults 0 2
.
lvm vgchange -q -q -an --config "$lvm_config"
echo "all is made"
poweroff -f
"""
_LOOK = r"""
case SHAPE in
    fedora)
        mount -t btrfs -o ro,subvol=root /dev/sda3 /mnt
        mount -t btrfs -o ro,subvol=home /dev/sda3 /mnt/home
        mount -t btrfs -o ro,subvol=var /dev/sda3 /mnt/var
        mount -t ext4 -o ro /dev/sda2 /mnt/boot
        mount -t vfat -o ro /dev/sda1 /mnt/boot/efi
        ;;
    opensuse)
        mount -t btrfs -o ro /dev/sda /mnt
        mount -t btrfs -o ro,subvol=@/var /dev/sda /mnt/var
        ;;
    lvm)
        lvm vgchange -q -q -ay --config "$lvm_config"
        lvm vgmknodes --config "$lvm_config"
        mount -t ext4 -o ro /dev/system/root /mnt
        mount -t ext4 -o ro /dev/system/var /mnt/var
        ;;
esac
find /mnt -type f | while read -r file; do
    echo "see ${file#/mnt} $(tr '\n' '|' < "$file" | tr -c ' -~' '?')"
done
poweroff -f
"""


def make(directory: Path, tree: Mapping[str, str]) -> dict[str, Path]:
    """A raw disk of each shape in that directory, with the files of `tree` in its system."""
    disks = {shape: directory / f"{shape}.raw" for shape in SHAPES}
    for disk in disks.values():
        with disk.open("wb") as file:
            file.truncate(SIZE)
    said = _guest(directory, _MAKE, list(disks.values()), tree)
    assert "all is made" in said, said
    return disks


def look(directory: Path, shape: str, disk: Path) -> dict[str, str]:
    """What is in the files of the system on a raw disk of that shape, with | for the ends of lines."""
    said = _guest(directory, _LOOK.replace("SHAPE", shape), [disk], {})
    lines = [line.strip().split(" ", 2) for line in said.splitlines() if line.startswith("see ")]
    assert lines, said
    return {words[1]: words[2] if len(words) > 2 else "" for words in lines}


def _guest(directory: Path, script: str, disks: Sequence[Path], tree: Mapping[str, str]) -> str:
    """Run a script in the rescue system with these disks. Returns what it said."""
    rescue = built_image("rescue")
    entries = [cpio.directory("tree"), cpio.file("made", (_COMMON + script).encode(), 0o755)]
    for name in sorted({str(p) for file in tree for p in Path("tree", file).parents if str(p) not in (".", "tree")}):
        entries.append(cpio.directory(name))
    entries += [cpio.file(f"tree/{name}", text.encode(), 0o600) for name, text in tree.items()]
    data = rescue.file(Role.INITRD).read_bytes()
    initrd, serial = directory / "made.initrd", directory / "made.serial"
    initrd.write_bytes(data + b"\0" * (-len(data) % 4) + cpio.archive(entries))
    drives: list[str] = []
    for n, disk in enumerate(disks):
        drives += ["-drive", f"if=none,id=d{n},file={disk},format=raw"]
        drives += ["-device", f"scsi-hd,drive=d{n},bus=s.0,scsi-id={n}"]
    run.run([
        "qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", "-accel", "tcg", "-machine", "q35",
        "-cpu", "max", "-m", "384", "-serial", f"file:{serial}", "-device", "virtio-scsi-pci,id=s", *drives,
        "-kernel", rescue.file(Role.KERNEL), "-initrd", initrd,
        "-append", "console=ttyS0 quiet loglevel=3 panic=-1 rdinit=/made",
    ], timeout=_SECONDS)  # fmt: skip
    return serial.read_text(errors="replace")
