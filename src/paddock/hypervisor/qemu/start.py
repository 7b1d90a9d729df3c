"""Starting a machine: from its definition to a QEMU that answers, or a reason that a person can act on."""

import contextlib
import errno
import logging
import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from paddock.base import clock
from paddock.base.errors import Conflict, PortTaken, Refused, Unavailable
from paddock.hypervisor.qemu import disks, files, identity, process
from paddock.hypervisor.qemu.layout import MachineDir
from paddock.hypervisor.qemu.process import Process
from paddock.hypervisor.qemu.qmp import OnEvent, Qmp, QmpThread
from paddock.machine.spec import Machine, UserNetwork

START_WAIT = 30.0  # seconds from exec to an answer: a host that swaps is slow
LOCK_WAIT = 2.0
LOCKED = 'write" lock'  # in QEMU's words when another process has a disk
RECORD_SIZE = 4096  # bytes that a start writes itself, at most

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Marks:
    """Where this boot's output begins in the machine's logs."""

    serial: int
    qemu: int


def marks(directory: MachineDir) -> Marks:
    return Marks(files.size_of(directory.serial_log), files.size_of(directory.qemu_log))


def check_port(network: UserNetwork) -> None:
    """Raises PortTaken when somebody listens on the machine's SSH port already."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((network.ssh_address, network.ssh_port))
            sock.listen(1)
        except OSError as e:
            raise _port_error(network, e) from e


def launch(words: list[str], directory: MachineDir, volumes: Sequence[Path] = ()) -> Process:
    """Start QEMU under the machine's lock, and give it these volumes. Raises Conflict when one runs already, Refused
    when it can't start."""
    with plain_errors(directory):
        lock = _lock(directory)
        try:
            _hand_over(directory, volumes)
            return process.start(words, directory, lock)
        finally:
            os.close(lock)


@contextlib.contextmanager
def plain_errors(directory: MachineDir) -> Iterator[None]:
    """Say as DiskFull or Refused what the host's files and limits do not allow."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disks.full(directory.root, RECORD_SIZE) from e
        raise Refused(f"the machine can't be started in {directory.root}: {e}", hint="see `paddock doctor`") from e


def meet(thread: QmpThread, started: Process, machine: Machine, directory: MachineDir, on_event: OnEvent) -> Qmp | None:
    """Its QMP connection as soon as it answers; None when it ended instead. Raises Unavailable."""
    sock = process.connect_soon(directory, started, START_WAIT)
    if sock is None:
        return None
    try:
        qmp = Qmp.connect(thread, sock, on_event, START_WAIT)
    except Unavailable:
        if started.gone(0.2):
            return None
        raise
    if qmp.uuid != machine.uuid:
        raise Unavailable(f"BUG: another machine, {qmp.uuid}, answers in {directory.root}")
    return qmp


def why_it_died(machine: Machine, said: str, ended: str) -> PortTaken | Refused | Conflict:
    """What QEMU's last words mean to the caller."""
    if "host forwarding rule" in said:
        try:
            check_port(machine.network)
        except PortTaken as e:
            return e
        except Refused:
            pass  # QEMU's own words say more
    if LOCKED in said and (volume := _volume_named(said)):
        return volume_in_use(volume)
    return Refused(f"QEMU does not start: {shortened(said) or ended}", hint=_hint(said))


def volume_in_use(volume: str) -> Conflict:
    """Two machines never have one volume at the same time."""
    return Conflict(
        f"volume {volume} is in use by another machine's QEMU", hint="detach it there, or power that machine off"
    )


def shortened(said: str) -> str:
    """QEMU's words without the time and its own path in each line."""
    return re.sub(r"(?m)^(\d{4}-\S+Z )?(\S*qemu-system-\S+: )?", "", said)


def _volume_named(said: str) -> str:
    """The volume that QEMU's words are about: its device's, or its file's, name is in them."""
    found = re.search(r"volume[s]?[-/]([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})", said)
    return found[1] if found else ""


def _hint(said: str) -> str:
    hints = {
        "allocate memory": "the node has not enough free memory: use a smaller server type or another node",
        "No space left": "the node's disk is full: remove machines or images",
        "Permission denied": "QEMU's user may not open it: `paddock doctor` checks permissions",
        "Could not access KVM": "`paddock doctor` says what is wrong with /dev/kvm",
        LOCKED: "another process uses the disk: see `fuser -v` on it",
        "host forwarding rule": "QEMU's user may not listen there: is the port below 1024? Choose another port range",
        "unsupported machine type": "this QEMU is too old or too new for the machine: see `qemu -machine help`",
    }
    return next((hint for words, hint in hints.items() if words in said), "see qemu.log in the machine's directory")


def _port_error(network: UserNetwork, error: OSError) -> PortTaken | Refused:
    where = f"{network.ssh_address}:{network.ssh_port}"
    if error.errno == errno.EADDRINUSE:
        return PortTaken(f"{where} is in use by another program", hint="take another port, or end that program")
    return Refused(f"{where} can't be listened on: {error.strerror}", hint="choose another address or port range")


def _hand_over(directory: MachineDir, volumes: Sequence[Path]) -> None:
    """What QEMU writes belongs to its user, even where an earlier run was another one's."""
    identity.make_machine_directory(directory.root)
    identity.give(directory.seed, writable=False)
    if directory.rescue_seed.exists():
        identity.give(directory.rescue_seed, writable=False)
    variables = [directory.efi_variables] if directory.efi_variables.exists() else []
    for disk in (directory.system_disk, *variables, *volumes):
        identity.give(disk, writable=True)
    serial = files.open_regular(directory.serial_log, os.O_RDWR | os.O_CREAT)
    try:
        identity.give_open(serial, writable=True)
    finally:
        os.close(serial)
    _keep(directory.qemu_log)


def _keep(path: Path) -> None:
    """Ours: in a sticky directory nobody else can put another thing in its place."""
    fd = files.open_regular(path, os.O_RDWR | os.O_CREAT)
    try:
        os.fchown(fd, os.geteuid(), -1)
    finally:
        os.close(fd)


def _lock(directory: MachineDir) -> int:
    """The machine's lock; others look at it for an instant only."""
    deadline = clock.monotonic() + LOCK_WAIT
    while (lock := files.take_lock(directory.lock)) is None:
        if clock.monotonic() > deadline:
            raise Conflict("a QEMU of this machine runs already", hint="restart the node agent to find it again")
        clock.sleep(0.005)
    return lock
