"""How much a project may ask: a leaky bucket for each, in this process's memory.

A bucket leaks steadily, so a project that was quiet may ask all at once, and one that is not gets its share of each
second. With several API processes each has buckets of its own, and a project the sum of them.
"""

import math
import threading
from contextvars import ContextVar

from django.conf import settings

from paddock.api.errors import ApiError
from paddock.base import clock

HOUR = 3600.0
EMPTYING = 60.0  # seconds between looks for empty buckets, which are forgotten

headers: ContextVar[dict[str, str] | None] = ContextVar("rate_headers", default=None)  # of the answer being made


class Buckets:
    """Buckets of `limit` requests each, which leak empty within an hour; 0 is no limit. Safe for many threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._filled: dict[int, tuple[float, float]] = {}  # project → what was in it, and when
        self._looked = clock.monotonic()

    def take(self, project: int) -> tuple[bool, float]:
        """Put one request in, if it has room. Returns whether it had, and what is in the bucket now."""
        now = clock.monotonic()
        with self._lock:
            inside = self._inside(project, now)
            fits = inside + 1 <= self.limit
            self._filled[project] = (inside + fits, now)
            if now - self._looked > EMPTYING:
                self._looked = now
                self._filled = {p: kept for p, kept in self._filled.items() if self._inside(p, now) > 0}
        return fits, inside + fits

    def _inside(self, project: int, now: float) -> float:
        before, then = self._filled.get(project, (0.0, now))
        return max(0.0, before - (now - then) * self.limit / HOUR)


buckets = Buckets(settings.PADDOCK.api.rate_limit)


def count(project: int) -> None:
    """Count a request of the project, and note what its answer shall say. Raises ApiError 429 when it is too many."""
    if not buckets.limit:
        return
    fits, inside = buckets.take(project)
    empty = clock.now().timestamp() + inside * HOUR / buckets.limit
    said = headers.get()
    if said is not None:
        said["RateLimit-Limit"] = str(buckets.limit)
        said["RateLimit-Remaining"] = str(int(buckets.limit - inside))
        said["RateLimit-Reset"] = str(math.ceil(empty))
    if fits:
        return
    wait = math.ceil((inside + 1 - buckets.limit) * HOUR / buckets.limit)
    if said is not None:
        said["Retry-After"] = str(wait)
    message = f"this project asks more than {buckets.limit} times an hour: ask again in {wait} s"
    raise ApiError(429, "rate_limit_exceeded", message)
