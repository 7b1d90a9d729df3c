"""procrastinate's one task: a wake-up for a row."""

from procrastinate.contrib.django import app

from paddock.cloud.flows import image, server  # noqa: F401  # registers the flows
from paddock.cloud.flows.engine import Flow
from paddock.cloud.flows.engine import advance as advance_row


@app.task(name="advance", queue="flows")
def advance(kind: str, row_id: int) -> None:
    """Move a row on until it must wait."""
    advance_row(Flow.registry[kind], row_id)
