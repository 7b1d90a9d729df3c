"""`paddock vnc`: a server's screen on a port of this machine's loopback, for the length of the session.

Whoever is on this machine may reach that port, so it asks for a password, which is new each time.
"""

import asyncio
import os
import shutil
import socket
from pathlib import Path
from typing import Annotated

import anyio
import typer
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from paddock.base import rfb
from paddock.base.errors import Conflict, PaddockError, Refused, Unavailable
from paddock.base.ids import new_password
from paddock.base.run import spawn
from paddock.cli import lookup
from paddock.cli.client import Api, Json
from paddock.cli.output import clean, stderr
from paddock.cli.server import PANEL, Server
from paddock.cli.session import api_of

HOST = "127.0.0.1"
PORTS = range(5900, 6000)
HANDSHAKE = 120.0  # seconds: a person may be typing the password
WRONG = 1.0  # seconds that a wrong password costs
PASSWORD = 8  # characters: VNC looks at no more
LOOK = 0.3  # seconds between looks at the viewer
CHUNK = 65536
VIEWERS = ("vncviewer", "xtigervncviewer", "gvncviewer", "remote-viewer", "vinagre", "krdc")
_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, ConnectionClosed, ConnectionError)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("vnc", rich_help_panel=PANEL)(vnc)


def vnc(
    ctx: typer.Context,
    server: Server,
    port: Annotated[
        int | None, typer.Option(min=1024, max=65535, help="Of this machine; else the first free of 5900 to 5999.")
    ] = None,
    viewer: Annotated[str, typer.Option(help="A program to show it with; else one that is installed.")] = "",
    no_viewer: Annotated[bool, typer.Option("--no-viewer", help="Only print the address.")] = False,
) -> None:
    """Show a server's screen in a VNC viewer, until that or Ctrl-C ends it.

    Without a viewer (or a desktop) the address and the password are printed, for a viewer of
    your choice on this machine. Both are good until the command ends.

    Examples:
      paddock vnc web
      paddock vnc web --no-viewer --port 5999
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    program = "" if no_viewer else _viewer(viewer)
    listener = _listener(port)
    password = new_password(PASSWORD)
    number = int(listener.getsockname()[1])
    print(f"address:  {HOST}:{number}\npassword: {password}", flush=True)
    stderr().print(f"The screen of {thing['name']} is there until " + ("the viewer or " if program else "") + "Ctrl-C.")
    try:
        asyncio.run(Session(api, thing, password).serve(listener, program, number))
    except KeyboardInterrupt:
        stderr().print("the port is closed; the server goes on")


def _listener(port: int | None) -> socket.socket:
    """A socket on the port, or on the first that is free. Raises Conflict."""
    for number in [port] if port else PORTS:
        try:
            return socket.create_server((HOST, number), backlog=5)
        except OSError:
            continue
    raise Conflict(f"port {port or '5900 to 5999'} of {HOST} is in use", hint="--port names another")


def _viewer(wanted: str) -> str:
    """The program to show it with; empty for none. Raises Refused for one that is not installed."""
    if wanted:
        if found := shutil.which(wanted):
            return found
        raise Refused(f"{wanted} is not installed", hint="--no-viewer prints the address")
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return ""
    return next((path for name in VIEWERS if (path := shutil.which(name))), "")


def viewer_argv(program: str, port: int) -> list[str]:
    """How a viewer is told where to look. The password goes by its environment, where it takes one from there."""
    name = Path(program).name
    if name == "gvncviewer":
        return [program, f"{HOST}:{port - PORTS.start}"]
    if name in ("remote-viewer", "vinagre", "krdc"):
        return [program, f"vnc://{HOST}:{port}"]
    return [program, f"{HOST}::{port}"]


class Session:
    """The screen of one server, for any number of viewers."""

    def __init__(self, api: Api, thing: Json, password: str) -> None:
        self._api, self._password, self._name = api, password, thing["name"]
        self._address = f"ws{api.endpoint.removeprefix('http')}/x/v1/servers/{thing['id']}/vnc"

    async def serve(self, listener: socket.socket, program: str, port: int) -> None:
        """Let viewers in until the program that shows it ends."""
        async with await asyncio.start_server(self._guarded, sock=listener):
            if not program:
                await asyncio.Event().wait()
            shown = spawn(viewer_argv(program, port), output=Path(os.devnull), env={"VNC_PASSWORD": self._password})
            while shown.poll() is None:
                await asyncio.sleep(LOOK)

    async def _guarded(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._show(reader, writer)
        except (PaddockError, TimeoutError) as e:
            stderr().print(f"a viewer was turned away: {clean(str(e) or 'it did not log in in time')}")
        except _GONE:
            pass
        finally:
            writer.close()

    async def _show(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        viewer = rfb.Line(lambda: _received(reader), lambda data: _sent(writer, data))
        async with asyncio.timeout(HANDSHAKE):
            if not await rfb.asks_password(viewer, self._password):
                await asyncio.sleep(WRONG)
                await rfb.turn_away(viewer, "the password is wrong")
                raise Refused("the password is wrong")
        try:
            connection, screen = await self._connected()
        except PaddockError as e:
            await rfb.turn_away(viewer, e.message)
            raise
        async with connection:
            await rfb.admit(viewer)
            await _sent(writer, screen.rest)
            if viewer.rest:
                await connection.send(viewer.rest)
            await _pump(reader, writer, connection)

    async def _connected(self) -> tuple[ClientConnection, rfb.Line]:
        """The server's screen, its handshake done. Raises Unavailable, Refused."""
        header = {"Authorization": f"Bearer {self._api.token}"}
        try:
            connection = await connect(
                self._address, additional_headers=header, proxy=None if self._api.local else True, max_size=None,
                open_timeout=10, close_timeout=2, ssl=self._api.tls, compression=None,
            )  # fmt: skip
        except (OSError, InvalidHandshake) as e:
            raise Unavailable(f"the screen of {self._name} could not be opened: {e}") from e
        screen = rfb.Line(lambda: connection.recv(decode=False), connection.send)
        try:
            await rfb.enter(screen)
        except ConnectionClosed as e:
            why = e.rcvd.reason if e.rcvd else "the connection was cut"
            raise Unavailable(f"the screen of {self._name} can't be shown: {why}") from e
        except BaseException:
            await connection.close()
            raise
        return connection, screen


async def _received(reader: asyncio.StreamReader) -> bytes:
    if data := await reader.read(CHUNK):
        return data
    raise anyio.EndOfStream


async def _sent(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: ClientConnection) -> None:
    """Carry bytes both ways until one side ends."""

    async def typed() -> None:
        while data := await reader.read(CHUNK):
            await connection.send(data)

    async def shown() -> None:
        async for data in connection:
            await _sent(writer, data if isinstance(data, bytes) else data.encode())

    tasks = [asyncio.create_task(typed()), asyncio.create_task(shown())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
