"""What all streams of the API share: threads for the database, errors in our shape, whose server it is."""

from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from django.db import connections
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket

from paddock.api.auth import SAFE, check_token, secret_of
from paddock.api.errors import known, missing
from paddock.base.errors import Conflict
from paddock.base.pump import hang_up
from paddock.cloud.models import Node, Server, Token

T = TypeVar("T")


def answer(error: Exception) -> Response:
    """Starlette's answer for an error."""
    said = known(error)
    return JSONResponse(said.body, said.status, said.headers)


async def close(socket: WebSocket, error: Exception) -> None:
    """Close a WebSocket for an error: 4000 + HTTP's status, and the reason."""
    said = known(error)
    await hang_up(socket, 4000 + said.status, _fits(said.message))


def asked(request: Request | WebSocket) -> tuple[str, str, int]:
    """Method, Authorization header, and the id in the path."""
    method = request.method if isinstance(request, Request) else "GET"
    return method, request.headers.get("authorization", ""), request.path_params["id"]


def token(method: str, authorization: str) -> Token:
    """The token, if it may ask by this method. Raises ApiError."""
    return check_token(secret_of(authorization), writes=method not in SAFE)


def server(authorization: str, id: int) -> tuple[Server, Node]:
    """The server, if the token may write to it, and its node. Raises ApiError, Conflict."""
    owner = check_token(secret_of(authorization), writes=True).project
    found = Server.objects.select_related("node").filter(project=owner, pk=id).first()
    if found is None:
        raise missing(f"server with ID '{id}'")
    if found.node is None:
        raise Conflict(f"server {found.name} has no node yet")
    return found, found.node


async def in_thread(function: Callable[..., T], *args: Any, limiter: anyio.CapacityLimiter | None = None) -> T:
    """Run what uses the database in a thread, whose connection then goes back to the pool. The limiter says how many
    such threads there may be at once; by default all share one."""

    def run() -> T:
        try:
            return function(*args)
        finally:
            connections.close_all()

    return await anyio.to_thread.run_sync(run, limiter=limiter)


def _fits(reason: str) -> str:
    """A close frame has room for 123 bytes."""
    return reason.encode()[:120].decode(errors="ignore")
