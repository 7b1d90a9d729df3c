"""Work in guests takes minutes: it has threads of its own, and one project may not have all of them."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio

from paddock.api.streaming import in_thread
from paddock.base.errors import Unavailable

T = TypeVar("T")

COMMANDS = 32  # and copies, in guests at once
COMMANDS_OF_A_PROJECT = 8

_commands = anyio.CapacityLimiter(COMMANDS)
_running: Counter[int] = Counter()  # by project; only the event loop's thread touches it


async def in_guest(function: Callable[..., T], *args: Any) -> T:
    """Run what waits for a guest in a thread."""
    return await in_thread(function, *args, limiter=_commands)


@contextmanager
def counted(project: int) -> Iterator[None]:
    """One more command of the project. Raises Unavailable when it has enough of them: others want to run some too."""
    if _running[project] >= COMMANDS_OF_A_PROJECT:
        raise Unavailable(
            f"{COMMANDS_OF_A_PROJECT} commands run in guests of this project already",
            hint="try again when one of them has ended",
        )
    _running[project] += 1
    try:
        yield
    finally:
        _running[project] -= 1
        if not _running[project]:
            del _running[project]
