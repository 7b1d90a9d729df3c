"""What a server used: CPU, disk and network over time, in the names and units that API clients draw."""

import math
from datetime import UTC, datetime

from django.http import HttpRequest
from ninja import Router

from paddock.api.errors import invalid
from paddock.api.paging import get, many, query
from paddock.api.v1.common import Reply, Time
from paddock.api.v1.server_reply import visible
from paddock.base.errors import NotFound
from paddock.cloud.models import Server
from paddock.cloud.nodes import hypervisor
from paddock.machine.state import Metrics, Series

router = Router(tags=["servers"])
SAMPLES, MOST_SAMPLES = 200, 500  # of a series: where no step is named, and at most
NAMES = {
    "cpu": ("cpu",),
    "disk": ("disk.0.iops.read", "disk.0.iops.write", "disk.0.bandwidth.read", "disk.0.bandwidth.write"),
    "network": ("network.0.pps.in", "network.0.pps.out", "network.0.bandwidth.in", "network.0.bandwidth.out"),
}


class Line(Reply):
    """One line: unix times, and values as text."""

    values: list[tuple[float, str]]


class MetricsReply(Reply):
    """Lines by name, and the seconds between values."""

    start: Time
    end: Time
    step: int
    time_series: dict[str, Line]


class OneMetrics(Reply):
    metrics: MetricsReply


QUERY = {
    "parameters": [
        {
            "in": "query",
            "name": "type",
            "required": True,
            "schema": {"type": "array", "items": {"type": "string", "enum": list(NAMES)}},
        },
        {"in": "query", "name": "start", "required": True, "schema": {"type": "string"}},
        {"in": "query", "name": "end", "required": True, "schema": {"type": "string"}},
        {"in": "query", "name": "step", "required": False, "schema": {"type": "string"}},
    ]
}


@router.get("/servers/{int:id}/metrics", response=OneMetrics, openapi_extra=QUERY)
def show_metrics(request: HttpRequest, id: int) -> OneMetrics:
    """What a server used between two times (RFC 3339, or unix seconds). Values are kept for 30 days."""
    server: Server = get(visible(request), "server", id)
    kinds, start, end = _kinds(request), _time(request, "start"), _time(request, "end")
    if start > end:
        raise invalid("start", "must not be after end")
    step = _step(request, end.timestamp() - start.timestamp())
    found = _ask(server, start.timestamp(), end.timestamp(), step)
    lines = {series.name: series for series in found.series}
    shown = {name: _line(lines.get(name)) for kind in kinds for name in NAMES[kind]}
    return OneMetrics(
        metrics=MetricsReply(start=start, end=end, step=max(step, math.ceil(found.step)), time_series=shown)
    )


def _ask(server: Server, start: float, end: float, step: float) -> Metrics:
    """The node's answer; nothing where the server never was on one."""
    if server.node is None:
        return Metrics(step=step, series=())
    try:
        return hypervisor(server.node).machines.metrics(server.uuid, start, end, step)
    except NotFound:  # it was placed, and not yet made
        return Metrics(step=step, series=())


def _line(series: Series | None) -> Line:
    return Line(values=[(at, str(value)) for at, value in series.values] if series else [])


def _kinds(request: HttpRequest) -> list[str]:
    """The kinds of metrics, given by repeating `type` or joined by commas."""
    given = [kind.strip() for value in many(request, "type") for kind in value.split(",")]
    if not given:
        raise invalid("type", "is needed: " + ", ".join(NAMES))
    if wrong := [kind for kind in given if kind not in NAMES]:
        raise invalid("type", f"must be of {', '.join(NAMES)}, not '{wrong[0]}'")
    return list(dict.fromkeys(given))


def _time(request: HttpRequest, name: str) -> datetime:
    given = query(request, name)
    if not given:
        raise invalid(name, "is needed: a time in RFC 3339, like 2026-01-30T23:55:00Z")
    try:
        if given.replace(".", "", 1).isdecimal():
            return datetime.fromtimestamp(float(given), UTC)
        at = datetime.fromisoformat(given.replace(" ", "+") if "T" in given else given)  # a + that was not escaped
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise invalid(name, f"must be a time in RFC 3339, like 2026-01-30T23:55:00Z, not '{given}'") from None


def _step(request: HttpRequest, seconds: float) -> int:
    """Whole seconds between values: as asked for, but never more than 500 of them."""
    least, given = math.ceil(seconds / MOST_SAMPLES), query(request, "step")
    if not given:
        return max(1, math.ceil(seconds / SAMPLES))
    try:
        step = float(given)
    except ValueError:
        step = 0.0
    if not 0 < step < 10**9:
        raise invalid("step", f"must be a number of seconds, not '{given}'")
    return max(math.ceil(step), least)
