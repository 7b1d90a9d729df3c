"""Forks of running servers: new servers that go on where it is, memory and all."""

from typing import Annotated

from django.db.models.functions import Lower
from django.http import HttpRequest
from ninja import Router, Status
from pydantic import Field

from paddock.api.auth import correlation
from paddock.api.errors import invalid
from paddock.api.v1 import actions, ssh_keys
from paddock.api.v1.common import Body, IdOrName, Labels, Reply
from paddock.api.v1.server_body import MAX_KEYS, Name
from paddock.api.v1.server_reply import ServerReply, own_server, shown_new
from paddock.cloud.flows import forking
from paddock.cloud.models import Server

router = Router(tags=["x: servers"])
MOST = 100


class ForkServer(Body):
    """How many, or how each is called; with neither a name nor names they are numbered after the server."""

    count: Annotated[int, Field(ge=1, le=MOST)] | None = None
    name: Name | None = None  # of several: they are numbered
    names: Annotated[list[Name], Field(min_length=1, max_length=MOST)] | None = None
    ssh_keys: Annotated[list[IdOrName], Field(max_length=MAX_KEYS)] = []  # besides those that the server lets in
    labels: Labels = {}


class Forked(Reply):
    """The server's action, which ends when its forks can begin; and its forks, each with the action that creates it."""

    action: actions.ActionReply
    servers: list[ServerReply]
    next_actions: list[actions.ActionReply]


@router.post("/servers/{int:id}/fork", response={201: Forked})
def fork_server(request: HttpRequest, id: int, body: ForkServer) -> Status[Forked]:
    """Fork a running server: each new one begins on its node with its memory, its devices and its disk of one instant,
    and with an identity of its own before it can be reached. The server stands still for some milliseconds. Its guest
    needs a guest agent, and perl or python3; volumes must be detached."""
    server = own_server(request, id)
    keys = [key.public_key for key in ssh_keys.by_names(request, body.ssh_keys)]
    wanted = forking.Wanted(_names(server, body), keys, body.labels)
    action, made = forking.fork(server, wanted, correlation(request))
    return Status(
        201,
        Forked(
            action=actions.shown(action),
            servers=[shown_new(child, []) for child, _ in made],
            next_actions=[actions.shown(begun) for _, begun in made],
        ),
    )


def _names(server: Server, body: ForkServer) -> list[str]:
    """Raises ApiError where what is said of them does not agree."""
    if body.names is not None:
        if body.name is not None or body.count not in (None, len(body.names)):
            raise invalid("names", "must not be given with a name, or with another count")
        if len({name.lower() for name in body.names}) < len(body.names):
            raise invalid("names", "must not name two of them alike")
        return body.names
    if body.name is not None and body.count is None:
        return [body.name]
    return _numbered(server, (body.name or f"{server.name}-fork")[:240], body.count or 1)


def _numbered(server: Server, name: str, count: int) -> list[str]:
    """`name`-1 and so on; numbers that are taken are left out."""
    alike = Server.objects.filter(project=server.project_id, name__istartswith=f"{name}-")
    taken = set(alike.values_list(Lower("name"), flat=True))
    found: list[str] = []
    number = 1
    while len(found) < count:
        if f"{name}-{number}".lower() not in taken:
            found.append(f"{name}-{number}")
        number += 1
    return found
