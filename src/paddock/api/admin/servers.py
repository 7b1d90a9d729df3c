"""Steps of servers, for operators: what there is, and running one again (W19 to W21)."""

from django.http import HttpRequest
from ninja import Router, Status

from paddock.api.auth import correlation
from paddock.api.errors import invalid, missing
from paddock.api.paging import get
from paddock.api.v1 import actions
from paddock.api.v1.common import Body, Reply
from paddock.base.errors import Conflict
from paddock.cloud.flows import server as flow
from paddock.cloud.flows.steps import StepInfo
from paddock.cloud.models import Server

router = Router(tags=["admin: servers"])


class StepReply(Reply):
    """A step: whether the machine must run or be stopped for it, and whether it destroys."""

    name: str
    needs: str
    destroys: bool
    by_hand: bool
    seconds: float


class Steps(Reply):
    steps: list[StepReply]


class RunStep(Body):
    """The server's name, typed again, for a step that destroys."""

    confirm: str = ""


@router.get("/servers/{int:id}/steps", response=Steps)
def list_steps(request: HttpRequest, id: int) -> Steps:
    """The steps of a server's life, in their order."""
    get(Server.objects.all(), "server", id)
    known = flow.ServerFlow.steps().values()
    return Steps(steps=[StepReply(**vars(info)) for info in known])


@router.post("/servers/{int:id}/steps/{name}", response={201: actions.OneAction})
def run_step(request: HttpRequest, id: int, name: str, body: RunStep) -> Status[actions.OneAction]:
    """Run a step again, and all that follow it."""
    server: Server = get(Server.objects.all(), "server", id)
    info = flow.ServerFlow.steps().get(name)
    if info is None or not info.by_hand:
        raise missing(f"a step '{name}' that can be run by hand")
    _check(server, info, body)
    action = flow.ask(server, "run_step", correlation(request), argument=name)
    return Status(201, actions.OneAction(action=actions.shown(action)))


def _check(server: Server, info: StepInfo, body: RunStep) -> None:
    up = server.status in ("running", "paused")
    if info.needs == "stopped" and up:
        raise Conflict(f"step {info.name} needs the server to be stopped", hint="`paddock stop` does that")
    if info.needs == "running" and not up:
        raise Conflict(f"step {info.name} needs the server to run", hint="`paddock start` does that")
    if info.destroys and body.confirm != server.name:
        raise invalid("confirm", f"step {info.name} destroys: type the server's name")
