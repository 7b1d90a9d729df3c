"""As whom QEMU runs: as root we drop to `paddock-vm`; a plain user's guests run as that user."""

import functools
import grp
import logging
import os
import pwd
from pathlib import Path

from paddock.base.run import Identity

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
    """Let QEMU's user read a file of ours, or own it."""
    if identity := vm_identity():
        if writable:
            os.chown(path, identity.uid, identity.gid, follow_symlinks=False)
        else:
            os.chown(path, 0, identity.gid, follow_symlinks=False)
            path.chmod(0o640)


def _kvm_group() -> tuple[int, ...]:
    """The group that may open /dev/kvm, if it is not everybody's."""
    try:
        return (KVM.stat().st_gid,)
    except FileNotFoundError:
        try:
            return (grp.getgrnam("kvm").gr_gid,)
        except KeyError:
            return ()
