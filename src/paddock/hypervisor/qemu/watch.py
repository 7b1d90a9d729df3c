"""One thread that notices when a process ends (by its pidfd), and that looks at all machines every few seconds."""

import logging
import os
import select
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

EVERY = 5.0  # seconds between looks


class Watcher:
    """Calls back from its own thread: `ended` of a process, `tick` every few seconds."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._epoll = select.epoll()
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="watch-qemu", daemon=True)
        self._thread.start()

    def add(self, pidfd: int, ended: Callable[[], None]) -> None:
        """Call `ended` once when the process of `pidfd` ends."""
        with self._lock:
            self._callbacks[pidfd] = ended
            self._epoll.register(pidfd, select.EPOLLIN | select.EPOLLONESHOT)

    def drop(self, pidfd: int) -> None:
        """Forget it; before its descriptor is closed."""
        with self._lock:
            if self._callbacks.pop(pidfd, None):
                self._epoll.unregister(pidfd)

    def close(self) -> None:
        os.write(self._waker, b"x")
        self._thread.join()
        self._epoll.close()
        os.close(self._wake)
        os.close(self._waker)

    def _run(self) -> None:
        while True:
            ready = [fd for fd, _ in self._epoll.poll(EVERY)]
            if self._wake in ready:
                return
            for fd in ready:
                with self._lock:
                    ended = self._callbacks.get(fd)
                if ended:
                    _guarded(ended)
            _guarded(self._tick)


def _guarded(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        log.exception("BUG: the watcher of QEMU processes went on after an error")
