"""A server's screen in a browser: a WebSocket that noVNC speaks RFB over, opened by a secret address and a password.

The node is never reachable from the browser: we are the server to the one and the client to the other.
"""

import logging

import anyio
from anyio.abc import ByteStream
from starlette.websockets import WebSocket

from paddock.api.errors import ApiError, known
from paddock.api.streaming import close, in_thread
from paddock.api.x.console import open_session
from paddock.base import rfb
from paddock.base.errors import PaddockError
from paddock.base.pump import CHUNK, ENDED, hang_up, pump
from paddock.cloud.models import Node, Server
from paddock.cloud.nodes import hypervisor

log = logging.getLogger(__name__)
HANDSHAKE = 20.0  # seconds for it: the password comes with the address, so nobody has to type it
PROTOCOL = "binary"  # that older clients offer, and want chosen


async def screen(socket: WebSocket) -> None:
    """Show the screen of the session's server."""
    await socket.accept(PROTOCOL if PROTOCOL in socket.scope.get("subprotocols", ()) else None)
    try:
        server, node, password = await in_thread(open_session, socket.path_params["secret"])
    except Exception as e:
        await close(socket, e)
        return
    try:
        await _show(socket, server, node, password)
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, TimeoutError) as e:
        await close(socket, ApiError(408, "timeout", f"the handshake was not ended: {type(e).__name__}"))
    except (ApiError, PaddockError) as e:
        await close(socket, e)


async def _show(socket: WebSocket, server: Server, node: Node, password: str) -> None:
    browser = rfb.Line(lambda: _receive(socket), socket.send_bytes)
    with anyio.fail_after(HANDSHAKE):
        if not await rfb.asks_password(browser, password):
            await rfb.turn_away(browser, "the password is wrong; this address is used now: ask for a new console")
            raise ApiError(401, "unauthorized", "the password is wrong")
        stream, screen = await _connected(browser, server, node)
    async with stream:
        log.info("the screen of server %d is shown", server.pk)
        if browser.rest:
            await stream.send(browser.rest)
        if screen.rest:
            await socket.send_bytes(screen.rest)
        await pump(socket, stream)
        await hang_up(socket, ENDED, "the server's screen ended")


async def _connected(browser: rfb.Line, server: Server, node: Node) -> tuple[ByteStream, rfb.Line]:
    """The server's screen, its handshake done and the browser admitted. The browser is told why if that fails."""
    try:
        stream = await hypervisor(node).streams.vnc(server.uuid)
        screen = rfb.Line(lambda: stream.receive(CHUNK), stream.send)
        try:
            await rfb.enter(screen)
        except BaseException:
            await stream.aclose()
            raise
    except PaddockError as e:
        await rfb.turn_away(browser, known(e).message)
        raise
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        await rfb.turn_away(browser, "the server's screen was closed")
        raise
    await rfb.admit(browser)
    return stream, screen


async def _receive(socket: WebSocket) -> bytes:
    """The next bytes from the browser. Raises EndOfStream when it has gone."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise anyio.EndOfStream
    return message.get("bytes") or (message.get("text") or "").encode()
