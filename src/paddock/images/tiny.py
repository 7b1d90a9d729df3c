"""The image `tiny`: Debian's cloud kernel, busybox, dropbear and QEMU's guest agent; boots in seconds, made in seconds.

QEMU loads kernel and initrd itself; the initrd goes to a small ext4 root on the system disk, so that what is written
stays. Needs no root: packages are only unpacked, and mke2fs fills the file system from a directory.
"""

import shutil
import zlib
from importlib.resources import files
from pathlib import Path

from paddock.base.run import run
from paddock.images import cpio
from paddock.images.elf import Modules, libraries
from paddock.images.packages import Packages
from paddock.images.progress import Say
from paddock.images.store import ImageStore
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import MIB

LABEL = "paddock-tiny"
_DISK = 64 * MIB
_GROWS_TO = 1024 * 1024 * MIB // 4096  # blocks that the file system is prepared to grow to: 1 TiB
_PACKAGES = ("busybox-static", "dropbear-bin", "e2fsprogs", "qemu-guest-agent")
_PROGRAMS = ("usr/sbin/dropbear", "usr/bin/dropbearkey", "usr/sbin/qemu-ga", "sbin/resize2fs")
_ROOT_MODULES = ("virtio_pci", "virtio_scsi", "virtio_blk", "sd_mod")  # what it takes to reach the root
_MODULES = (
    "virtio_net", "virtio_console", "virtio_rng", "virtio_balloon", "sr_mod", "isofs", "nls_utf8", "nls_ascii",
    "button", "evdev", "qemu_fw_cfg", "vmgenid",
)  # fmt: skip
_INITRD_APPLETS = ("sh", "mount", "umount", "insmod", "findfs", "usleep", "switch_root", "echo", "cat", "ls", "dmesg")
_DIRECTORIES = (
    "bin", "dev", "etc/init.d", "etc/dropbear", "lib/modules", "lib64", "mnt", "proc", "root/.ssh",
    "run", "sbin", "sys", "tmp", "usr/bin", "usr/sbin", "usr/lib", "var/lib/paddock", "var/log", "var/run",
)  # fmt: skip
_CONFIG = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/shells": "/bin/sh\n",
    "etc/hostname": "tiny\n",
    "etc/profile": "export PATH=/usr/sbin:/usr/bin:/sbin:/bin PS1='\\u@\\h:\\w# '\n",
    "etc/os-release": 'ID=paddock-tiny\nNAME="Paddock tiny"\nPRETTY_NAME="Paddock tiny, of Debian\'s packages"\n',
}
_SECRET = {"etc/shadow": 0o600, "root": 0o700, "root/.ssh": 0o700}


def build(store: ImageStore, work: Path, say: Say) -> ImageManifest:
    """Build and publish `tiny`, with `work` for what is in between."""
    tree, root = work / "tree", work / "root"
    _fetch(work / "packages", tree, say)
    say(60, "putting the system together")
    modules = Modules(tree)
    _make_root(tree, root, modules)
    initrd = work / "initrd"
    initrd.write_bytes(_compressed(cpio.archive(_initrd(tree, modules))))
    say(75, "making the disk")
    disk = _make_disk(root, work)
    kernel = next((tree / "boot").glob("vmlinuz-*"))
    say(90, "storing the image")
    return store.publish(
        {Role.DISK: disk, Role.KERNEL: kernel, Role.INITRD: initrd},
        name="tiny",
        description="A very small Linux for tests: busybox, dropbear and a guest agent",
        os_flavor="debian",
        os_version="12",
        disk_size=_DISK,
        direct_boot=True,
        cmdline="console=ttyS0",
        guest_agent=True,
    )


def _fetch(directory: Path, tree: Path, say: Say) -> None:
    packages = Packages(directory)
    say(5, "reading package lists")
    packages.update()
    say(20, "finding packages")
    kernel = packages.versioned("linux-image-cloud-amd64", "linux-image-")
    needed = packages.libraries(_PACKAGES)
    say(30, "fetching packages")
    packages.unpack([*_PACKAGES, *needed, kernel], tree)


def _make_root(tree: Path, root: Path, modules: Modules) -> None:
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, text in _CONFIG.items():
        (root / name).write_text(text, encoding="utf-8")
    (root / "etc/mtab").symlink_to("/proc/mounts")
    _install_busybox(tree, root)
    _install_programs(tree, root)
    _install_scripts(root)
    _install_modules(root, modules)
    for name, mode in _SECRET.items():
        (root / name).chmod(mode)


def _install_busybox(tree: Path, root: Path) -> None:
    shutil.copy(tree / "bin/busybox", root / "bin/busybox")
    for path in run([tree / "bin/busybox", "--list-full"]).stdout.split():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to("/bin/busybox")


def _install_programs(tree: Path, root: Path) -> None:
    programs = [tree / p for p in _PROGRAMS]
    for source in (*programs, *libraries(tree, programs)):
        target = root / source.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copy(source, target)
        target.chmod(0o755)


def _install_scripts(root: Path) -> None:
    places = {"tiny-inittab": "etc/inittab", "tiny-shutdown": "sbin/shutdown", "tiny-chpasswd": "usr/sbin/chpasswd"}
    for name, data in _guest_files().items():
        target = root / places.get(name, "etc/init.d/" + name.removeprefix("tiny-"))
        target.unlink(missing_ok=True)
        target.write_bytes(data)
        target.chmod(0o755)


def _install_modules(root: Path, modules: Modules) -> None:
    early = modules.ordered(_ROOT_MODULES)
    later = [m for m in modules.ordered((*_ROOT_MODULES, *_MODULES)) if m not in early]
    for module in later:
        shutil.copy(module, root / "lib/modules" / module.name)
    (root / "etc/modules").write_text("".join(f"/lib/modules/{m.name}\n" for m in later), encoding="utf-8")


def _initrd(tree: Path, modules: Modules) -> list[cpio.Entry]:
    early = modules.ordered(_ROOT_MODULES)
    return [
        *(cpio.directory(d) for d in ("bin", "dev", "proc", "root")),
        cpio.file("bin/busybox", tree / "bin/busybox", 0o755),
        *(cpio.link(f"bin/{name}", "busybox") for name in _INITRD_APPLETS),
        cpio.file("init", _guest_files()["tiny-initrd"], 0o755),
        *(cpio.file(m.name, m) for m in early),
        cpio.file("modules", "".join(f"/{m.name}\n" for m in early).encode()),
    ]


def _guest_files() -> dict[str, bytes]:
    directory = files("paddock.images") / "guest"
    return {f.name: f.read_bytes() for f in directory.iterdir() if f.name.startswith("tiny-")}


def _compressed(data: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=31)  # 31: with gzip's header, and no time in it
    return packer.compress(data) + packer.flush()


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
