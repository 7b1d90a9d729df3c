"""Every route there is, from the URL conf and from the Starlette app, and how tests knock at one."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from ninja.operation import PathView
from starlette.routing import Route as HttpRoute
from starlette.routing import WebSocketRoute
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from paddock.api import streams
from tests.api.live import LiveApi


@dataclass(frozen=True)
class Answer:
    """A status and a text; a console's close code counts as the status that it stands for."""

    status: int
    text: str


def all_routes() -> set[str]:
    """`GET /v1/servers/{id}` and so on; `WS` for WebSockets."""
    return {*_of_django(get_resolver().url_patterns, "/"), *_of_starlette()}


def _of_django(patterns: list[URLPattern | URLResolver], prefix: str) -> Iterator[str]:
    for pattern in patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _of_django(pattern.url_patterns, path)
        elif path != "/":  # what answers "api route not found"
            template = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path)
            yield from (f"{method} {template}" for method in _methods(pattern.callback))


def _methods(view: Any) -> set[str]:
    """Of a view that ninja made; any other is asked for a case as `ANY`."""
    for cell in getattr(view, "__closure__", None) or ():
        if isinstance(cell.cell_contents, PathView):
            return {m for operation in cell.cell_contents.operations for m in operation.methods}
    return {"ANY"}


def _of_starlette() -> Iterator[str]:
    for route in streams.app.routes:
        if isinstance(route, HttpRoute):
            for method in (route.methods or set()) - {"HEAD"}:
                yield f"{method} {route.path.replace(':int', '')}"
        elif isinstance(route, WebSocketRoute):
            yield f"WS {route.path.replace(':int', '')}"
        else:
            yield f"ANY {route}"


class Door:
    """Where tests knock: Django in this process, streams at an API that is really served."""

    def __init__(self, live: LiveApi) -> None:
        self.live, self.client = live, Client(raise_request_exception=False)

    def knock(self, route: str, token: str | None, body: Any = None, **ids: Any) -> Answer:
        """Ask a route with these ids in its path."""
        method, template = route.split(" ", 1)
        path, headers = template.format(**ids), {"Authorization": f"Bearer {token}"} if token else {}
        if method == "WS":
            return self._websocket(path, headers)
        if path.partition("?")[0].endswith(("/exec", "/content", "/files")):
            response = self.live.http.request(method, path, headers=headers, json=body or {})
            return Answer(response.status_code, response.text)
        content = json.dumps(body or {}).encode()
        said = self.client.generic(method, path, content, "application/json", headers=headers)
        return Answer(said.status_code, said.content.decode())

    def _websocket(self, path: str, headers: dict[str, str]) -> Answer:
        with (
            connect(self.live.websocket + path, additional_headers=headers, proxy=None) as socket,
            pytest.raises(ConnectionClosed) as closed,
        ):
            socket.recv(timeout=5)
        said = closed.value.rcvd
        return Answer(said.code - 4000, said.reason) if said else Answer(0, "closed without a word")
