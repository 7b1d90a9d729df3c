"""Wakes rows that wait, from this worker's memory: a wait costs no job and no poll of the queue.

An alarm is only a hint, like a job: what a dead worker had set is found by the sweep over due rows.
"""

import heapq
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from django.db import connection

from paddock.base import clock
from paddock.cloud.flows.engine import Flow, advance

log = logging.getLogger(__name__)

THREADS = 4
Key = tuple[str, int]  # a flow's kind and a row's id


class Alarms:
    """One thread that waits for the next alarm, and a few that move rows on."""

    def __init__(self) -> None:
        self._due: dict[Key, float] = {}
        self._queue: list[tuple[float, Key]] = []  # may hold what `_due` no longer knows
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(THREADS, "alarm")
        self._closed = False
        threading.Thread(target=self._run, name="alarms", daemon=True).start()

    def set(self, kind: str, row_id: int, seconds: float) -> None:
        """Move that row on in so many seconds; an earlier alarm for it is forgotten."""
        key, due = (kind, row_id), clock.monotonic() + seconds
        with self._changed:
            self._due[key] = due
            heapq.heappush(self._queue, (due, key))
            self._changed.notify()

    def close(self) -> None:
        """Set off no more; what is under way goes on to its end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._pool.shutdown(cancel_futures=True)

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                wait = self._queue[0][0] - clock.monotonic() if self._queue else None
                if wait is not None and wait <= 0:
                    self._set_off(*heapq.heappop(self._queue))
                else:
                    self._changed.wait(wait)

    def _set_off(self, due: float, key: Key) -> None:
        if self._due.get(key) == due:
            del self._due[key]
            self._pool.submit(self._ring, *key)

    def _ring(self, kind: str, row_id: int) -> None:
        try:
            seconds = advance(Flow.registry[kind], row_id, if_due=True)
        except Exception as e:
            log.warning("%s %d is left to the sweep: %s", kind, row_id, e)
            connection.close()
            return
        if seconds is not None and not self._closed:
            self.set(kind, row_id, seconds)
