"""Between a person's WebSocket and a stream of bytes: the node agent and the API both stand there.

Apart from the rest of `base`, so that only who serves WebSockets loads Starlette.
"""

import anyio
from anyio.abc import ByteStream
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

CHUNK = 64 * 1024  # bytes
ENDED = 1000  # RFC 6455, 7.4.1: a normal end
GOING_AWAY = 1001


async def pump(socket: WebSocket, stream: ByteStream) -> None:
    """Carry bytes both ways, as binary frames, until one side ends. Closes neither."""
    async with anyio.create_task_group() as group:
        group.start_soon(_to_stream, socket, stream, group.cancel_scope)
        await _to_person(socket, stream)
        group.cancel_scope.cancel()


async def hang_up(socket: WebSocket, code: int, reason: str) -> None:
    """Close the WebSocket, unless the other side has done so."""
    if socket.application_state is WebSocketState.CONNECTED and socket.client_state is WebSocketState.CONNECTED:
        await socket.close(code, reason)


async def _to_person(socket: WebSocket, stream: ByteStream) -> None:
    try:
        while True:
            await socket.send_bytes(await stream.receive(CHUNK))
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, WebSocketDisconnect):
        return
    except RuntimeError:  # Starlette's, when the person hung up while this was under way
        if socket.client_state is WebSocketState.CONNECTED and socket.application_state is WebSocketState.CONNECTED:
            raise


async def _to_stream(socket: WebSocket, stream: ByteStream, scope: anyio.CancelScope) -> None:
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                break
            await stream.send(message.get("bytes") or (message.get("text") or "").encode())
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    scope.cancel()
