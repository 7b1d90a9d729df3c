"""Metrics of fake machines: made up, but the same whenever they are asked for, and none while a machine was off."""

import math
from collections.abc import Iterator
from uuid import UUID

from paddock.machine.state import Metrics, Series

KEPT = 30 * 24 * 3600.0  # seconds
FINEST = 1.0  # seconds between values
MOST = 500  # values of a series

Runs = tuple[tuple[float, float], ...]  # when it was turned on and off, as unix times; 0: it still is on

# How much per second on average. (It swings, by half of that.)
_LINES = {
    "cpu": 20.0,
    "disk.0.iops.read": 12.0,
    "disk.0.iops.write": 7.0,
    "disk.0.bandwidth.read": 400_000.0,
    "disk.0.bandwidth.write": 90_000.0,
    "network.0.pps.in": 60.0,
    "network.0.pps.out": 45.0,
    "network.0.bandwidth.in": 70_000.0,
    "network.0.bandwidth.out": 30_000.0,
}


def made_up(machine: UUID, runs: Runs, start: float, end: float, step: float, now: float) -> Metrics:
    """The metrics of a machine between two unix times, as `Machines.metrics` gives them."""
    start, end = max(start, now - KEPT), min(end, now)
    step = max(step, FINEST, (end - start) / (MOST - 1))
    times = [t for t in _times(start, end, step) if _was_on(runs, t)]
    series = [
        Series(name=name, values=tuple((t, _rate(machine.int + number, mean, t, step)) for t in times))
        for number, (name, mean) in enumerate(_LINES.items())
    ]
    return Metrics(step=step, series=tuple(series))


def _times(start: float, end: float, step: float) -> Iterator[float]:
    """Multiples of the step, so that two questions get the same values."""
    first = math.ceil(start / step)
    for number in range(max(0, math.floor(end / step) - first + 1)):
        yield (first + number) * step


def _was_on(runs: Runs, time: float) -> bool:
    return any(begin <= time and (not end or time <= end) for begin, end in runs)


def _rate(seed: int, mean: float, time: float, step: float) -> float:
    """How fast a counter grew in the `step` seconds before `time`."""
    return round((_counter(seed, mean, time) - _counter(seed, mean, time - step)) / step, 3)


def _counter(seed: int, mean: float, time: float) -> float:
    """The integral of a rate that swings around its mean, each machine's with a period of its own."""
    period = 300.0 + seed % 600
    turn = 2 * math.pi * time / period
    return mean * (time - period / (4 * math.pi) * math.cos(turn))
