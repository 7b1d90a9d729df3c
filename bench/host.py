"""What the kernel says of processes: CPU time, memory; and what this host is."""

import contextlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path

from paddock.base import run

TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes and of all their children that have ended."""
    return sum(_ticks(pid) for pid in pids) / TICK


def cpu_by_name(pids: dict[int, str]) -> dict[str, float]:
    """The same for each name."""
    return {name: cpu_seconds(p for p in pids if pids[p] == name) for name in sorted(set(pids.values()))}


def less(now: dict[str, float], before: dict[str, float], factor: float) -> dict[str, float]:
    """What each name has used since, times a factor."""
    return {name: (value - before.get(name, 0.0)) * factor for name, value in now.items()}


def listed(values: dict[str, float], digits: int = 0) -> str:
    """Values by name in one line."""
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in values.items())


def pss_mib(pids: Iterable[int]) -> float:
    """Their proportional set size: shared pages are counted in parts."""
    return sum(_pss_kib(pid) for pid in pids) / 1024


def guest_pss_mib(pid: int, memory_mib: int) -> float:
    """The same of its guest's memory alone: of the mappings that are as large as that."""
    size = total = 0
    for line in _lines(f"/proc/{pid}/smaps"):
        name, _, value = line.partition(":")
        if name == "Size":
            size = int(value.split()[0])
        elif name == "Pss" and size == memory_mib * 1024:
            total += int(value.split()[0])
    return total / 1024


def born(path: Path) -> float:
    """When a file was made, in seconds since the epoch, as exactly as the file system keeps it."""
    return float(run.run(["stat", "-c", "%.9W", path]).stdout)


def facts() -> dict[str, str]:
    """What figures of this host are to be read with."""
    cpu = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next(line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    qemu = run.run(["qemu-system-x86_64", "--version"]).stdout.splitlines()[0]
    return {
        "cpu": f"{len(os.sched_getaffinity(0))} × {cpu[0] if cpu else platform.machine()}",
        "memory": f"{int(memory) // 2**20} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "qemu": qemu,
        "load when it began": f"{os.getloadavg()[0]:.1f}",
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _ticks(pid: int) -> int:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15])
    return 0


def _pss_kib(pid: int) -> int:
    with contextlib.suppress(OSError):
        return next(int(x.split()[1]) for x in _lines(f"/proc/{pid}/smaps_rollup") if x.startswith("Pss:"))
    return 0
