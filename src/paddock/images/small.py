"""What our small systems share (`tiny`, `rescue`): busybox, dropbear and QEMU's guest agent out of Debian's packages.

Needs no root: packages are only unpacked. The scripts that run in the guest are in guest/tiny-*.
"""

import shutil
import zlib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

from paddock.base.run import run
from paddock.images.elf import libraries
from paddock.images.packages import Packages
from paddock.images.progress import Say

PACKAGES = ("busybox-static", "dropbear-bin", "e2fsprogs", "openssh-client", "qemu-guest-agent")
PROGRAMS = (
    "usr/sbin/dropbear", "usr/bin/dropbearkey", "usr/sbin/qemu-ga",
    "usr/bin/scp",  # dropbear brings none, and it is how Packer and others copy files here
    "sbin/resize2fs", "sbin/mke2fs", "sbin/e2fsck",
)  # fmt: skip
ROOT_MODULES = ("virtio_pci", "virtio_scsi", "virtio_blk", "sd_mod")  # what it takes to reach the disks
MODULES = (
    "virtio_net", "virtio_console", "virtio_rng", "virtio_balloon", "sr_mod", "isofs", "nls_utf8", "nls_ascii",
    "button", "evdev", "qemu_fw_cfg", "vmgenid",
)  # fmt: skip
_LINKS = {"etc/mtab": "/proc/mounts", "sbin/mkfs.ext4": "mke2fs", "sbin/fsck.ext4": "e2fsck"}
_DIRECTORIES = (
    "bin", "dev", "etc/init.d", "etc/dropbear", "lib/modules", "lib64", "mnt", "proc", "root/.ssh",
    "run", "sbin", "sys", "tmp", "usr/bin", "usr/sbin", "usr/lib", "var/lib/paddock", "var/log", "var/run",
)  # fmt: skip
_PLACES = {"tiny-inittab": "etc/inittab", "tiny-shutdown": "sbin/shutdown", "tiny-chpasswd": "usr/sbin/chpasswd"}
SECRET = {"etc/shadow": 0o600, "root": 0o700, "root/.ssh": 0o700}


def config(name: str, title: str) -> dict[str, str]:
    """The files of /etc of a system called `name`."""
    return {
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
        "etc/shadow": "root:*:19000:0:99999:7:::\n",
        "etc/shells": "/bin/sh\n",
        "etc/hostname": f"{name}\n",
        "etc/paddock-system": f"{name}\n",
        "etc/profile": "export PATH=/usr/sbin:/usr/bin:/sbin:/bin PS1='\\u@\\h:\\w# '\n",
        "etc/os-release": f'ID=paddock-{name}\nNAME="{title}"\nPRETTY_NAME="{title}, of Debian\'s packages"\n',
    }


def fetch(directory: Path, tree: Path, names: Iterable[str], say: Say) -> None:
    """Unpack packages, the libraries they need and a kernel below `tree`. Raises as `Packages`."""
    packages = Packages(directory)
    say(5, "reading package lists")
    packages.update()
    say(20, "finding packages")
    kernel = packages.versioned("linux-image-cloud-amd64", "linux-image-")
    needed = packages.libraries(names)
    say(30, "fetching packages")
    packages.unpack([*names, *needed, kernel], tree)


def make_root(tree: Path, root: Path, programs: Iterable[str], config: Mapping[str, str]) -> None:
    """A system below `root`: busybox, our scripts, these programs with their libraries; no modules yet."""
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, text in config.items():
        (root / name).write_text(text, encoding="utf-8")
    _install_busybox(tree, root)
    _install_programs(tree, root, programs)
    for name, target in _LINKS.items():
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(target)
    shutil.copy(tree / "etc/mke2fs.conf", root / "etc/mke2fs.conf")
    _install_scripts(root)
    for name, mode in SECRET.items():
        (root / name).chmod(mode)


def install_modules(root: Path, modules: Iterable[Path]) -> None:
    """Copy modules, and have them loaded at the start in this order."""
    chosen = list(modules)
    for module in chosen:
        shutil.copy(module, root / "lib/modules" / module.name)
    (root / "etc/modules").write_text("".join(f"/lib/modules/{m.name}\n" for m in chosen), encoding="utf-8")


def kernel_of(tree: Path) -> Path:
    """The kernel that was fetched."""
    return next((tree / "boot").glob("vmlinuz-*"))


def guest_files(prefix: str = "tiny-") -> dict[str, bytes]:
    """Our scripts for guests, by name."""
    directory = files("paddock.images") / "guest"
    return {f.name: f.read_bytes() for f in directory.iterdir() if f.name.startswith(prefix)}


def compressed(data: bytes) -> bytes:
    """As gzip."""
    packer = zlib.compressobj(9, wbits=31)  # 31: with gzip's header, and no time in it
    return packer.compress(data) + packer.flush()


def _install_busybox(tree: Path, root: Path) -> None:
    shutil.copy(tree / "bin/busybox", root / "bin/busybox")
    for path in run([tree / "bin/busybox", "--list-full"]).stdout.split():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to("/bin/busybox")


def _install_programs(tree: Path, root: Path, names: Iterable[str]) -> None:
    programs = [tree / p for p in names]
    for source in (*programs, *libraries(tree, programs)):
        target = root / source.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copy(source, target)
        target.chmod(0o755)


def _install_scripts(root: Path) -> None:
    for name, data in guest_files().items():
        target = root / _PLACES.get(name, "etc/init.d/" + name.removeprefix("tiny-"))
        target.unlink(missing_ok=True)
        target.write_bytes(data)
        target.chmod(0o755)
