"""For all tests: one that is told to end cleans up first, and what is not asked for is not read."""

import re
import signal
from pathlib import Path
from types import FrameType

import pytest

FAST = "not guest and not slow"  # as the Makefile asks
WHOLLY = re.compile(r"^pytestmark = \[?pytest\.mark\.(guest|slow)\b", re.MULTILINE)


def pytest_configure() -> None:
    """SIGTERM (a time limit, a closed terminal) ends the run like Ctrl-C: fixtures still stop what they started."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    # Where the run was started with Ctrl-C ignored (in the background of a script), so would all that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where fast tests are asked for, a file in which all are slow is not imported: each worker imports all others."""
    wanted = config.option.markexpr == FAST and collection_path.suffix == ".py"
    return True if wanted and WHOLLY.search(collection_path.read_text(encoding="utf-8")) else None
