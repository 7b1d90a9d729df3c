"""What the kernel says of processes: alive, which one, how much memory. A zombie is not alive."""

import contextlib
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path

from paddock.base import clock

PROC = Path("/proc")


@dataclass(frozen=True)
class Mark:
    """One process and no other: its pid and its start, in clock ticks since boot."""

    pid: int
    start: int


def mark(pid: int) -> Mark | None:
    """The process that has this pid now, if it is alive."""
    fields = _stat(pid)
    return Mark(pid, int(fields[19])) if fields and fields[0] not in "ZX" else None


def alive(process: Mark) -> bool:
    return mark(process.pid) == process


def parent(pid: int) -> int:
    """The pid of its parent; 0 when there is no such process."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def cwd(pid: int) -> Path | None:
    """Its working directory, if we may know."""
    try:
        return Path(os.readlink(PROC / str(pid) / "cwd"))
    except OSError:
        return None


def argv(pid: int) -> list[str]:
    """Its command line; empty when it is gone or a zombie."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def pids() -> list[int]:
    """All processes that we can see."""
    return [int(name) for name in os.listdir(PROC) if name.isdigit()]


def has_open(pid: int, path: Path) -> bool:
    """Whether it holds the file open, as far as we may know."""
    try:
        wanted = path.stat()
        names = os.listdir(PROC / str(pid) / "fd")
    except OSError:
        return False
    for name in names:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(PROC / str(pid) / "fd" / name), wanted):
                return True
    return False


def memory(pid: int, *, children: bool = True) -> int:
    """The proportional set size of the process (and its children), in KiB; 0 when it can't be known."""
    return _pss(pid) + sum(_pss(p) for p in pids() if children and parent(p) == pid)


def wait_gone(process: Mark, timeout: float) -> bool:
    """Wait until the process has ended, at most `timeout` seconds; whether it has."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return True
    end = clock.monotonic() + timeout
    try:
        while alive(process):
            left = end - clock.monotonic()
            if left <= 0:
                return False
            select.select([fd], [], [], left)
            if alive(process) and _readable(fd):
                clock.sleep(0.01)
        return True
    finally:
        os.close(fd)


def send(process: Mark, number: int) -> bool:
    """Send a signal to this very process; whether it was there."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not alive(process):
            return False
        signal.pidfd_send_signal(fd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)


def _readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def _pss(pid: int) -> int:
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
