"""procrastinate's one task: a wake-up for a row."""

from procrastinate.contrib.django import app

from paddock.cloud.flows import image, server, volume  # noqa: F401  # registers the flows
from paddock.cloud.flows.alarms import Alarms
from paddock.cloud.flows.engine import Flow
from paddock.cloud.flows.engine import advance as advance_row

_alarms: list[Alarms] = []  # of the worker's process; none elsewhere, where nobody would hear them


def use(alarms: Alarms) -> None:
    """Set an alarm here for each row that waits."""
    _alarms[:] = [alarms]


@app.task(name="advance", queue="flows")
def advance(kind: str, row_id: int) -> None:
    """Move a row on until it must wait."""
    seconds = advance_row(Flow.registry[kind], row_id)
    if seconds is not None and _alarms:
        _alarms[0].set(kind, row_id, seconds)
