"""From an HTTP request to a call of a plain function in a thread, and from its result or error to a reply."""

import errno
import logging
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from paddock.base import clock
from paddock.base.errors import (
    Conflict,
    DiskFull,
    Invalid,
    NotFound,
    PaddockError,
    PortTaken,
    Refused,
    StaleEpoch,
    Unavailable,
    to_wire,
)
from paddock.base.ids import new_correlation_id
from paddock.base.log import correlation_id
from paddock.hypervisor.wire import CORRELATION_HEADER, EPOCH
from paddock.machine.spec import Frozen

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=BaseModel)

MAX_BODY = 1024 * 1024  # bytes
MAX_TIME = 2.0**40  # seconds of unix time
STATUS: dict[type[PaddockError], int] = {
    Invalid: 422, NotFound: 404, Conflict: 409, StaleEpoch: 409, PortTaken: 409, DiskFull: 507, Refused: 424,
    Unavailable: 503,
}  # fmt: skip


class ErrorReply(Frozen):
    """The body of every reply that is not a success."""

    error: dict[str, str]


@dataclass(frozen=True)
class Call:
    """A request, as the function that answers it sees it."""

    request: HTTPConnection
    body: bytes = b""

    @property
    def machine(self) -> UUID:
        return self._uuid("uuid")

    @property
    def volume(self) -> UUID:
        return self._uuid("uuid")

    @property
    def snapshot(self) -> UUID:
        return self._uuid("snapshot")

    @property
    def point(self) -> UUID:
        return self._uuid("point")

    @property
    def warm(self) -> str:
        """The id of a warm image. Raises Invalid for what could lead elsewhere: it names a directory."""
        id: str = self.request.path_params["warm"]
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", id):
            raise Invalid(f"{id[:64]!r} is not the id of a warm image", field="id")
        return id

    def _uuid(self, name: str) -> UUID:
        uuid = self.request.path_params[name]
        assert isinstance(uuid, UUID)
        return uuid

    @property
    def epoch(self) -> int:
        """The caller's epoch. Raises Invalid."""
        return self.whole_number(EPOCH, None)

    def whole_number(self, name: str, default: int | None) -> int:
        """A query parameter. Raises Invalid when it is missing without a default, or no whole number."""
        text = self.request.query_params.get(name)
        if text is None and default is not None:
            return default
        if text is None or not text.removeprefix("-").isdecimal():
            raise Invalid(f"query parameter {name} must be a whole number, not {text!r}", field=name)
        return int(text)

    def text(self, name: str) -> str:
        """A query parameter. Raises Invalid when it is missing."""
        if text := self.request.query_params.get(name):
            return text
        raise Invalid(f"query parameter {name} is missing", field=name)

    def seconds(self, name: str, default: float, most: float) -> float:
        """A query parameter in seconds, cut to 0..most. Raises Invalid."""
        text = self.request.query_params.get(name, str(default))
        try:
            given = float(text)
        except ValueError:
            given = math.nan
        if math.isnan(given):
            raise Invalid(f"query parameter {name} must be a number of seconds, not {text!r}", field=name)
        return min(max(given, 0.0), most)

    def time(self, name: str) -> float:
        """A query parameter that is a unix time. Raises Invalid."""
        if name not in self.request.query_params:
            raise Invalid(f"query parameter {name} is missing: it is a unix time", field=name)
        return self.seconds(name, 0, MAX_TIME)

    def parsed(self, model: type[Model]) -> Model:
        """The body. Raises Invalid naming the field, and never shows the value: it may be a secret."""
        try:
            return model.model_validate_json(self.body)
        except ValidationError as e:
            first = e.errors(include_input=False, include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise Invalid(f"{field or 'body'}: {first['msg']}", field=field) from e


Answer = Callable[[Call], BaseModel | str | None]
Endpoint = Callable[[Request], Awaitable[Response]]


def answered(function: Answer, limiter: CapacityLimiter, change: str = "") -> Endpoint:
    """An endpoint that runs `function` in a thread; a change has a name, and is logged with its outcome."""

    def work(call: Call) -> Response:
        start = clock.monotonic()
        try:
            response = success(function(call))
        except (PaddockError, OSError) as e:
            error = explained(e)
            _note(call, change, start, str(error))
            return failure(error)
        _note(call, change, start, "")
        return response

    async def endpoint(request: Request) -> Response:
        correlate(request)
        try:
            call = Call(request, await _body(request))
        except PaddockError as e:
            return failure(e)
        return await to_thread.run_sync(work, call, limiter=limiter)

    return endpoint


def correlate(connection: HTTPConnection) -> None:
    """Log under the caller's id from here on."""
    given = connection.headers.get(CORRELATION_HEADER, "")
    correlation_id.set(given if given.isalnum() and len(given) <= 64 else new_correlation_id())


def success(answer: BaseModel | str | None) -> Response:
    """The reply with an answer: a model as JSON, text as text, nothing as 204."""
    if answer is None:
        return Response(status_code=204)
    if isinstance(answer, str):
        return Response(answer, media_type="text/plain; charset=utf-8")
    return Response(answer.model_dump_json(), media_type="application/json")


def failure(error: PaddockError) -> Response:
    """The reply that tells of an error."""
    status = next((STATUS[cls] for cls in type(error).__mro__ if cls in STATUS), 500)
    body = ErrorReply(error=to_wire(error)).model_dump_json()
    return Response(body, status, media_type="application/json")


def explained(error: PaddockError | OSError) -> PaddockError:
    """The error for the caller. A full disk can stop any write; whatever else the host refuses is a bug of ours."""
    if isinstance(error, PaddockError):
        return error
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    return DiskFull(
        f"the file system of the node's state directory is full: {error}",
        hint="remove machines or images, or give it more room",
    )


def bug(_request: Request, error: Exception) -> Response:
    """The reply to what cannot happen. (Starlette raises it again, and uvicorn logs it.)"""
    return failure(PaddockError(f"BUG: {type(error).__name__}: {error}", hint="the node agent's log has the traceback"))


def no_route(request: Request, error: Exception) -> Response:
    """The reply for a path or a method that there is not."""
    detail = error.detail if isinstance(error, HTTPException) else str(error)
    return failure(NotFound(f"the node agent has no {request.method} {request.url.path}: {detail}"))


def _note(call: Call, change: str, start: float, problem: str) -> None:
    if not change:
        return
    named = call.request.path_params
    what = named.get("uuid") or named.get("sha256") or named.get("warm") or named.get("point")
    text = "%s %s epoch=%s: %s after %.3f s"
    level = logging.WARNING if problem else logging.INFO
    epoch = call.request.query_params.get(EPOCH, "-")
    log.log(level, text, change, what, epoch, problem or "done", clock.monotonic() - start)


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise Invalid(f"the request's body is larger than {MAX_BODY} bytes")
        parts.append(part)
    return b"".join(parts)
