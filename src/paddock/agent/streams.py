"""A machine's console or screen over a WebSocket: binary frames, both ways."""

import logging
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import ByteStream
from starlette.websockets import WebSocket

from paddock.agent.calls import Call, correlate, failure
from paddock.base.errors import PaddockError
from paddock.base.pump import ENDED, GOING_AWAY, hang_up, pump

log = logging.getLogger(__name__)

Opener = Callable[[Call], Awaitable[ByteStream]]


class Streams:
    """Opens streams for WebSockets, and ends them all when the agent stops."""

    def __init__(self) -> None:
        self._open: set[anyio.CancelScope] = set()
        self._stopped = False

    def endpoint(self, opener: Opener, what: str) -> Callable[[WebSocket], Awaitable[None]]:
        """A WebSocket endpoint over the streams that `opener` opens. An error answers the handshake."""

        async def serve(socket: WebSocket) -> None:
            correlate(socket)
            call = Call(socket)
            machine = call.machine
            try:
                stream = await opener(call)
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
        with anyio.CancelScope() as scope:
            self._open.add(scope)
            try:
                await pump(socket, stream)
            finally:
                self._open.discard(scope)
        code, reason = (GOING_AWAY, "the node agent stops") if self._stopped else (ENDED, "the machine hung up")
        await hang_up(socket, code, reason)
