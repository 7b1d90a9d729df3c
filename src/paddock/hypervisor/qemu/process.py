"""QEMU processes: start, find again, watch by pidfd, end.

A pid proves nothing: QEMU inherits a lock on its machine's directory, so that we know without a doubt and without a
race whether one runs; which it is, it says itself (QMP `query-uuid`). A zombie counts as gone.
"""

import contextlib
import os
import select
import signal
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from paddock.base import clock, run
from paddock.base.errors import Refused, Unavailable
from paddock.hypervisor.qemu import files
from paddock.hypervisor.qemu.identity import vm_identity
from paddock.hypervisor.qemu.layout import SOCKETS, MachineDir

RETRY = 0.002  # seconds between looks at a socket that is about to appear
LAST_WORDS = 2000  # bytes of QEMU's log that go into an error
ENDED_WELL = "QEMU ended with exit code 0"


@dataclass(eq=False)
class Process:
    """A QEMU process that runs, or ran a moment ago."""

    pid: int
    pidfd: int

    def gone(self, timeout: float = 0) -> bool:
        """Whether it ended, a zombie included; waits up to `timeout` seconds for that."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def kill(self) -> None:
        """SIGKILL, never to somebody else who has its pid by now."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def reap(self) -> str:
        """How it ended, in words; only its parent can know."""
        try:
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            result = None
        if result is None:
            return "QEMU ended; its exit status is unknown, since another process of ours had started it"
        if result.si_code == os.CLD_EXITED:
            return ENDED_WELL if result.si_status == 0 else f"QEMU ended with exit code {result.si_status}"
        return f"QEMU was killed by signal {result.si_status}"

    def end(self) -> None:
        """Kill it and let go of it. Raises Unavailable when it does not even end then."""
        self.kill()
        ended = self.gone(5)
        self.reap()
        if not ended:
            raise Unavailable(f"QEMU {self.pid} does not end, killed or not", hint="its storage hangs: see `dmesg`")

    def threads(self) -> list[int]:
        """Its threads' ids; none when it is gone."""
        try:
            return [int(name) for name in os.listdir(f"/proc/{self.pid}/task")]
        except (FileNotFoundError, ProcessLookupError):
            return []

    def memory(self) -> int:
        """Bytes of memory that it uses, swapped out or not; 0 when it is gone."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS:", "VmSwap:")))

    def words(self) -> tuple[str, ...]:
        """The command line that it was started with; empty when it is gone."""
        try:
            return tuple(Path(f"/proc/{self.pid}/cmdline").read_text(errors="replace").split("\0")[:-1])
        except (FileNotFoundError, ProcessLookupError):
            return ()

    def __del__(self) -> None:
        """Not earlier: several threads may be waiting for its end."""
        os.close(self.pidfd)


def start(words: list[str], directory: MachineDir, lock: int) -> Process:
    """Start QEMU in the machine's directory; it inherits `lock`. Raises Refused when it can't be started."""
    for name in SOCKETS:
        (directory.root / name).unlink(missing_ok=True)
    child = run.spawn(
        words, output=directory.qemu_log, cwd=directory.root, identity=vm_identity(), pass_fds=(lock,),
    )  # fmt: skip
    try:
        pidfd = os.pidfd_open(child.pid)
    except OSError:  # no descriptor left: nobody could hold it
        child.kill()
        child.wait()
        raise
    child.returncode = 0  # not subprocess's business any more: we watch and reap it by its pidfd
    return Process(child.pid, pidfd)


def find(directory: MachineDir, recorded: int | None) -> Process | None:
    """The QEMU that holds the machine's lock, whoever started it; None when nobody holds it. It is known by where it
    stands: one that was held ready was started with a uuid of its own.

    Raises Unavailable when somebody else holds it for 2 s.
    """
    deadline = clock.monotonic() + 2
    while files.is_locked(directory.lock):
        for pid in [recorded] if recorded and _is_ours(recorded, directory) else _pids():
            if _is_ours(pid, directory):
                with contextlib.suppress(ProcessLookupError):
                    return Process(pid, os.pidfd_open(pid))
        if clock.monotonic() > deadline:
            raise Unavailable(
                f"{directory.lock} is held, and not by a QEMU of this machine", hint="see `fuser -v` on it"
            )
        clock.sleep(0.01)  # it is just starting or ending
    return None


def connect(directory: MachineDir, process: Process, name: str, timeout: float) -> socket.socket:
    """A connection to one of the machine's sockets. Raises OSError at once when there is none, Refused when it is not
    `process` that listens there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.settimeout(timeout)
    fd = os.open(directory.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{fd}/{name}")
        check_peer(sock, process, directory.root / name)
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(fd)
    return sock


def check_peer(sock: socket.socket, process: Process, path: Path) -> None:
    """QEMU's user can put a link in a socket's place, to a listener that trusts us. Raises Refused when it did.

    The kernel says who listens; as pid 0, where it is one of a PID namespace that we don't see: then its user counts.
    """
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    identity = vm_identity()
    if pid == process.pid or (pid == 0 and uid == (identity.uid if identity else os.geteuid())):
        return
    raise Refused(
        f"process {pid} of user {uid} answers at {path}, not QEMU {process.pid}",
        hint="somebody put it there: look who, then power the machine off",
    )


def connect_soon(
    directory: MachineDir, process: Process, timeout: float, name: str = "qmp.sock"
) -> socket.socket | None:
    """A connection to the QMP socket (or another) of a QEMU that is starting; None when it ended instead.

    Raises Unavailable when there is none after `timeout` seconds, Refused when another process answers.
    """
    deadline = clock.monotonic() + timeout
    while clock.monotonic() < deadline:
        try:
            return connect(directory, process, name, timeout)
        except (FileNotFoundError, ConnectionRefusedError):
            if process.gone(RETRY):
                return None
    raise Unavailable(f"QEMU did not open {name} within {timeout:g} s")


def last_words(directory: MachineDir, start_at: int = 0) -> str:
    """The last lines that QEMU wrote to its log, from byte `start_at` on."""
    text = files.read_tail(directory.qemu_log, LAST_WORDS, start_at).decode(errors="replace")
    return "\n".join(line for line in text.strip().splitlines()[-5:])


def boot_id() -> str:
    """Which boot of this host it is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _is_ours(pid: int, directory: MachineDir) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        where = Path(f"/proc/{pid}/cwd")
        return b"-uuid" in words and os.path.samefile(where, directory.root)
    except OSError:
        return False


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
