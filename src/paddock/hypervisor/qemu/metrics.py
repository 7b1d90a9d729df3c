"""What machines use: sampled every half minute at next to no cost, and shown as rates.

CPU time is QEMU's own, disk counters are QEMU's, and network counters the guest's, where a guest agent tells them.
Nobody is waited for: a QEMU or a guest agent that is slow to answer is left alone for some minutes, and a guest agent
that somebody uses is not asked.
"""

import contextlib
import logging
import math
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from paddock.base import clock
from paddock.base.errors import Refused, Unavailable
from paddock.hypervisor.qemu.live import Live
from paddock.hypervisor.qemu.metrics_store import COUNTERS, Counters, MetricsStore, Rate, Sample
from paddock.hypervisor.qemu.slot import Slot
from paddock.machine.state import Metrics, Series

EVERY = 30.0  # seconds
QMP_WAIT = 1.0  # seconds for QEMU's answer
AGENT_WAIT = 0.5  # and for the guest agent's
LEFT_ALONE = {"qmp": 300.0, "agent": 60.0}  # seconds that one who did not answer is not asked again
PRUNE_EVERY = 600.0
MOST_VALUES = 500  # per series
# A name for people, which counter it is of, and what one of a second counts.
LINES = (
    ("cpu", "cpu", 100.0),
    ("disk.0.iops.read", "read_ops", 1.0),
    ("disk.0.iops.write", "write_ops", 1.0),
    ("disk.0.bandwidth.read", "read_bytes", 1.0),
    ("disk.0.bandwidth.write", "write_bytes", 1.0),
    ("network.0.pps.in", "packets_in", 1.0),
    ("network.0.pps.out", "packets_out", 1.0),
    ("network.0.bandwidth.in", "bytes_in", 1.0),
    ("network.0.bandwidth.out", "bytes_out", 1.0),
)

log = logging.getLogger(__name__)


@dataclass
class _Patience:
    """Who did not answer, and until when it is left alone."""

    until: dict[tuple[str, int], float] = field(default_factory=dict)

    def lost(self, what: str, pid: int) -> bool:
        return self.until.get((what, pid), 0) > clock.monotonic()

    def lose(self, what: str, pid: int) -> None:
        now = clock.monotonic()
        self.until = {key: end for key, end in self.until.items() if end > now}
        self.until[what, pid] = now + LEFT_ALONE[what]


class Meter:
    """Samples all running machines of a node, in a thread of its own. `slots` gives them."""

    def __init__(self, path: Path, slots: Callable[[], Iterable[Slot]]) -> None:
        self._store = MetricsStore(path)
        self._slots = slots
        self._patience = _Patience()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def metrics(self, machine: UUID, start: float, end: float, step: float) -> Metrics:
        """See `Machines.metrics`; the machine is known."""
        now = clock.now().timestamp()
        level, rates = self._store.rates(machine, start, min(end, now + EVERY), now)
        step = max(step, float(level), (end - start) / MOST_VALUES)
        return Metrics(step=step, series=series(rates, start, end, step))

    def forget(self, machine: UUID) -> None:
        """It is removed."""
        self._store.forget(machine)

    def sample(self) -> None:
        """Look at all that run, once."""
        now = clock.now().timestamp()
        running = [(slot, live) for slot in self._slots() if (live := slot.live) and not live.process.gone()]
        samples = [sample for slot, live in running if (sample := self._look(slot, live, now))]
        known = {slot.uuid for slot in self._slots()}  # one may have been removed meanwhile
        self._store.add(s for s in samples if s.machine in known)

    def close(self) -> None:
        self._end.set()
        self._thread.join(AGENT_WAIT + QMP_WAIT * 3)
        self._store.close()

    def _run(self) -> None:
        pruned = float("-inf")
        while not self._end.wait(EVERY - clock.now().timestamp() % EVERY):
            try:
                self.sample()
                if clock.monotonic() - pruned > PRUNE_EVERY:
                    pruned = clock.monotonic()
                    self._store.prune(clock.now().timestamp())
            except Exception:
                log.exception("BUG: what machines use was not sampled")

    def _look(self, slot: Slot, live: Live, now: float) -> Sample | None:
        if self._end.is_set():
            return None
        try:
            seconds, run = cpu_time(live.process.pid)
        except (OSError, ValueError, IndexError):
            return None  # it has just ended
        counters: Counters = (seconds, *self._disk(live), *self._network(slot, live))
        return Sample(slot.uuid, now, run, counters)

    def _disk(self, live: Live) -> Counters:
        found = self._ask(live, "query-blockstats")
        stats = next((b["stats"] for b in found or () if b.get("node-name") == "system"), None)
        if stats is None:
            return (None,) * 4
        names = ("rd_operations", "wr_operations", "rd_bytes", "wr_bytes")
        return tuple(float(stats[name]) for name in names)

    def _network(self, slot: Slot, live: Live) -> Counters:
        nothing: Counters = (None,) * 4
        pid = live.process.pid
        if slot.spec is None or self._patience.lost("agent", pid) or not self._agent_open(live):
            return nothing
        try:
            found = live.agent.call_if_free("guest-network-get-interfaces", AGENT_WAIT)
        except (Unavailable, Refused):
            self._patience.lose("agent", pid)
            return nothing
        return nothing if found is None else interface_counters(found, slot.spec.machine.network.mac)

    def _agent_open(self, live: Live) -> bool:
        chardevs = self._ask(live, "query-chardev") or ()
        return any(c.get("label") == "agent0" and c.get("frontend-open") for c in chardevs)

    def _ask(self, live: Live, command: str) -> Any:
        """QEMU's answer; None when there is none at once. The connection is not made anew for this."""
        pid, qmp = live.process.pid, live.qmp
        if qmp is None or not qmp.connected or self._patience.lost("qmp", pid):
            return None
        try:
            return qmp.execute(command, timeout=QMP_WAIT)
        except (Unavailable, Refused):
            self._patience.lose("qmp", pid)
            return None


def cpu_time(pid: int) -> tuple[float, int]:
    """Seconds of CPU that a process used, and when it started (ticks since boot). Raises OSError when it is gone.

    proc(5): in /proc/PID/stat, field 14 is utime, 15 stime and 22 starttime; the second is a name in parentheses.
    """
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK"), int(words[19])


def interface_counters(interfaces: Any, mac: str) -> Counters:
    """Packets and bytes in and out of the card of that address, out of what a guest says: anything may be in it."""
    with contextlib.suppress(TypeError, KeyError, ValueError, AttributeError, OverflowError):
        for interface in interfaces:
            if str(interface.get("hardware-address", "")).lower() == mac.lower():
                stats = interface["statistics"]
                values = tuple(float(stats[n]) for n in ("rx-packets", "tx-packets", "rx-bytes", "tx-bytes"))
                return values if all(0 <= v < 1e20 for v in values) else (None,) * 4
    return (None,) * 4


def series(rates: list[Rate], start: float, end: float, step: float) -> tuple[Series, ...]:
    """A line per name: the mean over each `step` seconds that something is known of, at its end."""
    buckets: dict[int, list[Rate]] = {}
    for rate in rates:
        if start < rate.end <= end:
            number = min(math.ceil((rate.end - start) / step), MOST_VALUES)
            buckets.setdefault(number, []).append(rate)
    return tuple(
        Series(name=name, values=_line(buckets, COUNTERS.index(counter), factor)) for name, counter, factor in LINES
    )


def _line(buckets: dict[int, list[Rate]], column: int, factor: float) -> tuple[tuple[float, float], ...]:
    values = []
    for number in sorted(buckets):
        known = [(r.end - r.start, v) for r in buckets[number] if (v := r.values[column]) is not None]
        if known:
            mean = sum(seconds * value for seconds, value in known) / sum(seconds for seconds, _ in known)
            values.append((buckets[number][-1].end, mean * factor))
    return tuple(values)
