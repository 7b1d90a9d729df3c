"""CPUs of the host that belong to one machine alone: each of its CPUs' threads runs on one of them, and nobody else's.

All other threads of all QEMUs share what is left, which is at least one CPU.
"""

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from uuid import UUID

from paddock.base.errors import PaddockError, Refused
from paddock.hypervisor.qemu.live import Live

log = logging.getLogger(__name__)


class Pinning:
    """Who has which of the host's CPUs."""

    def __init__(self, cpus: Iterable[int]) -> None:
        self._all = frozenset(cpus)
        self._claims: dict[UUID, tuple[int, ...]] = {}
        self._used = False
        self._lock = threading.Lock()

    @property
    def most(self) -> int:
        """How many can be given away in all."""
        return len(self._all) - 1

    @property
    def shared(self) -> set[int]:
        """Those that belong to nobody."""
        return set(self._all.difference(*self._claims.values()))

    def claim(self, machine: UUID, count: int) -> tuple[int, ...]:
        """Take so many for a machine that is about to start. Raises Refused."""
        with self._lock:
            self._claims.pop(machine, None)
            free = sorted(self.shared, reverse=True)
            if count >= len(free):
                raise Refused(
                    f"{count} dedicated CPUs are asked for, and the node has {max(0, len(free) - 1)} of its "
                    f"{len(self._all)} left to give, since one stays for everybody else",
                    hint="use a smaller server type or another node",
                )
            self._keep(machine, tuple(free[:count]))
            return self._claims[machine]

    def adopt(self, machine: UUID, cpus: tuple[int, ...]) -> None:
        """A machine that runs already has these."""
        with self._lock:
            self._keep(machine, cpus)

    def release(self, machine: UUID) -> bool:
        """It has ended. Returns whether it had any."""
        with self._lock:
            return bool(self._claims.pop(machine, ()))

    def _keep(self, machine: UUID, cpus: tuple[int, ...]) -> None:
        if cpus:
            self._used = True
            self._claims = {**self._claims, machine: cpus}

    def place(self, machine: UUID, live: Live) -> None:
        """Put its threads where they belong. Raises Refused when we may not."""
        if not self._used:
            return
        own, shared = self._claims.get(machine, ()), self.shared
        vcpus = [int(cpu["thread-id"]) for cpu in live.execute("query-cpus-fast")] if own else []
        for thread in live.process.threads():
            if thread not in vcpus:
                _confine(thread, shared)
        for thread, cpu in zip(vcpus, own, strict=False):
            _confine(thread, {cpu})

    def settle(self, machines: Mapping[UUID, Live]) -> None:
        """The same for all, after somebody's CPUs came or went."""
        for machine, live in machines.items():
            try:
                self.place(machine, live)
            except PaddockError as e:
                log.warning("machine %s could not be moved to other CPUs: %s", machine, e)


def _confine(thread: int, cpus: set[int]) -> None:
    try:
        os.sched_setaffinity(thread, cpus)
    except ProcessLookupError:
        pass  # it ended
    except OSError as e:
        raise Refused(f"thread {thread} can't be bound to CPUs {sorted(cpus)}: {e.strerror}") from e
