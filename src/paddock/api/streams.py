"""What flows: consoles, screens, commands in guests, uploads. A Starlette app beside Django: a person may look for
hours.
"""

from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints, ValidationError, ValidationInfo, field_validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from paddock.api import guest_exec
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

MOST_SECONDS = 600.0  # of a command whose output comes at its end


class Exec(BaseModel):
    """A command for a guest: program and arguments, what it reads, and the seconds it may take."""

    argv: tuple[Annotated[str, StringConstraints(pattern="^[^\\x00]*$")], ...] = Field(min_length=1, max_length=256)
    stdin: str = ""
    stream: bool = Field(default=False, description="Answer with lines of JSON while it runs.")
    timeout: float = Field(default=30, gt=0, le=24 * 3600, description="Seconds; at most 600 without `stream`.")

    @field_validator("timeout")
    @classmethod
    def _short(cls, value: float, info: ValidationInfo) -> float:
        if value > MOST_SECONDS and not info.data.get("stream"):
            raise ValueError(f"may be {MOST_SECONDS:g} at most without `stream`")
        return value


async def run_in_guest(request: Request) -> Response:
    """Run a command in the guest by its guest agent, and answer with what it left behind. With `stream` the answer is
    lines of JSON while it runs: `{"stream": "stdout", "data": BASE64}`, `{}` now and then, and at the end
    `{"exit_code": 0}` or `{"error": {}}`; who hangs up ends the command."""
    try:
        row, node = await in_thread(server, *_asked(request))
        if HEADER in request.headers:
            why = f"what a command does in a guest can't be undone with a transaction: ask without {HEADER}"
            raise ApiError(422, "unsupported_error", why)
        wanted = Exec.model_validate_json(await request.body())
        if wanted.stream:
            return await _streamed(row, node, wanted)
        with counted(row.project_id):
            result = await in_guest(_exec, row, node, wanted)
        return JSONResponse(result.model_dump(mode="json"))
    except ValidationError as e:
        return answer(from_pydantic(e.errors()))
    except Exception as e:
        return answer(e)


async def _streamed(row: Server, node: Node, wanted: Exec) -> Response:
    async with AsyncExitStack() as stack:
        stack.enter_context(counted(row.project_id))
        running = await in_guest(guest_exec.start, hypervisor(node).guest, row.uuid, wanted.argv, wanted.stdin)
        return guest_exec.Streamed(running, wanted.timeout, stack.pop_all())


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


async def vnc(socket: WebSocket) -> None:
    """The screen, as its own VNC server speaks (RFB): for who has a token, and without another password."""
    await socket.accept()
    try:
        row, node = await in_thread(server, *_asked(socket))
        stream = await hypervisor(node).streams.vnc(row.uuid)
    except Exception as e:
        await close(socket, e)
        return
    async with stream:
        await pump(socket, stream)
        await hang_up(socket, ENDED, "the server's screen ended")


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
        WebSocketRoute("/x/v1/servers/{id:int}/vnc", vnc),
        WebSocketRoute("/x/v1/console/{secret}", screen),
    ],
    exception_handlers={405: _not_allowed},
)
