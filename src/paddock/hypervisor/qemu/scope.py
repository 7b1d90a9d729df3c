"""A systemd scope per machine, so that QEMU outlives a restart of the node agent's service (best effort)."""

import logging
import os
from pathlib import Path
from uuid import UUID

from paddock.base import run
from paddock.base.errors import PaddockError

SYSTEMD = Path("/run/systemd/system")

log = logging.getLogger(__name__)


def scope_command(uuid: UUID, name: str, pid: int, user: bool) -> list[str]:
    """Asks systemd (`user`: the user's own) for a transient scope with this process in it."""
    return [
        "busctl",
        "--user" if user else "--system",
        "--quiet",
        "call",
        "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager",
        "StartTransientUnit", "ssa(sv)a(sa(sv))",
        f"paddock-{uuid}.scope", "fail",
        "3",
        "PIDs", "au", "1", str(pid),
        "Description", "s", f"Paddock machine {name}",
        "CollectMode", "s", "inactive-or-failed",
        "0",
    ]  # fmt: skip


def put_into_scope(uuid: UUID, name: str, pid: int) -> None:
    """Where there is no systemd, or it refuses, QEMU stays in our own control group."""
    if not SYSTEMD.is_dir():
        return
    try:
        run.run(scope_command(uuid, name, pid, user=os.geteuid() != 0), timeout=5)
    except PaddockError as e:
        log.warning("machine %s has no systemd scope of its own: %s", uuid, e)
