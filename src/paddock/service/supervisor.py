"""Runs a table of processes: starts them stage by stage, starts again what ends, and stops them in order.

One thread and one loop, woken by signals and by the kernel when a child ends. Knows nothing of what it runs, and
imports little: it is the process that is always there.
"""

import contextlib
import json
import logging
import os
import select
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from paddock.base import clock
from paddock.base.errors import PaddockError
from paddock.base.files import write_private
from paddock.base.statedir import StateDir
from paddock.service import procs
from paddock.service.postgres import tail
from paddock.service.process import Child, Process, StartFailed

log = logging.getLogger(__name__)

LOOK = 0.05  # seconds between two looks at what starts
IDLE = 30.0  # seconds between two looks when nothing happens: for the size of the logs
HURRY = 2.0  # seconds for each signal to be obeyed, once we were told twice to stop
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Event:
    """What the supervisor tells whoever watches it start or stop."""

    what: str  # of process `name`: starting, ready, restarting, stopping, stopped; of all: up, down, failed
    name: str = ""
    text: str = ""
    hint: str = ""
    seconds: float = 0.0


Report = Callable[[Event], None]


class Stopped(PaddockError):
    """A signal told us to stop before all was ready."""

    code = "stopped"


class Supervisor:
    """All processes of one state directory, whose lock the caller holds."""

    def __init__(self, state: StateDir, report: Report) -> None:
        self.state = state
        self.report = report
        self.children: list[Child] = []
        self.told_to_stop = 0
        self._poll = select.poll()
        self._wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._wake, select.POLLIN)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._told)

    def stop_when_closed(self, fd: int) -> None:
        """Stop when nobody reads the other end of this pipe any more."""
        self._poll.register(fd, 0)

    def up(self, processes: Iterable[Process]) -> None:
        """Start these, stage by stage, after those that run already. Raises StartFailed, with the log's end, or
        Stopped; what has been started runs on then."""
        new = [Child(p, self.state.log / f"{p.name}.log") for p in processes]
        self.children += new
        for stage in sorted({c.process.stage for c in new}):
            self._start_stage([c for c in new if c.process.stage == stage])

    def watch(self) -> None:
        """Keep all running until told to stop."""
        while not self.told_to_stop:
            self._look()
            self._wait()

    def stop(self) -> None:
        """End all, in order. A second signal meanwhile makes us hurry."""
        for ends in sorted({c.process.ends for c in self.children}):
            self._stop([c for c in self.children if c.process.ends == ends and c.up])
        for child in self.children:
            child.state = "stopped"
        self._note()

    def _start_stage(self, stage: Sequence[Child]) -> None:
        for child in stage:
            self._start(child)
        while any(c.state == "starting" for c in stage):
            self._wait()
            if self.told_to_stop:
                raise Stopped("told to stop before all was ready")
            self._look(first_start=True)

    def _start(self, child: Child) -> None:
        child.start()
        if child.pidfd >= 0:
            self._poll.register(child.pidfd, select.POLLIN)
        log.info("%s: started as process %d", child.process.name, child.mark.pid if child.mark else 0)
        self._note()
        self.report(Event("starting", child.process.name))

    def _look(self, first_start: bool = False) -> None:
        """See what ended, what became ready, what is late and what is to be started again."""
        for child in self.children:
            child.cap_log()
            if how := self._reaped(child):
                self._ended(child, how, first_start)
            elif child.check_ready():
                self._ready(child)
            elif child.late():
                self._late(child, first_start)
            elif child.state == "waiting" and child.next_start <= clock.monotonic():
                self._restart(child)

    def _reaped(self, child: Child) -> str:
        fd = child.pidfd
        how = child.ended()
        if how and fd >= 0:
            self._poll.unregister(fd)
        return how

    def _ended(self, child: Child, how: str, first_start: bool) -> None:
        if child.process.once and how == "ended with exit code 0":
            child.state = "done"
            self._note()
            self.report(Event("ready", child.process.name, seconds=child.seconds))
            return
        if first_start and child.state == "starting":
            child.state = "stopped"
            raise self._failed(child, how)
        pause = child.fail(how)
        log.warning("%s: %s after %.1f s; starts again in %.0f s", child.process.name, how, child.seconds, pause)
        self._note()
        self.report(Event("restarting", child.process.name, how))

    def _ready(self, child: Child) -> None:
        log.info("%s: ready after %.2f s", child.process.name, child.seconds)
        self._note()
        self.report(Event("ready", child.process.name, seconds=child.seconds))

    def _late(self, child: Child, first_start: bool) -> None:
        why = f"was not ready within {child.process.start_within:.0f} s: it waits for {child.waits_for or 'its end'}"
        if first_start:
            raise self._failed(child, why)
        self._stop([child])
        log.warning("%s: %s", child.process.name, why)
        child.fail(why)

    def _restart(self, child: Child) -> None:
        child.restarts += 1
        try:
            self._start(child)
        except (PaddockError, OSError) as e:  # a full disk, say: the others run on, and it may pass
            log.warning("%s: %s; starts again in %.0f s", child.process.name, e, child.fail(str(e)))
            self._note()

    def _failed(self, child: Child, how: str) -> StartFailed:
        said = tail(child.log, after=child.log_start)
        return StartFailed(f"{child.process.name} {how}; it said:\n{said or '(nothing)'}", hint=f"see {child.log}")

    def _stop(self, children: Sequence[Child]) -> None:
        if not children:
            return
        for child in children:
            self.report(Event("stopping", child.process.name))
        for step in range(max(len(c.process.signals) for c in children)):
            self._signal([c for c in children if c.up], step)
        for child in children:
            if child.up:
                log.error("%s: process %d can't be ended", child.process.name, child.mark.pid if child.mark else 0)
            else:
                self.report(Event("stopped", child.process.name))

    def _signal(self, children: Sequence[Child], step: int) -> None:
        """Send each its next signal and wait until all have ended or had their time."""
        due = [(c, *c.process.signals[min(step, len(c.process.signals) - 1)]) for c in children]
        for child, number, _ in due:
            if step:
                log.warning("%s: did not end; sending %s", child.process.name, signal.Signals(number).name)
            child.send(number)
        begin, patience = clock.monotonic(), max((patience for *_, patience in due), default=0.0)
        while any(not self._gone(c) for c in children):
            left = begin + (min(HURRY, patience) if self.told_to_stop > 1 else patience) - clock.monotonic()
            if left <= 0:
                return
            self._poll_for(min(LOOK * 4, left))

    def _gone(self, child: Child) -> bool:
        self._reaped(child)
        return not child.up

    def _wait(self) -> None:
        """Sleep until something happens or is due."""
        now = clock.monotonic()
        dues = [c.next_start - now for c in self.children if c.state == "waiting"]
        if any(c.state == "starting" for c in self.children):
            dues.append(LOOK)
        self._poll_for(max(0.0, min([*dues, IDLE])))

    def _poll_for(self, seconds: float) -> None:
        for fd, event in self._poll.poll(seconds * 1000):
            if fd == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
            elif event & select.POLLERR:
                self._poll.unregister(fd)
                self.told_to_stop += 1

    def _told(self, _number: int, _frame: FrameType | None) -> None:
        self.told_to_stop += 1

    def _note(self) -> None:
        """Write down what runs, for `status` and for the next supervisor, should we be killed. A disk that is full must
        not end what runs."""
        rows = [_row(child) for child in self.children]
        try:
            write_private(self.state.status, json.dumps({"processes": rows}) + "\n")
        except OSError as e:
            log.error("%s could not be written (%s): `paddock status` is out of date", self.state.status, e.strerror)


def stop_leftovers(state: StateDir) -> list[str]:
    """End what a killed supervisor left behind, except PostgreSQL: their names. The caller holds the lock."""
    names = []
    for row in recorded(state):
        mark = procs.Mark(int(row["pid"]), int(row["start"]))
        if row["tethered"] and procs.alive(mark):
            names.append(str(row["name"]))
            for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
                if not procs.send(mark, number) or procs.wait_gone(mark, patience):
                    break
    return names


def recorded(state: StateDir) -> list[dict[str, Any]]:
    """What the supervisor last wrote down."""
    try:
        return list(json.loads(state.status.read_text(encoding="utf-8"))["processes"])
    except (OSError, ValueError, KeyError):
        return []


def _row(child: Child) -> dict[str, object]:
    return {
        "name": child.process.name,
        "state": child.state,
        "pid": child.mark.pid if child.mark else 0,
        "start": child.mark.start if child.mark else 0,
        "since": child.since.isoformat(timespec="seconds") if child.since and child.mark else None,
        "restarts": child.restarts,
        "why": child.why if child.state != "ready" or child.restarts else "",
        "log": str(child.log),
        "tethered": child.process.tethered,
    }
