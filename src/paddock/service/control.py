"""What the commands do with a supervisor: start one and follow it, stop it, and tell what runs."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from paddock.base import clock
from paddock.base.errors import Unavailable
from paddock.base.run import spawn
from paddock.base.statedir import StateDir
from paddock.service import pgupgrade, procs, state
from paddock.service.postgres import tail
from paddock.service.supervisor import Event, recorded, stop_leftovers

STOP_WITHIN = 180.0  # seconds: a worker's step, PostgreSQL, and room


class Follower:
    """A supervisor that we started, and what it tells."""

    def __init__(self, directory: StateDir, stay: bool) -> None:
        """Start it. `stay`: it stops when we end. Raises Refused or Conflict when it can't run here."""
        state.make(directory)
        state.lock(directory).release()
        self.log = directory.log / "supervisor.log"
        reader, writer = os.pipe2(os.O_CLOEXEC)
        argv: list[str | Path] = [
            sys.executable,
            "-m",
            "paddock.service",
            "--state-dir",
            directory.root,
            "--report-fd",
            str(writer),
        ]
        try:
            self._process = spawn([*argv, *(["--stay"] if stay else [])], output=self.log, pass_fds=[writer])
        finally:
            os.close(writer)
        self._reader = os.fdopen(reader, encoding="utf-8", errors="replace")
        self.pid = self._process.pid

    def events(self) -> Iterator[Event]:
        """What happens, until it is up (and stays) or down. Raises Unavailable when it dies without a word."""
        last = ""
        for line in self._reader:
            event = Event(**json.loads(line))
            last = event.what
            yield event
        if last not in ("up", "down", "failed"):
            raise Unavailable(f"the supervisor died: {tail(self.log)}", hint=f"see {self.log}")

    def stop(self) -> None:
        """Tell it to stop, in order; a second time: at once. `events` tells how it goes."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Let it go on without us."""
        self._reader.close()


def down(directory: StateDir, tell: Callable[[str], None]) -> bool:
    """Stop the supervisor and all it runs; guests go on. Whether there was anything to stop.

    Raises Unavailable when it does not end in time.
    """
    state.check(directory)
    owner = state.holder(directory)
    if owner is None:
        return _down_without(directory, tell)
    tell(f"stopping Paddock in {directory.root} (process {owner.pid})")
    procs.send(owner, signal.SIGTERM)
    end = clock.monotonic() + STOP_WITHIN
    running = {r["name"]: procs.Mark(r["pid"], r["start"]) for r in recorded(directory) if r["pid"]}
    gone = False
    while not gone:
        gone = procs.wait_gone(owner, 0.1)
        for name in [n for n, mark in running.items() if not procs.alive(mark)]:
            del running[name]
            tell(f"{name} stopped")
        if clock.monotonic() > end:
            raise Unavailable(
                f"the supervisor (process {owner.pid}) did not stop within {STOP_WITHIN:.0f} s",
                hint=f"see {directory.log}/supervisor.log; kill -9 {owner.pid} is safe: `paddock up` goes on from",
            )
    return True


def status(directory: StateDir) -> dict[str, Any]:
    """What runs here, as data: supervisor, processes, database, API, nodes, guests. Raises Refused when the directory
    is not ours."""
    state.check(directory)
    owner = state.holder(directory)
    rows = [_shown(row, owner is not None) for row in recorded(directory)]
    good = owner is not None and bool(rows) and all(r["state"] in ("ready", "done") for r in rows)
    return {
        "state": "stopped" if owner is None else "up" if good and _read(directory.api_url) else "degraded",
        "state_dir": str(directory.root),
        "supervisor": {"pid": owner.pid, "memory_kib": procs.memory(owner.pid, children=False)} if owner else None,
        "processes": rows,
        "api": (_read(directory.api_url) or None) if owner else None,
        "database": _database(directory),
        "nodes": [r["name"].removeprefix("agent-") for r in rows if r["name"].startswith("agent-")],
        "guests": len(guests(directory)),
    }


def guests(directory: StateDir) -> list[int]:
    """The pids of the QEMU processes of this state directory's nodes, running with or without us."""
    places = (str(directory.nodes), str(directory.nodes.resolve()))
    return [pid for pid in procs.pids() if _is_guest(pid, places)]


def _is_guest(pid: int, places: tuple[str, ...]) -> bool:
    argv = procs.argv(pid)
    if not argv or not Path(argv[0]).name.startswith("qemu-system"):
        return False
    where = str(procs.cwd(pid) or "")
    return any(where.startswith(f"{p}/") or any(f"{p}/" in word for word in argv) for p in places)


def _down_without(directory: StateDir, tell: Callable[[str], None]) -> bool:
    """Stop what a killed supervisor left."""
    lock = state.lock(directory)
    try:
        names = stop_leftovers(directory)
        cluster = pgupgrade.existing(directory)
        if cluster and cluster.running():
            cluster.stop()
            names.append("postgres")
        directory.api_url.unlink(missing_ok=True)
        for name in names:
            tell(f"{name} had outlived its supervisor; stopped")
        return bool(names)
    finally:
        lock.release()


def _shown(row: dict[str, Any], supervised: bool) -> dict[str, Any]:
    """One process as people see it: what was recorded, compared with what is."""
    alive = bool(row["pid"]) and procs.alive(procs.Mark(row["pid"], row["start"]))
    state_now = row["state"] if supervised else ("left over" if alive else "stopped")
    return {
        "name": row["name"],
        "state": state_now,
        "pid": row["pid"] if alive else None,
        "since": row["since"] if alive else None,
        "memory_kib": procs.memory(row["pid"], children=row["name"] == "postgres") if alive else 0,
        "restarts": row["restarts"],
        "why": row["why"],
        "log": row["log"],
    }


def _database(directory: StateDir) -> str:
    """Where the data is, without a password."""
    url = _read(directory.database_url)
    if not url:
        return ""
    scheme, _, rest = url.partition("://")
    credentials, at, where = rest.rpartition("@")
    return f"{scheme}://{credentials.partition(':')[0]}{at}{where}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
