"""A process that the supervisor runs: what it is (data), and one running instance of it."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from paddock.base import clock
from paddock.base.errors import PaddockError
from paddock.base.run import Identity, spawn
from paddock.service import procs
from paddock.service.ready import Alive, Ready

State = Literal["stopped", "starting", "ready", "waiting", "done"]

TETHER = Path(__file__).with_name("tether.py")
LONGEST_WAIT = 30.0  # seconds between two starts
STEADY = 60.0  # seconds after which a process that ran is forgiven its failures
LOG_LIMIT = 10 << 20  # bytes; one older file of that size is kept


@dataclass(frozen=True)
class Process:
    """What to run, when, and how to know that it is there.

    All of a `stage` are ready before the next stage begins; they end in the order of `ends`. `signals` are sent to end
    it, one after another, each with so many seconds to obey.
    """

    name: str
    argv: tuple[str, ...]
    stage: int = 0
    ends: int = 0
    once: bool = False  # it is ready when it has ended with exit code 0
    ready: Ready = Alive()  # noqa: RUF009 (frozen)
    start_within: float = 60.0
    signals: tuple[tuple[int, float], ...] = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))
    tethered: bool = True  # it ends when the supervisor does
    identity: Identity | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    running: Callable[[], procs.Mark | None] = lambda: None  # one that outlived an earlier supervisor
    before: Callable[[], None] = lambda: None


class _Popen(Protocol):
    """What we need of a child."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...


class Child:
    """One process of the table, as it runs."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process = process
        self.log = log
        self.state: State = "stopped"
        self.mark: procs.Mark | None = None
        self.since: datetime | None = None
        self.restarts = 0
        self.why = ""  # it is not ready, or was started again
        self.waits_for = ""
        self.next_start = 0.0
        self.log_start = 0  # where in the log this start's words begin
        self.pidfd = -1
        self._popen: _Popen | None = None
        self._started = 0.0
        self._failures = 0

    @property
    def up(self) -> bool:
        """Whether there is a process."""
        return self.mark is not None

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return clock.monotonic() - self._started

    def start(self) -> None:
        """Start it, or adopt the one that runs. Raises Refused when it can't be started."""
        self._started = clock.monotonic()
        self.since = clock.now()
        self.mark = self.process.running()
        if self.mark is None:
            self.process.before()
            self.log_start = self.log.stat().st_size if self.log.exists() else 0
            self._popen = spawn(
                self._argv(), output=self.log, cwd=Path("/"), env=self.process.env, identity=self.process.identity
            )
            self.mark = procs.mark(self._popen.pid) or procs.Mark(self._popen.pid, 0)
        with contextlib.suppress(ProcessLookupError):
            self.pidfd = os.pidfd_open(self.mark.pid)
        self.state = "starting"

    def ended(self) -> str:
        """How it ended, if it has since the last look; it is reaped then. Else empty."""
        if self.mark is None:
            return ""
        if self._popen is not None:
            code = self._popen.poll()
            if code is None:
                return ""
        elif procs.alive(self.mark):
            return ""
        else:
            code = None
        self._forget()
        return _how(code)

    def check_ready(self) -> bool:
        """Whether it has just become ready."""
        if self.state != "starting" or self.process.once:
            return False
        self.waits_for = self.process.ready.missing(self.seconds)
        if self.waits_for:
            return False
        self.state = "ready"
        return True

    def late(self) -> bool:
        """Whether it should be ready by now and is not."""
        return self.state == "starting" and self.seconds > self.process.start_within

    def fail(self, why: str) -> float:
        """It failed; it is to be started again after a pause of that many seconds."""
        self._failures = 1 if self.seconds > STEADY else self._failures + 1
        pause = min(LONGEST_WAIT, 2.0 ** (self._failures - 1))
        self.state, self.why = "waiting", why
        self.next_start = clock.monotonic() + pause
        return pause

    def send(self, number: int) -> None:
        """Send it a signal, if it is there."""
        if self.mark is not None:
            procs.send(self.mark, number)

    def cap_log(self) -> None:
        """Move a log that has grown too long aside. It is appended to, so emptying it in place is safe."""
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > LOG_LIMIT:
                older = self.log.with_suffix(".log.1")
                older.unlink(missing_ok=True)
                fd = os.open(older, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(fd, "wb") as target, self.log.open("rb") as source:
                    while block := source.read(1 << 20):
                        target.write(block)
                os.truncate(self.log, 0)

    def _argv(self) -> tuple[str, ...]:
        if not self.process.tethered:
            return self.process.argv
        number = str(int(self.process.signals[0][0]))
        return (sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), number, *self.process.argv)

    def _forget(self) -> None:
        self.mark, self._popen = None, None
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def _how(code: int | None) -> str:
    if code is None:
        return "ended"
    if code < 0:
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"
    return f"ended with exit code {code}"


class StartFailed(PaddockError):
    """A process did not become ready at the first start."""

    code = "start_failed"
