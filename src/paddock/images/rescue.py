"""The image `rescue`: a system in memory to repair a server's disks with, made of Debian's packages like `tiny`.

Kernel and initrd only; the initrd is the whole system. File systems that it does not need itself are modules, loaded
when something is mounted.
"""

import shutil
import stat
from pathlib import Path

from paddock.base import cpio
from paddock.base.run import run
from paddock.images import small
from paddock.images.elf import Modules
from paddock.images.progress import Say
from paddock.images.store import ImageStore
from paddock.machine.image import ImageManifest, Role

_PACKAGES = (
    *small.PACKAGES, "xfsprogs", "btrfs-progs", "dosfstools", "efibootmgr", "fdisk", "util-linux", "mount", "parted",
    "lvm2", "bash", "ncurses-base",
)  # fmt: skip
_PROGRAMS = (
    *small.PROGRAMS,
    "bin/bash",  # busybox's shell runs its own mount and fdisk, whatever is installed
    "sbin/tune2fs", "sbin/dumpe2fs", "sbin/debugfs", "sbin/badblocks",
    "bin/btrfs", "sbin/mkfs.btrfs", "sbin/mkfs.fat", "sbin/fsck.fat", "bin/efibootmgr",
    "sbin/mkfs.xfs", "sbin/xfs_repair", "usr/sbin/xfs_db", "usr/sbin/xfs_growfs",
    "sbin/fdisk", "sbin/sfdisk", "sbin/parted", "sbin/partprobe",
    "bin/lsblk", "bin/findmnt", "bin/mount", "bin/umount", "sbin/losetup", "sbin/blkid", "sbin/wipefs",
    "sbin/blkdiscard", "sbin/fsfreeze", "sbin/lvm",
)  # fmt: skip
_ALWAYS = (*small.ROOT_MODULES, *small.MODULES, "loop", "dm_mod")
_AT_NEED = ("ext4", "xfs", "btrfs", "vfat", "nls_cp437", "efivarfs", "overlay", "fuse")
_LVM = ("lvs", "lvchange", "pvs", "vgs", "vgchange", "vgscan")  # names of one program
_TERMINALS = ("l/linux", "v/vt100", "v/vt220", "x/xterm", "x/xterm-256color", "s/screen", "d/dumb")


def build(store: ImageStore, work: Path, say: Say) -> ImageManifest:
    """Build and publish `rescue`, with `work` for what is in between."""
    tree, root = work / "tree", work / "root"
    small.fetch(work / "packages", tree, _PACKAGES, say)
    say(60, "putting the system together")
    small.make_root(tree, root, _PROGRAMS, small.config("rescue", "Paddock rescue system"))
    _add_own(tree, root)
    _add_modules(tree, root)
    say(80, "packing it")
    initrd = work / "initrd"
    initrd.write_bytes(small.compressed(cpio.archive(_entries(root))))
    say(95, "storing the image")
    return store.publish(
        {Role.KERNEL: small.kernel_of(tree), Role.INITRD: initrd},
        name="rescue",
        description="A system in memory to repair a server's disks with",
        os_flavor="debian",
        os_version="12",
        disk_size=0,
        direct_boot=True,
        # A tmpfs as root would take half of the memory at most, and that is too little for the whole in the smallest.
        cmdline="console=tty0 console=ttyS0 rootfstype=ramfs",
        guest_agent=True,
    )


def _add_own(tree: Path, root: Path) -> None:
    scripts = small.guest_files("rescue-")
    (root / "init").write_bytes(scripts["rescue-init"])
    (root / "init").chmod(0o755)
    (root / "etc/motd").write_bytes(scripts["rescue-motd"])
    for name in ("etc/passwd", "etc/inittab"):
        text = (root / name).read_text(encoding="utf-8")
        (root / name).write_text(text.replace("/bin/sh\n", "/bin/bash\n"), encoding="utf-8")
    (root / "etc/shells").write_text("/bin/sh\n/bin/bash\n", encoding="utf-8")
    with (root / "etc/inittab").open("a", encoding="utf-8") as inittab:
        inittab.write("tty1::respawn:-/bin/bash\n")  # its screen, by VNC
    with (root / "etc/profile").open("a", encoding="utf-8") as profile:
        profile.write('[ -n "$SSH_CONNECTION" ] || cat /etc/motd\n')  # dropbear shows it itself
    for name in _LVM:
        (root / "sbin" / name).symlink_to("lvm")
    for name in _TERMINALS:
        target = root / "lib/terminfo" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / "lib/terminfo" / name, target)


def _add_modules(tree: Path, root: Path) -> None:
    """Some are loaded at the start; the kernel asks modprobe for the others, which needs its lists."""
    modules = Modules(tree)
    needed = modules.ordered(_ALWAYS)
    small.install_modules(root, needed)
    version = small.kernel_of(tree).name.removeprefix("vmlinuz-")
    directory = root / "lib/modules" / version
    directory.mkdir()
    for module in modules.ordered((*_ALWAYS, *_AT_NEED)):
        if module in needed:
            (directory / module.name).symlink_to(f"../{module.name}")
        else:
            shutil.copy(module, directory / module.name)
    run([tree / "bin/busybox", "depmod", "-b", root, version])


def _entries(root: Path) -> list[cpio.Entry]:
    """All below `root`, directories before what is in them."""
    return [_entry(path, str(path.relative_to(root))) for path in sorted(root.rglob("*"))]


def _entry(path: Path, name: str) -> cpio.Entry:
    if path.is_symlink():
        return cpio.link(name, str(path.readlink()))
    mode = stat.S_IMODE(path.stat().st_mode)
    if path.is_dir():
        return cpio.Entry(name, stat.S_IFDIR | (mode if name in small.SECRET else 0o755))
    return cpio.file(name, path, mode if name in small.SECRET else 0o755 if mode & 0o100 else 0o644)
