"""`paddock doctor`: everything that a host must have, each with what to do when it has not. Changes nothing."""

import errno
import os
import shutil
import socket
import stat
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import paddock
from paddock.base import clock
from paddock.base.errors import PaddockError
from paddock.base.statedir import StateDir
from paddock.service import check, control, doctor_host, pgprograms, pgupgrade, state, table
from paddock.service.check import Check, fail, guarded, ok, warn

DISK_NEEDED, DISK_WANTED = 4 << 30, 20 << 30
MEMORY_NEEDED, MEMORY_WANTED = 768 << 20, 2 << 30

__all__ = ["Check", "examine"]


def examine(directory: StateDir) -> list[Check]:
    """Look at everything. Takes up to ten seconds: a guest is tried under KVM."""
    plan, of_config = _plan(directory)
    node = plan.nodes[0].state_dir if plan else None
    supervised = state.holder(directory) is not None
    return [
        guarded("Python", doctor_host.python),
        guarded("QEMU", doctor_host.qemu),
        doctor_host.program("qemu-img", "qemu-utils", "make disks"),
        guarded("UEFI", doctor_host.uefi),
        guarded("CPU", doctor_host.cpu),
        guarded("KVM module", doctor_host.kvm_module),
        guarded("accelerator", lambda: doctor_host.accelerator(directory, node)),
        guarded("/dev/null", doctor_host.dev_null),
        *doctor_host.service_users(),
        doctor_host.program("mmdebstrap", "mmdebstrap", "make images"),
        doctor_host.program("mke2fs", "e2fsprogs", "make images"),
        guarded("namespaces", doctor_host.user_namespaces),
        doctor_host.program("ssh", "openssh-client", "log in to servers"),
        doctor_host.program("ssh-keygen", "openssh-client", "make a key"),
        guarded("state directory", lambda: _state(directory)),
        of_config,
        guarded("PostgreSQL", lambda: _postgres(directory, plan)),
        guarded("signatures", lambda: doctor_host.signatures(directory)),
        guarded("disk", lambda: _disk(directory)),
        guarded("memory", _memory),
        guarded("API port", lambda: _api_port(plan, supervised)),
        *_all_ssh_ports(plan, directory),
        guarded("clock", _clock),
        _network(),
    ]


def _plan(directory: StateDir) -> tuple[table.Plan | None, Check]:
    try:
        plan = table.read_plan(directory)
    except PaddockError as e:
        return None, fail("paddock.toml", e.message, e.hint or f"correct {directory.config}")
    found = str(directory.config) if directory.config.exists() else "none: one node n1, everything by default"
    return plan, ok("paddock.toml", found)


def _state(directory: StateDir) -> Check:
    name, root = "state directory", directory.root
    if not root.exists():
        return ok(name, f"{root} is not there yet; `paddock up` makes it")
    if not state.is_begun(directory):
        return ok(name, f"{root} has nothing of ours yet; `paddock up` begins it")
    state.check(directory)
    mode = stat.S_IMODE(root.stat().st_mode)
    if mode & (0o066 if os.geteuid() == 0 else 0o077):
        return warn(name, f"{root} has mode {mode:o}: others can look into it", f"chmod go-rw {root}")
    if directory.secret_key.exists() and directory.secret_key.stat().st_mode & 0o077:
        return fail(name, f"{directory.secret_key} can be read by others", f"chmod 600 {directory.secret_key}")
    if os.geteuid() == 0:
        state.check_reachable(root, state.service_identity())
    return ok(name, f"{root}, mode {mode:o}")


def _postgres(directory: StateDir, plan: table.Plan | None) -> Check:
    if plan and plan.database_url:
        return ok("PostgreSQL", "an external one, which answers")
    found = pgprograms.find(directory)
    if not found:
        raise pgprograms.missing()
    if directory.database.is_dir():
        cluster = pgupgrade.existing(directory)
        if cluster:
            running = "running" if cluster.running() else "not running"
            return ok("PostgreSQL", f"{cluster.programs.version}, {running}, data in {cluster.data}")
    return ok("PostgreSQL", f"{found[0].version} ({found[0].bin})")


def _disk(directory: StateDir) -> Check:
    place = next(p for p in (directory.root, *directory.root.parents) if p.exists())
    free = shutil.disk_usage(place).free
    found = f"{free / 2**30:.1f} GiB free at {place}"
    if free < DISK_NEEDED:
        return fail("disk", found, "an image and a server need about 4 GiB")
    return ok("disk", found) if free >= DISK_WANTED else warn("disk", found, "20 GiB are a good beginning")


def _memory() -> Check:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    free = next((int(words[1]) << 10 for words in lines if words[0] == "MemAvailable:"), 0)
    found = f"{free / 2**30:.1f} GiB available"
    if free < MEMORY_NEEDED:
        return fail("memory", found, "Paddock and one small server need about 768 MiB")
    return ok("memory", found) if free >= MEMORY_WANTED else warn("memory", found, "room for one or two small servers")


def _api_port(plan: table.Plan | None, supervised: bool) -> Check:
    host, port = (plan.host, plan.port) if plan else ("127.0.0.1", 7480)
    if supervised:
        return ok("API port", f"{host}:{port}, Paddock runs")
    why = _taken(host, port)
    if why:
        return fail("API port", f"{host}:{port}: {why}", "choose another: [api] port in paddock.toml")
    return ok("API port", f"{host}:{port} is free")


def _all_ssh_ports(plan: table.Plan | None, directory: StateDir) -> list[Check]:
    nodes = plan.nodes if plan else ()
    return [guarded(f"SSH ports {node.name}", partial(_ssh_ports, node, directory)) for node in nodes]


def _ssh_ports(node: table.Node, directory: StateDir) -> Check:
    name, ports = f"SSH ports {node.name}", node.ssh_ports
    taken = [port for port in ports if _taken("127.0.0.1", port)]
    others = max(0, len(taken) - len(control.guests(directory)))
    found = f"{ports.start}-{ports.stop - 1}: {len(ports) - len(taken)} of {len(ports)} free"
    if len(taken) == len(ports):
        return fail(name, found, "choose others: first_ssh_port of the node in paddock.toml")
    if others:
        return warn(name, f"{found}; {others} are used by other programs", "servers take the next free one")
    return ok(name, found)


def _clock() -> Check:
    """Against the time when this program was installed: a clock before it is wrong."""
    installed = datetime.fromtimestamp(Path(paddock.__file__).stat().st_mtime, UTC)
    now = clock.now()
    if now < installed:
        return fail(
            "clock", f"it says {now:%Y-%m-%d %H:%M} UTC, before Paddock was installed", "set it; run an NTP client"
        )
    return ok("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC")


def _network() -> Check:
    return check.warn(
        "network",
        "servers have user-mode networking: each reaches services on this host's loopback, at 10.0.2.2",
        "fine for one trusted person; every service on loopback must ask for a password (Paddock's own do)",
    )


def _taken(host: str, port: int) -> str:
    """Why that port can't be listened on; empty when it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as e:
            return "it is in use" if e.errno == errno.EADDRINUSE else (e.strerror or str(e))
    return ""
