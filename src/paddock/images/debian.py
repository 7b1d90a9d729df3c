"""The image `debian-12`: a small ordinary Debian with cloud-init, made by mmdebstrap, booted by its own GRUB.

Made as root, or as a plain user in a user namespace. The packages come from the host's Debian sources where the host
is the same release, else from mmdebstrap's own; the guest always gets the latter, and nothing of the host.
"""

import io
import os
import shlex
import tarfile
from importlib.resources import files
from pathlib import Path
from uuid import UUID, uuid4

from paddock.base.clock import monotonic, sleep
from paddock.base.errors import CommandFailed, Refused
from paddock.base.run import run, spawn
from paddock.images import boot_loader
from paddock.images.packages import Packages
from paddock.images.partitions import BIOS_BOOT, END_SECTORS, LINUX_ROOT_X86_64, SECTOR, Partition, write_table
from paddock.images.progress import Say
from paddock.images.store import ImageStore
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import MIB

SUITE = "bookworm"
_ROOT_MIB = 2044  # of the root file system in the image; it grows to the server's disk at the first boot
_DISK = 2048 * MIB
_BOOT_AT = 1 * MIB // SECTOR
_ROOT_AT = 3 * MIB // SECTOR
_TIMEOUT = 3600.0  # seconds that mmdebstrap may take, on a slow line
_CONSOLE = "console=tty0 console=ttyS0,115200"
PACKAGES = (
    "linux-image-cloud-amd64", "grub-pc-bin", "grub2-common", "zstd",
    "systemd-sysv", "dbus", "libpam-systemd", "systemd-resolved", "systemd-timesyncd", "netplan.io",
    "cloud-init", "cloud-guest-utils", "fdisk", "e2fsprogs",
    "openssh-server", "qemu-guest-agent",
    "ca-certificates", "curl", "iproute2", "iputils-ping", "less", "netbase", "procps", "sudo", "vim-tiny",
)  # fmt: skip
_FILES = {
    "debian-cloud.cfg": ("etc/cloud/cloud.cfg.d/90_paddock.cfg", 0o644),
    "debian-finish": ("usr/local/sbin/paddock-finish", 0o755),
}
_TEXTS = {
    "etc/cloud/ds-identify.cfg": "policy: enabled\n",
    "etc/default/grub": (
        "# Read by update-grub. The last console is the one that the system's first messages go to.\n"
        "GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\nGRUB_TIMEOUT_STYLE=hidden\nGRUB_DISTRIBUTOR=Debian\n"
        f'GRUB_CMDLINE_LINUX_DEFAULT=""\nGRUB_CMDLINE_LINUX="{_CONSOLE}"\n'
        'GRUB_TERMINAL="console serial"\nGRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"\n'
        "GRUB_DISABLE_OS_PROBER=true\n"
    ),
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/ssh/sshd_config.d/90-paddock.conf": (
        "# Keys, unless cloud-init was told to allow passwords: its file is read before this one.\n"
        "PasswordAuthentication no\nPermitRootLogin yes\n"
    ),
    # What cloud-init would write: finding it so, it need not restart sshd in the midst of the boot.
    "etc/ssh/sshd_config.d/50-cloud-init.conf": "PasswordAuthentication no\n",
    "etc/systemd/system/systemd-networkd-wait-online.service.d/paddock.conf": (
        "# A server without a network card would wait two minutes for one.\n"
        "[Service]\nExecStart=\nExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=20\n"
    ),
}
# What mmdebstrap says as it goes, and how far it is then.
_STAGES = (
    ("running apt-get update", 3, "reading package lists"),
    ("downloading packages with apt", 6, "fetching the base system"),
    ("extracting archives", 12, "unpacking the base system"),
    ("installing essential packages", 16, "installing the base system"),
    ("installing remaining packages", 25, "installing packages"),
    ("paddock-finish", 75, "making the file system"),
    ("root.raw", 80, "copying the file system"),
)
_INSTALLING = 25, 75  # percent at which the packages begin and end


def build(store: ImageStore, work: Path, say: Say) -> ImageManifest:
    """Build and publish `debian-12`, with `work` for what is in between."""
    out = work / "out"
    out.mkdir()
    root_id = uuid4()
    say(1, "finding package sources")
    argv = _mmdebstrap(work, out, root_id, _own_sources(work))
    _run_with_progress(argv, work / "mmdebstrap.log", say)
    say(85, "making the disk")
    disk = _make_disk(out, work)
    say(95, "storing the image")
    return store.publish(
        {Role.DISK: disk, Role.KERNEL: out / "kernel", Role.INITRD: out / "initrd"},
        name="debian-12",
        description="Debian 12 (bookworm) with cloud-init",
        os_flavor="debian",
        os_version="12",
        disk_size=_DISK,
        cmdline=f"root=UUID={root_id} ro {_CONSOLE}",
        cloud_init=True,
        guest_agent=True,
    )


def _own_sources(work: Path) -> Path | None:
    """The host's sources of Debian's packages of this release, as a file, or None when it has none."""
    if not Path("/etc/debian_version").exists():
        return None
    lines = Packages(work / "packages").sources_of(SUITE)
    if not lines:
        return None
    path = work / "sources.list"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _mmdebstrap(work: Path, out: Path, root_id: UUID, sources: Path | None) -> list[str]:
    overlay = work / "overlay.tar"
    overlay.write_bytes(_overlay())
    hooks = [f"--setup-hook={hook}" for hook in _source_hooks(sources)] if sources else []
    hooks += [
        f"--customize-hook={hook}"
        for hook in (
            f"tar-in {shlex.quote(str(overlay))} /",
            f'chroot "$1" /usr/local/sbin/paddock-finish {root_id} {_ROOT_MIB}',
            *(
                f"download /run/paddock-out/{name} {shlex.quote(str(out / name))}"
                for name in ("kernel", "initrd", "boot.img", "core.img", "root.raw.zst")
            ),
        )
    ]
    excluded = ("doc/*", "man/*", "info/*", "locale/*", "lintian/*")
    slim = [f"--dpkgopt=path-exclude=/usr/share/{e}" for e in excluded]
    return [
        *_alone(), "mmdebstrap", "--verbose", "--skip=cleanup", "--mode=root" if _is_root() else "--mode=unshare",
        "--variant=minbase", "--format=null", "--components=main", f"--include={','.join(PACKAGES)}",
        "--dpkgopt=force-unsafe-io", *slim, "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        *hooks, SUITE, "-",
    ]  # fmt: skip


def _source_hooks(sources: Path) -> list[str]:
    """The host's sources for the making, mmdebstrap's put back at its end."""
    return [
        'mv "$1/etc/apt/sources.list" "$1/etc/apt/sources.list.default"',
        f"upload {shlex.quote(str(sources))} /etc/apt/sources.list",
    ]


def _alone() -> list[str]:
    """Words before a command that make it, its children and their mounts go when we do, even by SIGKILL."""
    words = ["setpriv", "--pdeathsig", "KILL"]
    return [*words, "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"] if _is_root() else words


def _is_root() -> bool:
    return os.geteuid() == 0


def _run_with_progress(argv: list[str], log: Path, say: Say) -> None:
    # In a user namespace the new root must be below a directory that others may enter, as ours is not.
    temporary = log.parent if _is_root() else Path("/var/tmp")  # noqa: S108
    process = spawn(argv, output=log, env={"TMPDIR": str(temporary), "LC_ALL": "C.UTF-8"})
    deadline = monotonic() + _TIMEOUT
    try:
        while process.poll() is None:
            say(*_progress(log.read_text(encoding="utf-8", errors="replace")))
            if monotonic() > deadline:
                raise CommandFailed(f"mmdebstrap did not end within {_TIMEOUT:g} s")
            sleep(0.5)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        said = log.read_text(encoding="utf-8", errors="replace")
        raise CommandFailed(
            f"mmdebstrap failed with exit code {process.returncode}: {_reason(said)}",
            hint="this host needs Debian's package sources, or a way to them; the build's log has all of it",
        )


def _progress(said: str) -> tuple[int, str]:
    percent, doing = 2, "starting mmdebstrap"
    for words, reached, text in _STAGES:
        if words in said:
            percent, doing = reached, text
    begin, end = _INSTALLING
    if percent != begin:
        return percent, doing
    rest = said.partition(_STAGES[4][0])[2]
    done, total = rest.count("\nSetting up ") + rest.count("\nUnpacking "), 2 * max(rest.count("\nGet:"), 150)
    return begin + min(done * (end - begin) // total, end - begin - 1), doing


def _reason(said: str) -> str:
    errors = [line for line in said.splitlines() if line.startswith(("E:", "Err:", "dpkg: error"))]
    return "\n".join(errors[-8:]) or said[-1500:]


def _overlay() -> bytes:
    """Our files for the new system, as a tar archive of root's files."""
    directory = files("paddock.images") / "guest"
    members = {target: ((directory / name).read_bytes(), mode) for name, (target, mode) in _FILES.items()}
    members |= {target: (text.encode(), 0o644) for target, text in _TEXTS.items()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for target, (data, mode) in members.items():
            info = tarfile.TarInfo(target)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _make_disk(out: Path, work: Path) -> Path:
    """The whole disk out of the root file system and GRUB's images."""
    raw, disk = work / "disk.raw", work / "disk"
    sectors = _DISK // SECTOR
    root = Partition(LINUX_ROOT_X86_64, "root", _ROOT_AT, _ROOT_MIB * MIB // SECTOR)
    boot = Partition(BIOS_BOOT, "bios", _BOOT_AT, _ROOT_AT - _BOOT_AT)
    if root.first + root.sectors > sectors - END_SECTORS:
        raise Refused("BUG: the root file system does not fit on the disk")
    run(["zstd", "-q", "-d", "--sparse", "--rm", out / "root.raw.zst", "-o", out / "root.raw"], timeout=600)
    run(["truncate", "-s", str(_DISK), raw])
    at = f"seek={_ROOT_AT * SECTOR // MIB}"
    run(["dd", f"if={out / 'root.raw'}", f"of={raw}", "bs=1M", at, "conv=notrunc,sparse"], timeout=600)
    with raw.open("r+b") as file:
        boot_loader.install(
            file, (out / "boot.img").read_bytes(), (out / "core.img").read_bytes(), boot.first, boot.sectors
        )
        write_table(file, sectors, [boot, root])
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], timeout=600)
    return disk
