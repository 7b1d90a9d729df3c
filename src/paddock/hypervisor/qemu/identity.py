"""As whom QEMU runs: as root we drop to `paddock-vm`; a plain user's guests run as that user."""

import functools
import logging
import os
import pwd
from pathlib import Path

from paddock.base.run import Identity
from paddock.hypervisor.qemu import files

USER = "paddock-vm"
KVM = Path("/dev/kvm")

log = logging.getLogger(__name__)


@functools.cache
def vm_identity() -> Identity | None:
    """The unprivileged user for QEMU; None means that it runs as we do."""
    if os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        log.warning("QEMU runs as root: there is no user %s (`useradd --system %s` makes it)", USER, USER)
        return None
    return Identity(user.pw_uid, user.pw_gid, _kvm_group())


def describe_identity() -> str:
    """One phrase for facts and logs."""
    if os.geteuid() != 0:
        return f"as user {pwd.getpwuid(os.geteuid()).pw_name}"
    return f"as user {USER}" if vm_identity() else f"as root, since there is no user {USER}"


def make_directory(path: Path) -> None:
    """A directory on the way to a machine's: ours alone, and QEMU's user may pass through."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if identity := vm_identity():
        os.chown(path, 0, identity.gid)
        path.chmod(0o710)


def make_machine_directory(path: Path) -> None:
    """Where QEMU's user may make its sockets, but not touch our files in it (sticky)."""
    path.mkdir(mode=0o700, exist_ok=True)
    if identity := vm_identity():
        os.chown(path, 0, identity.gid)
        path.chmod(0o1770)


def give(path: Path, *, writable: bool) -> None:
    """Let QEMU's user read a file of ours, or own it. Raises Refused when it is no plain file."""
    if vm_identity() is None:
        return
    fd = files.open_regular(path)
    try:
        give_open(fd, writable=writable)
    finally:
        os.close(fd)


def give_open(fd: int, *, writable: bool) -> None:
    """The same for a file that is open: by its name it could be another one meanwhile."""
    if identity := vm_identity():
        os.fchown(fd, identity.uid if writable else 0, identity.gid)
        if not writable:
            os.fchmod(fd, 0o640)


def kvm_hint(identity: Identity | None) -> str:
    """What to do so that QEMU's user may open /dev/kvm; empty when it may."""
    status = KVM.stat()
    if identity is None or status.st_mode & 0o006 == 0o006:
        return ""
    if status.st_mode & 0o060 == 0o060 and status.st_gid in identity.groups:
        return ""
    return f"let it: `chgrp kvm {KVM} && chmod 660 {KVM}`, which udev's rules do on most systems"


def _kvm_group() -> tuple[int, ...]:
    """The group that may open /dev/kvm; root's is not given away."""
    try:
        group = KVM.stat().st_gid
    except FileNotFoundError:
        return ()
    return (group,) if group else ()
