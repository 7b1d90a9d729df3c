"""The one door to time. Tests and operators' drills can shift it; nothing else reads the machine's clock.

`PADDOCK_CLOCK_FILE` may name a file that holds seconds to add to the wall clock, read at each call, so that a
test can make the clock of a running process jump.
"""

import os
import time
from datetime import UTC, datetime, timedelta


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC) + timedelta(seconds=_shift())


def monotonic() -> float:
    """Seconds on a clock that never jumps: for durations and timeouts inside one process."""
    return time.monotonic()


def sleep(seconds: float) -> None:
    """Wait. A flow's step never does."""
    time.sleep(seconds)


def _shift() -> float:
    path = os.environ.get("PADDOCK_CLOCK_FILE")
    if not path:
        return 0.0
    try:
        with open(path, encoding="ascii") as file:
            return float(file.read().strip() or 0)
    except FileNotFoundError:
        return 0.0
