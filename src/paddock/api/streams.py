"""What flows: consoles, commands in guests, uploads. A Starlette app beside Django: a person may look for hours."""

import fcntl
import hashlib
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

import anyio
import anyio.to_thread
from django.conf import settings
from django.db import connections, transaction
from pydantic import BaseModel, Field, StringConstraints, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from paddock.api.auth import check_token, secret_of
from paddock.api.errors import ApiError, from_pydantic, invalid, known, missing, not_allowed
from paddock.api.v1 import actions, images
from paddock.base.errors import Conflict, Unavailable
from paddock.base.log import correlation_id
from paddock.base.pump import ENDED, hang_up, pump
from paddock.cloud.flows import image as image_flow
from paddock.cloud.models import Action, Image, Node, Server, Token
from paddock.cloud.nodes import hypervisor
from paddock.machine.state import GuestResult

log = logging.getLogger(__name__)
COMMANDS = 32  # in guests at once: they may take minutes, so their threads are not those of everything else
COMMANDS_OF_A_PROJECT = 8
T = TypeVar("T")


class Exec(BaseModel):
    """A command for a guest: program and arguments, what it reads, and the seconds it may take."""

    argv: tuple[Annotated[str, StringConstraints(pattern="^[^\\x00]*$")], ...] = Field(min_length=1, max_length=256)
    stdin: str = ""
    timeout: float = Field(default=30, gt=0, le=600)


def answer(error: Exception) -> Response:
    """Starlette's answer for an error."""
    said = known(error)
    return JSONResponse(said.body, said.status, said.headers)


def _token(authorization: str) -> Token:
    return check_token(secret_of(authorization), writes=True)


def _server(authorization: str, id: int) -> tuple[Server, Node]:
    """The server, if the token may write to it, and its node."""
    token = _token(authorization)
    server = Server.objects.select_related("node").filter(project=token.project, pk=id).first()
    if server is None:
        raise missing(f"server with ID '{id}'")
    if server.node is None:
        raise Conflict(f"server {server.name} has no node yet")
    return server, server.node


async def run_in_guest(request: Request) -> Response:
    """Run a command in the guest by its guest agent, and answer with what it left behind."""
    try:
        server, node = await _in_thread(_server, *_asked(request))
        wanted = Exec.model_validate_json(await request.body())
        with _counted(server.project_id):
            result = await _in_thread(_exec, server, node, wanted, limiter=_commands)
        return JSONResponse(result.model_dump(mode="json"))
    except ValidationError as e:
        return answer(from_pydantic(e.errors()))
    except Exception as e:
        return answer(e)


_commands = anyio.CapacityLimiter(COMMANDS)
_running: Counter[int] = Counter()  # commands in guests, by project; only the event loop's thread touches it


@contextmanager
def _counted(project: int) -> Iterator[None]:
    """One more command of the project. Raises Unavailable when it has enough of them: others want to run some too."""
    if _running[project] >= COMMANDS_OF_A_PROJECT:
        raise Unavailable(
            f"{COMMANDS_OF_A_PROJECT} commands run in guests of this project already",
            hint="try again when one of them has ended",
        )
    _running[project] += 1
    try:
        yield
    finally:
        _running[project] -= 1
        if not _running[project]:
            del _running[project]


def _asked(request: Request | WebSocket) -> tuple[str, int]:
    return request.headers.get("authorization", ""), request.path_params["id"]


def _exec(server: Server, node: Node, wanted: Exec) -> GuestResult:
    return hypervisor(node).guest.exec(server.uuid, wanted.argv, wanted.stdin, wanted.timeout)


async def console(socket: WebSocket) -> None:
    """The serial port, bytes both ways. Errors close it with 4000 + HTTP's status, and the reason."""
    await socket.accept()
    try:
        server, node = await _in_thread(_server, *_asked(socket))
        stream = await hypervisor(node).streams.console(server.uuid)
    except Exception as e:
        said = known(e)
        await socket.close(4000 + said.status, _fits(said.message))
        return
    async with stream:
        await pump(socket, stream)
        await hang_up(socket, ENDED, "the server's console ended")


def _fits(reason: str) -> str:
    """A close frame has room for 123 bytes."""
    return reason.encode()[:120].decode(errors="ignore")


async def upload(request: Request) -> Response:
    """The disk of an announced image. It is hashed as it comes, and checked by the image's flow after."""
    try:
        image = await _in_thread(_awaited, *_asked(request))
        return JSONResponse(await _take(request.stream(), image), 202)
    except ClientDisconnect:
        return answer(ApiError(400, "invalid_input", "the upload was cut off"))
    except Exception as e:
        return answer(e)


def _awaited(authorization: str, id: int) -> Image:
    """The image, if the token may write to it and it waits for its content."""
    image = Image.objects.filter(project=_token(authorization).project, pk=id).first()
    if image is None:
        raise missing(f"image with ID '{id}'")
    with transaction.atomic():
        return _still_awaited(image)


def _still_awaited(image: Image) -> Image:
    """The row as it is now, locked until the transaction ends."""
    row = Image.objects.select_for_update().filter(pk=image.pk, delete_requested=False).first()
    if row is None:
        raise missing(f"image with ID '{image.pk}'")
    if row.state in ("ready", "building"):
        raise Conflict(f"image {row.name} already has its content")
    return row


async def _take(chunks: AsyncIterator[bytes], image: Image) -> dict[str, Any]:
    """Write what comes to a file, and give that to the image's flow. What is not taken is removed."""
    path = settings.STATE.uploads / f"image-{image.pk}"
    with await _in_thread(_open, path, image) as file:
        try:
            digest = await _receive(chunks, anyio.wrap_file(file))
            row, action = await _in_thread(_take_in, image, digest)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return {"image": images.shown(row).model_dump(mode="json"), "action": actions.shown(action).model_dump(mode="json")}


def _open(path: Path, image: Image) -> BinaryIO:
    """A private file, locked: a second upload at once is refused, and one after a crash takes the file over."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
            raise BlockingIOError
        with transaction.atomic():
            _still_awaited(image)  # before anything of a file is cut off that the image's flow reads
        file.truncate(0)
    except BlockingIOError:
        file.close()
        raise Conflict(f"image {image.name} is being uploaded by somebody else") from None
    except BaseException:
        file.close()
        raise
    return file


async def _receive(chunks: AsyncIterator[bytes], file: "anyio.AsyncFile[bytes]") -> str:
    """Write all of it. Returns its sha256. Raises ApiError 507 when the disk is full."""
    digest = hashlib.sha256()
    try:
        async for chunk in chunks:
            digest.update(chunk)
            await file.write(chunk)
        await file.flush()
    except OSError as e:
        raise ApiError(507, "disk_full", f"the upload could not be stored: {e.strerror}") from e
    return digest.hexdigest()


def _take_in(image: Image, digest: str) -> tuple[Image, Action]:
    """Have the image's flow check what came."""
    if image.expected_sha256 and digest != image.expected_sha256:
        raise invalid("sha256", f"what came has {digest}")
    with transaction.atomic():
        row = _still_awaited(image)
        action = image_flow.ask_take_in(row, correlation_id.get())
        row.refresh_from_db()
    return row, action


async def _in_thread(function: Callable[..., T], *args: Any, limiter: anyio.CapacityLimiter | None = None) -> T:
    """Run what uses the database in a thread, whose connection then goes back to the pool. The limiter says how many
    such threads there may be at once; by default all share one."""

    def run() -> T:
        try:
            return function(*args)
        finally:
            connections.close_all()

    return await anyio.to_thread.run_sync(run, limiter=limiter)


async def _not_allowed(request: Request, error: Exception) -> Response:
    """Starlette's own error of a wrong method, in our shape."""
    said = not_allowed(request.method)
    return JSONResponse(said.body, said.status, getattr(error, "headers", None))


app = Starlette(
    routes=[
        Route("/x/v1/servers/{id:int}/exec", run_in_guest, methods=["POST"]),
        Route("/x/v1/images/{id:int}/content", upload, methods=["PUT"]),
        WebSocketRoute("/x/v1/servers/{id:int}/console", console),
    ],
    exception_handlers={405: _not_allowed},
)
