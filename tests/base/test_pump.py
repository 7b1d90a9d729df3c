"""Bytes both ways between a WebSocket and a stream, over a real connection; either side may end it."""

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from uvicorn.config import Config
from uvicorn.server import Server
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedOK

from paddock.base.pump import ENDED, hang_up, pump

SEED = b"x" * 200_000


class Served:
    """A server of one WebSocket, joined to a connection that a test has the other end of."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.machine, self.inner = socket.socketpair()
        self.finished = threading.Event()
        app = Starlette(routes=[WebSocketRoute("/", self._serve)])
        self._server = Server(Config(app, log_config=None, lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self.listener]})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.listener.getsockname()[1]}/"

    async def _serve(self, web: WebSocket) -> None:
        await web.accept()
        async with await anyio.abc.SocketStream.from_socket(self.inner) as stream:
            await pump(web, stream)
            await hang_up(web, ENDED, "it ended")
        self.finished.set()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.machine.close()
        self.listener.close()


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.close()


@asynccontextmanager
async def connected(served: Served) -> AsyncIterator[ClientConnection]:
    with anyio.fail_after(10):
        async with connect(served.url, proxy=None) as person:
            yield person


def test_bytes_go_both_ways_whole(served: Served) -> None:
    async def talk() -> None:
        async with connected(served) as person:
            await person.send(SEED)
            await person.send("text")
            heard = b""
            while len(heard) < len(SEED) + 4:
                heard += await anyio.to_thread.run_sync(served.machine.recv, 65536)
            assert heard == SEED + b"text"
            await anyio.to_thread.run_sync(served.machine.sendall, SEED)
            said = b""
            while len(said) < len(SEED):
                said += await person.recv(decode=False)
            assert said == SEED

    anyio.run(talk)


def test_the_machine_ends_it(served: Served) -> None:
    async def talk() -> None:
        async with connected(served) as person:
            served.machine.sendall(b"last words")
            served.machine.shutdown(socket.SHUT_RDWR)
            assert await person.recv(decode=False) == b"last words"
            with pytest.raises(ConnectionClosedOK, match="it ended"):
                await person.recv()

    anyio.run(talk)
    assert served.finished.wait(5)


def test_the_person_ends_it(served: Served) -> None:
    async def talk() -> None:
        async with connected(served) as person:
            await person.send(b"bye")

    anyio.run(talk)
    assert served.finished.wait(5)
    served.machine.settimeout(5)
    assert served.machine.recv(100) == b"bye"
    assert served.machine.recv(100) == b""


def test_the_person_ends_it_while_the_machine_talks(served: Served) -> None:
    async def talk() -> None:
        async with connected(served) as person:
            await person.recv()

    def chatter() -> None:
        try:
            while True:
                served.machine.sendall(SEED)
        except OSError:
            return

    thread = threading.Thread(target=chatter)
    thread.start()
    anyio.run(talk)
    assert served.finished.wait(5)
    thread.join()
