"""The ASGI application: streams by Starlette, everything else by Django."""

import os
from typing import cast

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "paddock.cloud.settings")

from django.core.asgi import get_asgi_application
from starlette.types import ASGIApp, Receive, Scope, Send

django_app = cast(ASGIApp, get_asgi_application())

from paddock.api.streams import app as streams

STREAMED = ("/exec", "/content", "/console")


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """One process, two kinds of requests."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "websocket" or scope["path"].endswith(STREAMED):
        await streams(scope, receive, send)
    else:
        await django_app(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
