"""For all tests: one that is told to end cleans up first."""

import signal
from types import FrameType


def pytest_configure() -> None:
    """SIGTERM (a time limit, a closed terminal) ends the run like Ctrl-C: fixtures still stop what they started."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    # Where the run was started with Ctrl-C ignored (in the background of a script), so would all that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
