"""Actions: what was asked for, how far it is, with every step."""

from collections.abc import Callable
from typing import Any

from django.db.models import Q, QuerySet
from django.http import HttpRequest
from ninja import Router

from paddock.api.auth import project
from paddock.api.errors import invalid
from paddock.api.paging import Meta, as_id, described, get, many, page
from paddock.api.v1.common import Moment, Reply, Resource, Time
from paddock.cloud.models import Action, Event, Image, Server, Volume

router = Router(tags=["actions"])
SORTABLE = {"id": "id", "command": "command", "status": "status", "started": "started", "finished": "finished"}
STATES = ("running", "success", "error")


class ActionError(Reply):
    """Why an action failed."""

    code: str
    message: str
    x_hint: str = ""


class Step(Reply):
    """A step of an action: done, running, waiting (again) or failed."""

    name: str
    started: Moment | None
    finished: Moment | None
    seconds: float
    outcome: str
    waiting_for: str
    detail: str
    times: int


class ActionReply(Reply):
    """An action."""

    id: int
    command: str
    status: str
    progress: int
    started: Time
    finished: Time | None
    resources: list[Resource]
    error: ActionError | None
    x_steps: list[Step]
    x_waiting_for: str


class OneAction(Reply):
    action: ActionReply


class ManyActions(Reply):
    actions: list[ActionReply]
    meta: Meta


STEPS_OF_CREATE = 5  # place, image, clone, cloud_init, start


def shown(action: Action, events: list[Event] | None = None, waiting_for: str = "") -> ActionReply:
    """An action as it goes out, with the events that are known of it."""
    error = None
    if action.status == "error":
        error = ActionError(code=action.error_code, message=action.error_message, x_hint=action.error_hint)
    steps = [_step(event, action) for event in events or ()]
    return ActionReply(
        id=action.pk,
        command=action.command,
        status=action.status,
        progress=_progress(action, steps),
        started=action.started,
        finished=action.finished,
        resources=[Resource(id=action.row_id, type=action.kind), *(Resource(**other) for other in action.more)],
        error=error,
        x_steps=steps,
        x_waiting_for=waiting_for if action.status == "running" else "",
    )


def _progress(action: Action, steps: list[Step]) -> int:
    if action.status != "running":
        return 100
    return min(95, max(action.progress, sum(s.outcome == "done" for s in steps) * 100 // STEPS_OF_CREATE))


def _step(event: Event, action: Action) -> Step:
    over = event.outcome in ("done", "failed", "note") or action.status != "running"
    waits = event.outcome == "again"
    return Step(
        name=event.step,
        started=event.started,
        finished=event.at if over else None,
        seconds=round(event.seconds, 4),
        outcome=event.outcome,
        waiting_for=event.detail if waits else "",
        detail="" if waits else event.detail,
        times=event.times,
    )


def with_steps(actions: list[Action]) -> list[ActionReply]:
    """Actions with their steps and what they wait for: four queries, however many there are."""
    events: dict[int, list[Event]] = {}
    for event in Event.objects.filter(action_id__in=[a.pk for a in actions]).order_by("id"):
        events.setdefault(event.action_id or 0, []).append(event)
    waits: dict[int | None, str] = {}
    for model in (Server, Image, Volume):
        running = model.objects.filter(action_id__in=[a.pk for a in actions if a.status == "running"])
        waits |= dict(running.values_list("action_id", "waiting_for"))
    return [shown(a, events.get(a.pk, []), waits.get(a.pk, "")) for a in actions]


def visible(request: HttpRequest) -> "QuerySet[Action]":
    """The actions that the caller's project asked for."""
    return Action.objects.filter(project=project(request))


def listed(request: HttpRequest, rows: "QuerySet[Action]") -> ManyActions:
    """One page of actions, by status and ids where the query names them."""
    if states := many(request, "status", STATES):
        rows = rows.filter(status__in=states)
    if given := many(request, "id"):
        rows = rows.filter(pk__in=[_id(i) for i in given])
    found, meta = page(request, rows, SORTABLE)
    return ManyActions(actions=with_steps(found), meta=meta)


def _id(given: str) -> int:
    number = as_id(given)
    if number is None:
        raise invalid("id", "must be a positive integer")
    return number


QUERY = described(SORTABLE, "id", status=STATES)


@router.get("/actions", response=ManyActions, url_name="actions", openapi_extra=QUERY)
def list_actions(request: HttpRequest) -> ManyActions:
    """The project's actions, or some of them by id (`id=1&id=2`)."""
    return listed(request, visible(request))


@router.get("/actions/{int:id}", response=OneAction)
def show_action(request: HttpRequest, id: int) -> OneAction:
    """One action."""
    return one(visible(request), id)


def one(rows: "QuerySet[Action]", id: int) -> OneAction:
    """One action of these."""
    return OneAction(action=with_steps([get(rows, "action", id)])[0])


def asked(action: Action) -> OneAction:
    """The answer to what asked for an action that has just begun."""
    return OneAction(action=shown(action))


def about(kind: str, id: int) -> Q:
    """The actions of a resource: its own, and those of others that it is part of."""
    return Q(kind=kind, row_id=id) | Q(more__contains=[{"id": id, "type": kind}])


def serve(to: Router, kind: str, rows: Callable[[HttpRequest], "QuerySet[Any]"]) -> None:
    """Have a router answer for the actions of a kind of resource: of all, and of each of these rows."""
    every = f"/{kind}s/actions"
    one_s = f"/{kind}s/{{int:id}}/actions"

    def list_all(request: HttpRequest) -> ManyActions:
        """The project's actions about resources of this kind, also of those that are gone."""
        return listed(request, visible(request).filter(_about_kind))

    def show(request: HttpRequest, id: int) -> OneAction:
        """One of these actions."""
        return one(visible(request).filter(_about_kind), id)

    def list_of_one(request: HttpRequest, id: int) -> ManyActions:
        """What was asked of a resource."""
        row = get(rows(request), kind, id)
        return listed(request, visible(request).filter(about(kind, row.pk)))

    def show_of_one(request: HttpRequest, id: int, action_id: int) -> OneAction:
        """One action of a resource."""
        row = get(rows(request), kind, id)
        return one(visible(request).filter(about(kind, row.pk)), action_id)

    _about_kind = Q(kind=kind) | Q(more__contains=[{"type": kind}])
    for path, view, answer, extra in (
        (every, list_all, ManyActions, QUERY),
        (f"{every}/{{int:id}}", show, OneAction, None),
        (one_s, list_of_one, ManyActions, QUERY),
        (f"{one_s}/{{int:action_id}}", show_of_one, OneAction, None),
    ):
        named = f"{view.__name__}_{kind}_actions"
        to.add_api_operation(path, ["GET"], view, response=answer, operation_id=named, openapi_extra=extra)
