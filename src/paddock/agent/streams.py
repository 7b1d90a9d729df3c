"""A machine's console or screen over a WebSocket: binary frames, both ways."""

import logging
from collections.abc import Awaitable, Callable
from uuid import UUID

import anyio
from anyio.abc import ByteStream
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from paddock.agent.calls import correlate, failure
from paddock.base.errors import PaddockError

log = logging.getLogger(__name__)

CHUNK = 64 * 1024  # bytes
ENDED = 1000  # RFC 6455, 7.4.1: a normal end
GOING_AWAY = 1001

Opener = Callable[[UUID], Awaitable[ByteStream]]


class Streams:
    """Opens streams for WebSockets, and ends them all when the agent stops."""

    def __init__(self) -> None:
        self._open: set[anyio.CancelScope] = set()
        self._stopped = False

    def endpoint(self, opener: Opener, what: str) -> Callable[[WebSocket], Awaitable[None]]:
        """A WebSocket endpoint over the streams that `opener` opens. An error answers the handshake."""

        async def serve(socket: WebSocket) -> None:
            correlate(socket)
            machine: UUID = socket.path_params["uuid"]
            try:
                stream = await opener(machine)
            except PaddockError as e:
                log.info("%s of %s refused: %s", what, machine, e)
                await socket.send_denial_response(failure(e))
                return
            log.info("%s of %s opened", what, machine)
            async with stream:
                await socket.accept()
                await self._join(socket, stream)
            log.info("%s of %s closed", what, machine)

        return serve

    def stop(self) -> None:
        """End all streams; their readers connect again later."""
        self._stopped = True
        for scope in self._open:
            scope.cancel()

    async def _join(self, socket: WebSocket, stream: ByteStream) -> None:
        async with anyio.create_task_group() as tasks:
            self._open.add(tasks.cancel_scope)
            tasks.start_soon(_to_machine, socket, stream, tasks.cancel_scope)
            try:
                await _to_person(socket, stream)
            finally:
                self._open.discard(tasks.cancel_scope)
                tasks.cancel_scope.cancel()
        if socket.application_state is WebSocketState.CONNECTED and socket.client_state is WebSocketState.CONNECTED:
            code, reason = (GOING_AWAY, "the node agent stops") if self._stopped else (ENDED, "the machine hung up")
            await socket.close(code, reason)


async def _to_person(socket: WebSocket, stream: ByteStream) -> None:
    try:
        while True:
            await socket.send_bytes(await stream.receive(CHUNK))
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, WebSocketDisconnect):
        return


async def _to_machine(socket: WebSocket, stream: ByteStream, scope: anyio.CancelScope) -> None:
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                break
            await stream.send(message.get("bytes") or (message.get("text") or "").encode())
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    scope.cancel()
