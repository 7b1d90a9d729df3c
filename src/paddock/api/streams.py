"""What flows: consoles, commands in guests, uploads. A Starlette app beside Django: a person may look for hours."""

import hashlib
import logging
import os
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import ByteStream
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import close_old_connections
from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from paddock.api.auth import check_token
from paddock.api.errors import ApiError, body, from_paddock, unexpected
from paddock.api.paging import missing
from paddock.api.v1 import actions, images
from paddock.base.errors import Conflict, PaddockError
from paddock.base.ids import new_correlation_id
from paddock.base.log import correlation_id
from paddock.cloud.flows import image as image_flow
from paddock.cloud.models import Image, Node, Server, Token
from paddock.cloud.nodes import hypervisor
from paddock.machine.state import GuestResult

log = logging.getLogger(__name__)
CHUNK = 64 * 1024


class Exec(BaseModel):
    """A command for a guest."""

    argv: tuple[str, ...] = Field(min_length=1, max_length=256)
    stdin: str = ""
    timeout: float = Field(default=30, gt=0, le=600)


def _token(authorization: str, *, writes: bool) -> Token:
    scheme, _, secret = authorization.partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise ApiError(401, "unauthorized", "token is required")
    return check_token(secret.strip(), writes=writes)


def _server(authorization: str, id: int) -> tuple[Server, Node]:
    """The server, if the token may write to it, and its node."""
    close_old_connections()
    token = _token(authorization, writes=True)
    server = Server.objects.select_related("node").filter(project=token.project, pk=id).first()
    if server is None:
        raise missing(f"server with ID '{id}'")
    if server.node is None:
        raise from_paddock(Conflict(f"server {server.name} has no node yet"))
    close_old_connections()
    return server, server.node


def _known(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    return from_paddock(error) if isinstance(error, PaddockError) else unexpected(error)


def _answer(error: Exception) -> Response:
    known = (
        error
        if isinstance(error, ApiError)
        else from_paddock(error)
        if isinstance(error, PaddockError)
        else unexpected(error)
    )
    return JSONResponse(body(known.code, known.message, known.details), known.status)


async def run_in_guest(request: Request) -> Response:
    """POST: run a command by the guest agent, and answer with what it left behind."""
    correlation_id.set(new_correlation_id())
    try:
        wanted = Exec.model_validate_json(await request.body())
        server, node = await _in_thread(_server, request.headers.get("authorization", ""), request.path_params["id"])
        result = await _in_thread(_exec, server, node, wanted)
        return JSONResponse(result.model_dump(mode="json"))
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return _answer(
            ApiError(
                422,
                "invalid_input",
                f"invalid input in field '{field}': {first['msg']}",
                {"fields": [{"name": field, "messages": [first["msg"]]}]},
            )
        )
    except Exception as e:
        return _answer(e)


def _exec(server: Server, node: Node, wanted: Exec) -> GuestResult:
    return hypervisor(node).guest.exec(server.uuid, wanted.argv, wanted.stdin, wanted.timeout)


async def console(socket: WebSocket) -> None:
    """WebSocket: the serial port, bytes both ways."""
    await socket.accept()
    try:
        server, node = await _in_thread(_server, socket.headers.get("authorization", ""), socket.path_params["id"])
        stream = await hypervisor(node).streams.console(server.uuid)
    except Exception as e:
        known = _known(e)
        await socket.close(4000 + known.status, known.message[:120])
        return
    async with stream:
        await _pump(socket, stream)


async def _pump(socket: WebSocket, stream: ByteStream) -> None:
    """Bytes both ways until one side ends."""

    async def to_guest() -> None:
        try:
            while True:
                await stream.send(await socket.receive_bytes())
        except (WebSocketDisconnect, anyio.BrokenResourceError, anyio.ClosedResourceError, KeyError):
            group.cancel_scope.cancel()

    async def to_person() -> None:
        try:
            while True:
                await socket.send_bytes(await stream.receive(CHUNK))
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await socket.close(1000, "the server's console ended")
        except (WebSocketDisconnect, RuntimeError) as e:
            log.debug("console: %s", e)
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(to_guest)
        group.start_soon(to_person)


async def upload(request: Request) -> Response:
    """PUT: the disk of an announced image. It is hashed as it comes, and checked by the image's flow after."""
    correlation_id.set(new_correlation_id())
    try:
        image = await _in_thread(_awaited, request.headers.get("authorization", ""), request.path_params["id"])
        digest = await _receive(request.stream(), image)
        shown = await _in_thread(_take_in, image, digest)
        return JSONResponse(shown, 202)
    except Exception as e:
        return _answer(e)


def _awaited(authorization: str, id: int) -> Image:
    token = _token(authorization, writes=True)
    image = Image.objects.filter(project=token.project, pk=id, delete_requested=False).first()
    if image is None:
        raise missing(f"image with ID '{id}'")
    if image.state in ("ready", "building"):
        raise ApiError(409, "conflict", f"image {image.name} already has its content")
    return image


async def _receive(chunks: AsyncIterator[bytes], image: Image) -> str:
    """Write what comes to a private file. Returns its sha256. Raises ApiError 507 when the disk is full."""
    path = settings.STATE.uploads / f"image-{image.pk}"
    digest = hashlib.sha256()
    try:
        async with await anyio.open_file(path, "wb", opener=_private) as file:
            async for chunk in chunks:
                digest.update(chunk)
                await file.write(chunk)
    except OSError as e:
        path.unlink(missing_ok=True)
        raise ApiError(507, "disk_full", f"the upload could not be stored: {e.strerror}") from e
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def _take_in(image: Image, digest: str) -> dict[str, Any]:
    if image.expected_sha256 and digest != image.expected_sha256:
        (settings.STATE.uploads / f"image-{image.pk}").unlink(missing_ok=True)
        raise ApiError(
            422,
            "invalid_input",
            f"invalid input in field 'sha256': what came has {digest}",
            {"fields": [{"name": "sha256", "messages": [f"what came has {digest}"]}]},
        )
    action = image_flow.ask_take_in(image, correlation_id.get())
    image.refresh_from_db()
    return {
        "image": images.shown(image).model_dump(mode="json"),
        "action": actions.shown(action).model_dump(mode="json"),
    }


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


async def _in_thread(function: Any, *args: Any) -> Any:
    """Run what uses the database in a thread of Django's own kind."""
    return await sync_to_async(function, thread_sensitive=False)(*args)


app = Starlette(
    routes=[
        Route("/x/v1/servers/{id:int}/exec", run_in_guest, methods=["POST"]),
        Route("/x/v1/images/{id:int}/content", upload, methods=["PUT"]),
        WebSocketRoute("/x/v1/servers/{id:int}/console", console),
    ]
)
