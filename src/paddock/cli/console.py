"""`paddock console`: a server's serial port on this terminal, over a WebSocket.

The terminal is raw in between and always put back. Without a terminal, stdin is sent and what comes is printed.
"""

import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from paddock.base import clock
from paddock.base.errors import NotFound, Refused, Unavailable
from paddock.cli import lookup
from paddock.cli.client import Api
from paddock.cli.output import stderr
from paddock.cli.server import PANEL, Server
from paddock.cli.session import api_of

DETACH = b"\x1d"  # Ctrl-]
CHUNK = 65536
SCROLLBACK = 8192  # bytes


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("console", rich_help_panel=PANEL)(console)


def console(
    ctx: typer.Context,
    server: Server,
    timeout: Annotated[
        float, typer.Option(min=0, help="Without a terminal: end when nothing came for so many seconds after stdin.")
    ] = 2.0,
    watch: Annotated[bool, typer.Option("--watch", help="Only look: no key but Ctrl-] is sent.")] = False,
    scrollback: Annotated[
        int | None,
        typer.Option(min=0, max=65536, help="Bytes of the past to show first: 8192 on a terminal, else none."),
    ] = None,
) -> None:
    """Open a server's serial console. Ctrl-] leaves it; the server goes on.

    Any number of people may have it open at once: all see the same, and all may type. It
    goes on when its node's agent is restarted.

    In a script, stdin is typed into it and its output printed, until stdin has ended and
    nothing came for --timeout seconds.

    Examples:
      paddock console web
      paddock console web --watch
      printf 'uptime\\n' | paddock console web --timeout 5
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    past = (SCROLLBACK if terminal else 0) if scrollback is None else scrollback
    with _connected(api, int(thing["id"]), past) as socket:
        if terminal:
            wake = "your keys are not sent" if watch else "Enter may wake it up"
            stderr().print(f"Connected to {thing['name']}. Ctrl-] leaves; {wake}.")
            with raw_terminal(sys.stdin.fileno()):
                left = _pump(socket, timeout=None, watch=watch)
            stderr().print("\nleft the console" if left else f"\nthe console ended: {_why(socket)}")
            stderr().print(f"come back with: paddock console {thing['name']}")
        else:
            left = _pump(socket, timeout=timeout)
    if not left:
        raise Unavailable(f"the console of {thing['name']} ended: {_why(socket)}")


@contextmanager
def _connected(api: Api, server: int, scrollback: int) -> Iterator[ClientConnection]:
    address = f"ws{api.endpoint.removeprefix('http')}/x/v1/servers/{server}/console?scrollback={scrollback}"
    header = {"Authorization": f"Bearer {api.token}"}
    try:
        socket = connect(
            address, additional_headers=header, proxy=None if api.local else True, max_size=None, open_timeout=10,
            close_timeout=2, ssl=api.tls,
        )  # fmt: skip
    except InvalidStatus as e:
        kind = NotFound if e.response.status_code == 404 else Refused
        raise kind(f"the console was refused with HTTP {e.response.status_code}", hint="is the server running?") from e
    except (OSError, InvalidHandshake) as e:
        raise Unavailable(f"the console could not be opened: {e}", hint="`paddock status` shows what runs") from e
    with socket:
        yield socket


@contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """A terminal that sends every key as it is; put back on any way out, a SIGTERM or hang-up included."""
    before = termios.tcgetattr(fd)
    signals = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        for number, handler in signals.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


class _Reader(threading.Thread):
    """Prints what comes, and remembers when something last came."""

    def __init__(self, socket: ClientConnection) -> None:
        super().__init__(daemon=True)
        self._socket = socket
        self.last = clock.monotonic()
        self.ended, self._ended = os.pipe()

    def run(self) -> None:
        try:
            for message in self._socket:
                _write(message if isinstance(message, bytes) else message.encode())
                self.last = clock.monotonic()
        except (ConnectionClosed, OSError):
            pass
        finally:
            os.close(self._ended)


@contextmanager
def _signals() -> Iterator[int]:
    """A file descriptor that is readable once a signal came: one that comes just before select would wake nobody."""
    waker, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield waker
    finally:
        signal.set_wakeup_fd(before)
        os.close(waker)
        os.close(wake)


def _pump(socket: ClientConnection, timeout: float | None, watch: bool = False) -> bool:
    """Carry bytes both ways. True when we left, False when the other side ended it.

    With `timeout` (seconds) there is no terminal: Ctrl-] is data, and silence for so long after stdin's end is it.
    """
    reader = _Reader(socket)
    reader.start()
    try:
        with _signals() as waker:
            if timeout is None:
                return _typed(socket, reader, waker, watch)
            return _piped(socket, reader, waker) and _silent(reader, waker, timeout)
    except ConnectionClosed:
        return False
    finally:
        socket.close()
        reader.join(timeout=3)
        os.close(reader.ended)


def _typed(socket: ClientConnection, reader: _Reader, waker: int, watch: bool) -> bool:
    """Send keys (none when we only watch) until Ctrl-], or until the terminal is gone. False when the other side ended
    it."""
    while data := _read(reader, waker):
        before, detach, _ = data.partition(DETACH)
        if before and not watch:
            socket.send(before)
        if detach:
            return True
    return data is not None


def _piped(socket: ClientConnection, reader: _Reader, waker: int) -> bool:
    """Send stdin to its end. False when the other side ended it."""
    while data := _read(reader, waker):
        socket.send(data)
    return data is not None


def _read(reader: _Reader, waker: int) -> bytes | None:
    """The next bytes of stdin, empty at its end; None when the other side has ended it."""
    stdin = sys.stdin.fileno()
    while True:
        ready = select.select([reader.ended, stdin, waker], [], [])[0]
        if reader.ended in ready:
            return None
        if stdin in ready:
            return os.read(stdin, CHUNK)
        os.read(waker, CHUNK)


def _silent(reader: _Reader, waker: int, timeout: float) -> bool:
    """Wait until nothing came for `timeout` seconds. False when the other side ended it before."""
    start = clock.monotonic()
    while (left := timeout - (clock.monotonic() - max(start, reader.last))) > 0:
        ready = select.select([reader.ended, waker], [], [], left)[0]
        if reader.ended in ready:
            return False
        if waker in ready:
            os.read(waker, CHUNK)
    return True


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def _why(socket: ClientConnection) -> str:
    if socket.close_reason:
        return socket.close_reason
    return "the server went off, or the connection was cut" if socket.close_code else "the connection was cut"
