"""Servers beyond /v1: the timeline and the console's log."""

from django.http import HttpRequest, HttpResponse
from ninja import Router

from paddock.api.paging import get
from paddock.api.v1.common import Moment, Reply
from paddock.api.v1.server_reply import visible
from paddock.base.errors import Conflict
from paddock.cloud.models import Action, Event, Server
from paddock.cloud.nodes import hypervisor

router = Router(tags=["x: servers"])
MAX_LOG = 1024 * 1024  # bytes
TIMELINE = 500  # events, the newest


class Entry(Reply):
    """One thing that happened."""

    at: Moment
    seconds: float
    action: str
    step: str
    outcome: str
    detail: str
    times: int
    correlation_id: str


class Timeline(Reply):
    timeline: list[Entry]


@router.get("/servers/{int:id}/timeline", response=Timeline)
def show_timeline(request: HttpRequest, id: int) -> Timeline:
    """Everything that happened to a server, oldest first."""
    server: Server = get(visible(request), "server", id)
    events = list(Event.objects.filter(kind="server", row_id=server.pk).order_by("-id")[:TIMELINE])[::-1]
    names = dict(Action.objects.filter(kind="server", row_id=server.pk).values_list("id", "command"))
    return Timeline(
        timeline=[
            Entry(
                at=e.at,
                seconds=round(e.seconds, 4),
                action=names.get(e.action_id or 0, ""),
                step=e.step,
                outcome=e.outcome,
                detail=e.detail,
                times=e.times,
                correlation_id=e.correlation_id,
            )
            for e in events
        ]
    )


@router.get("/servers/{int:id}/console_log")
def show_console_log(request: HttpRequest, id: int, limit: int = 65536) -> HttpResponse:
    """The last bytes that the guest wrote to its serial console."""
    server: Server = get(visible(request), "server", id)
    if server.node is None:
        raise Conflict(f"server {server.name} has no node yet")
    text = hypervisor(server.node).streams.console_log(server.uuid, max(1, min(limit, MAX_LOG)))
    return HttpResponse(text, content_type="text/plain; charset=utf-8")
