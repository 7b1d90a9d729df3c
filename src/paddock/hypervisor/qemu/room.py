"""Memory for guests of our own that no placement knows of: few run at once, and only while the host has it to spare.

A guest in its turn counts as large as it may become, whatever it has touched yet: rather one waits than that the host
has to kill somebody's server.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from paddock.base import clock
from paddock.base.errors import Unavailable
from paddock.hypervisor.qemu import host

RESERVE_MIB = 512  # that the host keeps free for what its servers may yet want
MEMORY_WAIT = 120.0  # seconds
EVERY = 0.2  # seconds between two looks


def free_mib() -> int:
    """What programs may still take of this host's memory."""
    return host.parse_meminfo(Path("/proc/meminfo").read_text())["MemAvailable"]


class Room:
    """For at most so many guests. `free` gives the MiB that the host has free."""

    def __init__(self, most: int, free: Callable[[], int] = free_mib) -> None:
        self._most = most
        self._free = free
        self._lock = threading.Lock()
        self._guests: list[int] = []  # the MiB of each

    @contextlib.contextmanager
    def taken(self, mib: int, wait: Callable[[str], None]) -> Iterator[None]:
        """Room for a guest of that size. Until there is, `wait` is told again and again what for, and may raise. Raises
        Unavailable when there is too little memory for MEMORY_WAIT."""
        patience = MEMORY_WAIT
        while lacking := self._take(mib):
            wait(lacking)
            if len(self._guests) < self._most:
                patience -= EVERY
            if patience < 0:
                raise Unavailable(
                    f"the node has no memory for a helper guest of {mib} MiB: {lacking}",
                    hint="stop or move a server of this node, or ask again later",
                )
            clock.sleep(EVERY)
        try:
            yield
        finally:
            with self._lock:
                self._guests.remove(mib)

    def _take(self, mib: int) -> str:
        """What it waits for; empty: it is taken."""
        with self._lock:
            if len(self._guests) >= self._most:
                return "for another helper guest to end"
            spare = self._free() - sum(self._guests) - RESERVE_MIB
            if spare < mib:
                return f"for memory: {max(spare, 0)} MiB can be spared of the {mib} MiB that are needed"
            self._guests.append(mib)
            return ""
