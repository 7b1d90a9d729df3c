"""What flows: consoles, screens, commands in guests, uploads. A Starlette app beside Django: a person may look for
hours.
"""

from functools import partial
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from paddock.api.errors import ApiError, from_pydantic, not_allowed
from paddock.api.guest_files import guest_file
from paddock.api.guest_work import counted, in_guest
from paddock.api.idempotency import HEADER
from paddock.api.lasting import Lasting
from paddock.api.screen import screen
from paddock.api.streaming import answer, close, in_thread, server
from paddock.api.uploads import image_content, iso_content
from paddock.base.errors import Invalid
from paddock.base.pump import ENDED, hang_up, pump
from paddock.cloud.models import Node, Server
from paddock.cloud.nodes import hypervisor
from paddock.machine.state import GuestResult


class Exec(BaseModel):
    """A command for a guest: program and arguments, what it reads, and the seconds it may take."""

    argv: tuple[Annotated[str, StringConstraints(pattern="^[^\\x00]*$")], ...] = Field(min_length=1, max_length=256)
    stdin: str = ""
    timeout: float = Field(default=30, gt=0, le=600)


async def run_in_guest(request: Request) -> Response:
    """Run a command in the guest by its guest agent, and answer with what it left behind."""
    try:
        row, node = await in_thread(server, *_asked(request))
        if HEADER in request.headers:
            why = f"what a command does in a guest can't be undone with a transaction: ask without {HEADER}"
            raise ApiError(422, "unsupported_error", why)
        wanted = Exec.model_validate_json(await request.body())
        with counted(row.project_id):
            result = await in_guest(_exec, row, node, wanted)
        return JSONResponse(result.model_dump(mode="json"))
    except ValidationError as e:
        return answer(from_pydantic(e.errors()))
    except Exception as e:
        return answer(e)


def _exec(server: Server, node: Node, wanted: Exec) -> GuestResult:
    return hypervisor(node).guest.exec(server.uuid, wanted.argv, wanted.stdin, wanted.timeout)


async def console(socket: WebSocket) -> None:
    """The serial port, bytes both ways, for any number of people at once. Errors close it with 4000 + HTTP's status,
    and the reason."""
    await socket.accept()
    try:
        row, node = await in_thread(server, *_asked(socket))
        source, past = hypervisor(node).streams, _scrollback(socket)
        stream = await source.console(row.uuid, past)
    except Exception as e:
        await close(socket, e)
        return
    reopen, written = partial(source.console, row.uuid), partial(source.console_log, row.uuid)
    async with Lasting(stream, reopen, written) as stream:
        await pump(socket, stream)
        await hang_up(socket, ENDED, "the server's console ended")


def _scrollback(socket: WebSocket) -> int:
    """How many of its last bytes are wanted first. Raises Invalid."""
    text = socket.query_params.get("scrollback", "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise Invalid(f"scrollback must be a number of bytes, not {text!r}", field="scrollback")
    return int(text)


def _asked(request: Request | WebSocket) -> tuple[str, int]:
    return request.headers.get("authorization", ""), request.path_params["id"]


async def _not_allowed(request: Request, error: Exception) -> Response:
    """Starlette's own error of a wrong method, in our shape."""
    said = not_allowed(request.method)
    return JSONResponse(said.body, said.status, getattr(error, "headers", None))


app = Starlette(
    routes=[
        Route("/x/v1/servers/{id:int}/exec", run_in_guest, methods=["POST"]),
        Route("/x/v1/servers/{id:int}/files", guest_file, methods=["GET", "PUT"]),
        Route("/x/v1/images/{id:int}/content", image_content, methods=["GET", "PUT"]),
        Route("/x/v1/isos/{id:int}/content", iso_content, methods=["GET", "PUT"]),
        WebSocketRoute("/x/v1/servers/{id:int}/console", console),
        WebSocketRoute("/x/v1/console/{secret}", screen),
    ],
    exception_handlers={405: _not_allowed},
)
