"""Works in the background on machines' disks: one thread each, begun by whoever asks first, and asked about until its
end, which is told once. What is given up is begun again when somebody asks again.
"""

import threading
from typing import Generic, TypeVar
from uuid import UUID

PATIENCE = 0.1  # seconds that a question waits, so that what is quick is there at once
GIVE_UP_WAIT = 15.0  # seconds for works that are given up to end


class Work(threading.Thread):
    """One of them, for a machine. It looks at `stop` and ends soon when that is set."""

    def __init__(self, name: str, machine: UUID) -> None:
        super().__init__(name=name, daemon=True)
        self.machine = machine
        self.stop = threading.Event()


W = TypeVar("W", bound=Work)


class Works(Generic[W]):
    """Those under way, by what they are asked for. `lock` is held while one is looked for and begun."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._works: dict[UUID, W] = {}

    def find(self, key: UUID) -> W | None:
        """The one that is under way, or has ended untold. The caller holds the lock."""
        return self._works.get(key)

    def busy(self, machine: UUID) -> bool:
        """Whether one of this machine is under way. The caller holds the lock."""
        return any(work.machine == machine and work.is_alive() for work in self._works.values())

    def begin(self, key: UUID, work: W) -> W:
        """Start it. The caller holds the lock."""
        self._works[key] = work
        work.start()
        return work

    def look(self, key: UUID, work: W) -> None:
        """Wait for it a moment; if it has ended, the next who asks begins another."""
        work.join(PATIENCE)
        with self.lock:
            if not work.is_alive() and self._works.get(key) is work:
                del self._works[key]

    def drop(self, key: UUID) -> bool:
        """Give one up. False: it does not end."""
        return self._end([key])

    def forget(self, machine: UUID) -> None:
        """Give up all of a machine, which is being removed."""
        with self.lock:
            keys = [key for key, work in self._works.items() if work.machine == machine]
        self._end(keys)

    def close(self) -> None:
        """Give up all."""
        with self.lock:
            keys = list(self._works)
        self._end(keys)

    def _end(self, keys: list[UUID]) -> bool:
        with self.lock:
            works = [work for key in keys if (work := self._works.pop(key, None))]
        for work in works:
            work.stop.set()
        for work in works:
            work.join(GIVE_UP_WAIT)
        return not any(work.is_alive() for work in works)
