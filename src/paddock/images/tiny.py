"""The image `tiny`: Debian's cloud kernel, busybox, dropbear and QEMU's guest agent; boots in seconds, made in seconds.

QEMU loads kernel and initrd itself; the initrd goes to a small ext4 root on the system disk, so that what is written
stays. Needs no root: mke2fs fills the file system from a directory.
"""

from pathlib import Path

from paddock.base import cpio
from paddock.base.run import run
from paddock.images import small
from paddock.images.elf import Modules
from paddock.images.progress import Say
from paddock.images.store import ImageStore
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import MIB

LABEL = "paddock-tiny"
# Perl renews the kernel's randomness in servers that start from a warm image: nothing smaller knows ioctl.
_PACKAGES = (*small.PACKAGES, "perl-base")
_PROGRAMS = (*small.PROGRAMS, "usr/bin/perl")
_DISK = 64 * MIB
_GROWS_TO = 1024 * 1024 * MIB // 4096  # blocks that the file system is prepared to grow to: 1 TiB
_INITRD_APPLETS = ("sh", "mount", "umount", "insmod", "findfs", "usleep", "switch_root", "echo", "cat", "ls", "dmesg")


def build(store: ImageStore, work: Path, say: Say) -> ImageManifest:
    """Build and publish `tiny`, with `work` for what is in between."""
    tree, root = work / "tree", work / "root"
    small.fetch(work / "packages", tree, _PACKAGES, say)
    say(60, "putting the system together")
    modules = Modules(tree)
    early = modules.ordered(small.ROOT_MODULES)
    later = [m for m in modules.ordered((*small.ROOT_MODULES, *small.MODULES)) if m not in early]
    small.make_root(tree, root, _PROGRAMS, small.config("tiny", "Paddock tiny"))
    small.install_modules(root, later)
    initrd = work / "initrd"
    initrd.write_bytes(small.compressed(cpio.archive(_initrd(tree, early))))
    say(75, "making the disk")
    disk = _make_disk(root, work)
    say(90, "storing the image")
    return store.publish(
        {Role.DISK: disk, Role.KERNEL: small.kernel_of(tree), Role.INITRD: initrd},
        name="tiny",
        description="A very small Linux for tests: busybox, dropbear and a guest agent",
        os_flavor="debian",
        os_version="12",
        disk_size=_DISK,
        direct_boot=True,
        cmdline="console=ttyS0",
        guest_agent=True,
    )


def _initrd(tree: Path, modules: list[Path]) -> list[cpio.Entry]:
    return [
        *(cpio.directory(d) for d in ("bin", "dev", "proc", "root")),
        cpio.file("bin/busybox", tree / "bin/busybox", 0o755),
        *(cpio.link(f"bin/{name}", "busybox") for name in _INITRD_APPLETS),
        cpio.file("init", small.guest_files()["tiny-initrd"], 0o755),
        *(cpio.file(m.name, m) for m in modules),
        cpio.file("modules", "".join(f"/{m.name}\n" for m in modules).encode()),
    ]


def _make_disk(root: Path, work: Path) -> Path:
    raw, disk = work / "root.raw", work / "disk"
    run(
        [
            "mke2fs", "-q", "-F", "-t", "ext4", "-L", LABEL, "-b", "4096", "-m", "0", "-J", "size=4",
            "-E", f"resize={_GROWS_TO},root_owner=0:0", "-d", root, raw, f"{_DISK // 1024}k",
        ]
    )  # fmt: skip
    _give_all_to_root(raw, root)
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], timeout=300)
    return disk


def _give_all_to_root(raw: Path, root: Path) -> None:
    """mke2fs keeps the owners of the files it copies, which are whoever builds."""
    names = ["/" + str(p.relative_to(root)) for p in root.rglob("*")]
    commands = "".join(f'sif "{n}" uid 0\nsif "{n}" gid 0\n' for n in names)
    run(["debugfs", "-w", "-f", "-", raw], input=commands)
