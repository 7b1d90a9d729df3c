"""The ASGI application: streams by Starlette, everything else by Django."""

import os
import re
from typing import cast

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "paddock.cloud.settings")

from django.core.asgi import get_asgi_application
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

django_app = cast(ASGIApp, get_asgi_application())

from paddock.api import rates
from paddock.api.errors import MAX_BODY, too_large
from paddock.api.middleware import note, one_slash
from paddock.api.streaming import answer
from paddock.api.streams import app as streams
from paddock.base.ids import new_correlation_id
from paddock.base.log import correlation_id

CONSOLE = re.compile(r"/x/v1/servers/\d{1,16}/(console|vnc)")
EXEC = re.compile(r"/x/v1/servers/\d{1,16}/exec")
SCREEN = re.compile(r"/x/v1/console/[\w-]{1,64}")
UPLOAD = re.compile(r"/x/v1/(images|isos)/\d{1,16}/content|/x/v1/servers/\d{1,16}/files")


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """One process, two kinds of requests."""
    if scope["type"] == "lifespan":
        return await _lifespan(receive, send)
    path = one_slash(scope["path"])
    streamed = {**scope, "path": path}
    if scope["type"] == "websocket":
        if CONSOLE.fullmatch(path) or SCREEN.fullmatch(path):
            return await _with_id(streams, streamed, receive, send)
        return await send({"type": "websocket.close", "code": 4404, "reason": "api route not found"})
    if UPLOAD.fullmatch(path):  # only an upload may be as long as it likes
        return await _with_id(streams, streamed, receive, send)
    body = await _body(receive)
    if body is None:
        return await _with_id(answer(too_large()), scope, receive, send)
    if EXEC.fullmatch(path):
        return await _with_id(streams, streamed, _once(body, receive), send)
    return await django_app(scope, _once(body, receive), send)


async def _body(receive: Receive) -> bytes | None:
    """The whole body, read before Django would put it on the disk; None when it is too long, or was cut off."""
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > MAX_BODY:
            return None
        if not message.get("more_body"):
            return b"".join(chunks)


def _once(body: bytes, receive: Receive) -> Receive:
    """The body again, and then whatever comes."""
    waiting = [body]

    async def again() -> Message:
        return {"type": "http.request", "body": waiting.pop(), "more_body": False} if waiting else await receive()

    return again


async def _with_id(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Give a request that Django does not see what Envelope gives those that it sees: a correlation id, and the rate
    limit's headers."""
    id = new_correlation_id()
    token, said = correlation_id.set(id), {"X-Correlation-Id": id}
    counted = rates.headers.set(said)  # threads get a copy of the context, but the same dictionary

    async def send_with_id(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            MutableHeaders(scope=message).update(said)
        if message["type"] == "http.response.start":
            note(scope["method"], scope["path"], message["status"])
        await send(message)

    try:
        await app(scope, receive, send_with_id)
    finally:
        rates.headers.reset(counted)
        correlation_id.reset(token)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
