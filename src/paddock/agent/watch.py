"""Wakes long polls: one thread follows the hypervisor's changes, so that a waiting caller costs no thread."""

import asyncio
import logging
import threading

from paddock.base import clock
from paddock.base.errors import PaddockError
from paddock.hypervisor.base import Machines

log = logging.getLogger(__name__)

POLL = 20.0  # seconds
GATHER = 1e-5  # seconds per machine that a wake-up waits, so that a busy large node is not told of each change alone
RETRY = 1.0  # seconds after a failure


class Watch:
    """Tells coroutines of one event loop when something happened."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        self._loop = asyncio.get_running_loop()
        self._waiters: set[asyncio.Future[None]] = set()
        self._cursor = 0
        self._stopped = False
        threading.Thread(target=self._follow, name="changes", daemon=True).start()

    async def passed(self, cursor: int, timeout: float) -> None:
        """Return when changes after `cursor` were seen, or after `timeout` seconds, or when we stop."""
        if self._stopped or self._cursor > cursor:
            return
        waiter = self._loop.create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait((waiter,), timeout=timeout)
        finally:
            self._waiters.discard(waiter)
            waiter.cancel()

    def stop(self) -> None:
        """Release everybody who waits, now and from now on."""
        self._stopped = True
        self._wake(self._cursor)

    def _wake(self, cursor: int) -> None:
        self._cursor = cursor
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _follow(self) -> None:
        cursor = 0
        while not self._stopped:
            try:
                change = self._machines.changes(cursor, POLL)
            except PaddockError as e:
                log.warning("changes can't be followed: %s", e)
                clock.sleep(RETRY)
                continue
            except Exception:  # the thread must go on: long polls would else only ever end by their timeout
                log.exception("BUG: changes can't be followed")
                clock.sleep(RETRY)
                continue
            if change.cursor != cursor and not self._stopped:
                cursor = change.cursor
                self._loop.call_soon_threadsafe(self._wake, cursor)
                clock.sleep(GATHER * len(change.machines))
