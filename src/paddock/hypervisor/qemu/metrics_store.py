"""What machines used, in one SQLite file of the node: counters as they were read, finer for a short time than for long.

A level is a distance between samples and how long they are kept. Counters are turned into rates when they are read, so
that a coarse level says as much of its time as a fine one. The file is of no use to anything else: where it is damaged
it is begun again.
"""

import itertools
import logging
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

log = logging.getLogger(__name__)

LEVELS = ((30, 2 * 3600), (300, 2 * 86400), (3600, 30 * 86400))  # seconds between samples, seconds kept
COUNTERS = (
    "cpu", "read_ops", "write_ops", "read_bytes", "write_bytes", "packets_in", "packets_out", "bytes_in", "bytes_out",
)  # fmt: skip
GAP = 2.5  # times a level's distance, after which it is not known what was between two samples
_BUSY = 5.0  # seconds that SQLite waits for another process of ours that is just ending

Counters = tuple[float | None, ...]  # in the order of COUNTERS; None where nothing is known


@dataclass(frozen=True)
class Sample:
    """A machine's counters at a moment. They count from 0 in each `run`, which is a number of its QEMU process."""

    machine: UUID
    at: float  # unix time
    run: int
    counters: Counters


@dataclass(frozen=True)
class Rate:
    """What was used per second from `start` to `end` (unix times), in the order of COUNTERS."""

    start: float
    end: float
    values: Counters


class MetricsStore:
    """The samples of a node. Thread-safe. What can't be written or read for want of room or a sound file is logged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._last: dict[tuple[UUID, int], int] = {}  # which sample of a level was written last
        self._database = self._opened()

    def add(self, samples: Iterable[Sample]) -> None:
        """Keep them, each in all the levels that want one by now."""
        with self._lock:
            rows = [row for sample in samples for row in self._rows(sample)]
        marks = ", ".join("?" for _ in range(4 + len(COUNTERS)))
        self._write([(f"INSERT OR REPLACE INTO sample VALUES ({marks})", rows)])  # noqa: S608 - only question marks

    def prune(self, now: float) -> None:
        """Remove what is over its time."""
        old = [(level, now - kept) for level, kept in LEVELS]
        self._write([("DELETE FROM sample WHERE level = ? AND at < ?", old)])

    def forget(self, machine: UUID) -> None:
        """Remove all of a machine."""
        with self._lock:
            self._last = {key: at for key, at in self._last.items() if key[0] != machine}
        self._write([("DELETE FROM sample WHERE machine = ?", [(machine.bytes,)])])

    def rates(self, machine: UUID, start: float, end: float, now: float) -> tuple[int, list[Rate]]:
        """The distance of the finest level that reaches back to `start`, and the rates between its samples."""
        level = next((level for level, kept in LEVELS if start >= now - kept), LEVELS[-1][0])
        columns = ", ".join(COUNTERS)
        query = (
            f"SELECT at, run, {columns} FROM sample"  # noqa: S608 - our own names
            " WHERE machine = ? AND level = ? AND at >= ? AND at <= ? ORDER BY at"
        )
        rows = self._read(query, (machine.bytes, level, start - level * GAP, end))
        found = [Sample(machine, row[0], int(row[1]), tuple(row[2:])) for row in rows]
        pairs = itertools.pairwise(found)
        rates = [rate for before, after in pairs if (rate := rate_of(before, after, level * GAP)) and rate.end > start]
        return level, rates

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def _rows(self, sample: Sample) -> Iterable[tuple[object, ...]]:
        for level, _ in LEVELS:
            number, key = int((sample.at + 1) // level), (sample.machine, level)  # a clock may ring too early
            if self._last.get(key) != number:
                self._last[key] = number
                yield sample.machine.bytes, level, sample.at, sample.run, *sample.counters

    def _opened(self) -> sqlite3.Connection:
        try:
            return _open(self._path)
        except sqlite3.DatabaseError as e:
            return self._begun_anew(e)

    def _begun_anew(self, error: sqlite3.Error) -> sqlite3.Connection:
        log.warning("%s is damaged (%s): what machines used is lost, and counted anew", self._path, error)
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._last.clear()
        return _open(self._path)

    def _failed(self, error: sqlite3.Error, what: str) -> None:
        """A damaged file is an error of no class below DatabaseError; all others may pass by themselves."""
        if type(error) is sqlite3.DatabaseError:
            self._database.close()
            self._database = self._begun_anew(error)
        else:
            log.warning("what machines use could not be %s %s: %s", what, self._path, error)

    def _write(self, work: Sequence[tuple[str, Sequence[tuple[object, ...]]]]) -> None:
        with self._lock:
            try:
                with self._database:
                    for statement, rows in work:
                        self._database.executemany(statement, rows)
            except sqlite3.Error as e:
                self._failed(e, "written to")

    def _read(self, query: str, values: tuple[object, ...]) -> list[tuple[float, ...]]:
        with self._lock:
            try:
                return self._database.execute(query, values).fetchall()
            except sqlite3.Error as e:
                self._failed(e, "read from")
                return []


def rate_of(before: Sample, after: Sample, gap: float) -> Rate | None:
    """Per second between two samples; None where too much time, or none, lies between them."""
    seconds = after.at - before.at
    if not 0 < seconds <= gap:
        return None
    same = before.run == after.run
    pairs = zip(before.counters, after.counters, strict=True)
    return Rate(before.at, after.at, tuple(_per_second(old, new, same, seconds) for old, new in pairs))


def _per_second(old: float | None, new: float | None, same: bool, seconds: float) -> float | None:
    """A counter that went back, or is another process's, has counted from 0 since."""
    if new is None or (same and old is None):
        return None
    grown = new - old if same and old is not None and new >= old else new
    return grown / seconds


def _open(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)
    database = sqlite3.connect(path, timeout=_BUSY, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")  # a power cut may cost it; it is begun again then
        columns = ", ".join(f"{name} REAL" for name in COUNTERS)
        database.execute(
            f"CREATE TABLE IF NOT EXISTS sample (machine BLOB, level INTEGER, at REAL, run INTEGER, {columns},"
            " PRIMARY KEY (machine, level, at)) WITHOUT ROWID"
        )
        database.execute(f"SELECT at, run, {', '.join(COUNTERS)} FROM sample LIMIT 1")  # noqa: S608 - our own names
    except BaseException:
        database.close()
        raise
    return database
