"""A reverse proxy between a client and the API of a test: it forwards all, and holds each answer against the
description of the API where there is one (see `specification`). What it finds fails the test at its end.
"""

import asyncio
import contextlib
import re
import threading
from collections.abc import Iterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paddock.base import clock
from tests.clients.specification import Answer, Specification

START_SECONDS = 10.0
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "host", "content-length"}


class Oracle:
    """Listens on a port of the loopback interface, in a thread of its own, until `close`."""

    def __init__(self, upstream: str) -> None:
        self.specification = Specification.load()
        self.answers: list[Answer] = []
        self.violations: list[str] = []
        self._http = httpx.AsyncClient(base_url=upstream, timeout=60, trust_env=False)
        app = Starlette(routes=[Route("/{path:path}", self._forward, methods=METHODS)])
        self._server = uvicorn.Server(
            uvicorn.Config(app, port=0, log_level="error", lifespan="off", ws="none", timeout_keep_alive=75)
        )
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        end = clock.monotonic() + START_SECONDS
        while not self._server.started:
            assert self._thread.is_alive(), "the proxy did not start"
            assert clock.monotonic() < end, "the proxy does not start"
            clock.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def close(self) -> None:
        """End it."""
        self._server.should_exit = True
        self._thread.join(10)

    def check(self) -> None:
        """Fail when an answer was none that clients know; what was found is forgotten."""
        found, self.violations = list(dict.fromkeys(self.violations)), []
        assert not found, "answers that clients do not know:\n" + "\n".join(found)

    def asked(self, method: str, path: str) -> int:
        """How often that was asked; `path` is a regular expression."""
        return sum(a.method == method and bool(re.fullmatch(path, a.path)) for a in self.answers)

    def _serve(self) -> None:
        async def until_closed() -> None:
            await self._server.serve()
            await self._http.aclose()

        asyncio.run(until_closed())

    async def _forward(self, request: Request) -> Response:
        headers = [(k, v) for k, v in request.headers.items() if k not in HOP]
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        try:
            reply = await self._http.request(request.method, path, headers=headers, content=await request.body())
        except httpx.TransportError as error:
            self.violations.append(f"{request.method} {path}: {error!r}")
            return Response(f'{{"error":{{"code":"bad_gateway","message":"{type(error).__name__}"}}}}', 502)
        self._note(request, reply)
        kept = {k: v for k, v in reply.headers.items() if k not in HOP | {"content-encoding"}}
        return Response(reply.content, reply.status_code, kept)

    def _note(self, request: Request, reply: httpx.Response) -> None:
        path = re.sub("/{2,}", "/", request.url.path)
        if not path.startswith("/v1/"):
            return
        answer = Answer(
            request.method, path.removeprefix("/v1").rstrip("/"), reply.status_code,
            {k.lower(): v for k, v in reply.headers.items()}, reply.content,
        )  # fmt: skip
        self.answers.append(answer)
        if self.specification:
            self.violations += self.specification.violations(answer)


@contextlib.contextmanager
def oracle(upstream: str) -> Iterator[Oracle]:
    """A proxy for the time of the block; what it found by the end fails it."""
    made = Oracle(upstream)
    try:
        yield made
        made.check()
    finally:
        made.close()
