"""A CD with FAI, Debian's Fully Automatic Installation, that installs a Debian of ours and asks nothing.

What is to be installed is said in fai/config, how the CD is made in fai/etc. FAI puts a system for the CD together,
partitions the disk, unpacks a base system, installs packages from a mirror, and runs our scripts at the end.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from paddock.base.run import run

PROGRAMS = ("fai-make-nfsroot", "fai-cd", "mmdebstrap", "mksquashfs", "xorriso", "mcopy")
_HERE = Path(__file__).parent / "fai"
_TIMEOUT = 3600.0  # seconds for each of the large steps
_BASE = (
    "apt", "ca-certificates", "cloud-guest-utils", "cloud-init", "dbus", "debian-archive-keyring", "e2fsprogs",
    "ifupdown", "initramfs-tools", "iproute2", "isc-dhcp-client", "kmod", "libpam-systemd", "netbase",
    "openssh-server", "procps", "python3", "systemd-sysv", "systemd-timesyncd", "udev", "zstd",
)  # fmt: skip
# Mounts of theirs are gone with them, however they end.
_ALONE = ("unshare", "--mount", "--fork", "--kill-child")


@dataclass(frozen=True)
class Wanted:
    """What is installed, from the mirror at a port of loopback, and whose key lets in."""

    suite: str
    port: int
    public_key: str


def missing() -> list[str]:
    """What this host lacks to make the CD."""
    lacks = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    return lacks if os.geteuid() == 0 else ["root's rights", *lacks]


def write(target: Path, place: Path, wanted: Wanted) -> Path:
    """Write the CD to `target`, with `place`, a new directory, for what is in between."""
    shutil.copytree(_HERE, place)
    etc, config = place / "etc", place / "config"
    _fill_in(etc / "nfsroot.conf", {"PLACE": str(place), "PORT": str(wanted.port), "SUITE": wanted.suite})
    (etc / "apt").mkdir()
    (etc / "apt/sources.list").write_text(_source(wanted, "127.0.0.1"))
    sources = config / "files/etc/apt/sources.list"
    sources.mkdir(parents=True)
    (sources / "PADDOCK").write_text(_source(wanted, "10.0.2.2"))  # loopback, seen from a guest
    (config / "files/root-key").write_text(f"{wanted.public_key}\n")
    (config / "basefiles").mkdir()
    _made("mmdebstrap", "--variant=minbase", f"--include={','.join(_BASE)}", "--dpkgopt=force-unsafe-io",
          wanted.suite, config / "basefiles/PADDOCK.tar.zst", _source(wanted, "127.0.0.1").strip())  # fmt: skip
    _made("fai-make-nfsroot", "-v", "-s", "-z", "-C", etc)
    _made("fai-cd", "-M", "-e", "-C", etc, "-c", config, target)
    return target


def _made(*words: str | Path) -> None:
    run([*_ALONE, *words], timeout=_TIMEOUT, env={"PATH": _path(), "LC_ALL": "C.UTF-8"})


def _path() -> str:
    return f"/usr/sbin:/sbin:{os.environ['PATH']}"


def _source(wanted: Wanted, host: str) -> str:
    return f"deb http://{host}:{wanted.port}/debian {wanted.suite} main\n"


def _fill_in(file: Path, words: dict[str, str]) -> None:
    text = file.read_text()
    for name, value in words.items():
        text = text.replace(f"@{name}@", value)
    file.write_text(text)
