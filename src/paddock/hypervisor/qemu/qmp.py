"""QMP, QEMU's control protocol: one event-loop thread for all connections, and a synchronous face.

A monitor serves one client at a time, so a machine has one connection, kept open, whose events tell us what the
guest did. Nothing else in Paddock speaks QMP.
"""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar
from uuid import UUID

from qemu.qmp import ExecInterruptedError, ExecuteError, Message, QMPClient, QMPError, Runstate, StateError

from paddock.base.errors import Refused, Unavailable

TIMEOUT = 10.0  # seconds for an answer

log = logging.getLogger(__name__)
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # it logs a traceback when a QEMU ends

T = TypeVar("T")
OnEvent = Callable[[str, dict[str, Any]], None]


class QmpThread:
    """The thread that runs the event loop of all QMP connections."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T], timeout: float = TIMEOUT) -> T:
        """Run a coroutine there and wait. Raises Unavailable when it takes longer."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except FutureTimeout as e:
            future.cancel()
            raise Unavailable(f"QEMU did not answer within {timeout:g} s") from e

    def post(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine there and do not wait."""
        asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Stop; connections are closed by their owners before."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Qmp:
    """A connection to one QEMU."""

    def __init__(self, thread: QmpThread, client: QMPClient, uuid: UUID, status: str) -> None:
        self._thread = thread
        self._client = client
        self._tasks: list[asyncio.Task[None]] = []
        self.uuid = uuid
        self.status = status  # QEMU's run state when we connected

    @classmethod
    def connect(cls, thread: QmpThread, sock: socket.socket, on_event: OnEvent, timeout: float = TIMEOUT) -> "Qmp":
        """Speak QMP over a connected socket. Raises Unavailable when what is there does not answer as QEMU."""
        return thread.call(cls._connect(thread, sock, on_event), timeout)

    @classmethod
    async def _connect(cls, thread: QmpThread, sock: socket.socket, on_event: OnEvent) -> "Qmp":
        client = QMPClient("machine")
        try:
            await client.connect(sock)
            uuid = await client.execute("query-uuid")
            status = await client.execute("query-status")
            self = cls(thread, client, UUID(uuid["UUID"]), str(status["status"]))  # type: ignore[index]
        except (QMPError, StateError, OSError, KeyError, TypeError, ValueError) as e:
            sock.close()
            raise Unavailable(f"QEMU's monitor does not answer: {e}") from e
        self._tasks = [asyncio.create_task(self._deliver(on_event)), asyncio.create_task(self._mind())]
        return self

    @property
    def connected(self) -> bool:
        return self._client.runstate == Runstate.RUNNING

    def execute(self, command: str, arguments: dict[str, Any] | None = None, timeout: float = TIMEOUT) -> Any:
        """Run a QMP command. Raises Refused with QEMU's words, Unavailable when it is gone or silent."""
        return self._thread.call(self.request(command, arguments), timeout)

    def give(self, name: str, fd: int) -> None:
        """Hand over a descriptor, which stays ours too. Raises as `execute`."""
        self._thread.call(self._give(name, fd))

    def give_set(self, number: int, fd: int) -> None:
        """The same, into the set of that number: QEMU finds it as /dev/fdset/NUMBER."""
        self._thread.call(self._give_set(number, fd))

    async def _give(self, name: str, fd: int) -> None:
        self._send(fd)
        await self.request("getfd", {"fdname": name})

    async def _give_set(self, number: int, fd: int) -> None:
        self._send(fd)
        await self.request("add-fd", {"fdset-id": number})

    def _send(self, fd: int) -> None:
        try:
            self._client.send_fd_scm(fd)
        except (QMPError, StateError, OSError) as e:
            raise Unavailable("QEMU went away") from e

    async def request(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """The same on the QMP thread."""
        try:
            return await self._client.execute(command, arguments)
        except ExecuteError as e:
            raise Refused(f"QEMU refuses {command}: {e}") from e
        except (ExecInterruptedError, QMPError, OSError) as e:
            raise Unavailable(f"QEMU went away during {command}") from e

    def quit(self) -> None:
        """Ask QEMU to end; that it is gone already is as good."""
        with contextlib.suppress(Unavailable, Refused):
            self.execute("quit", timeout=2)

    def close(self) -> None:
        """Hang up; QEMU goes on."""
        with contextlib.suppress(Unavailable):
            self._thread.call(self._close(), 2)

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._hang_up()

    async def _deliver(self, on_event: OnEvent) -> None:
        async for message in self._client.events:
            try:
                on_event(*_event(message))
            except Exception:
                log.exception("BUG: a QMP event was not understood: %s", message)

    async def _mind(self) -> None:
        """Collect what the client leaves behind when QEMU hangs up."""
        while self._client.runstate == Runstate.RUNNING:
            await self._client.runstate_changed()
        await self._hang_up()

    async def _hang_up(self) -> None:
        with contextlib.suppress(QMPError, StateError, OSError, EOFError):
            await self._client.disconnect()


def _event(message: Message) -> tuple[str, dict[str, Any]]:
    """Its name, and what it says; `at`: when QEMU said it, in seconds of unix time."""
    data, stamp = message.get("data"), message.get("timestamp")
    said = dict(data) if isinstance(data, dict) else {}
    if isinstance(stamp, dict):
        said["at"] = float(stamp.get("seconds", 0)) + float(stamp.get("microseconds", 0)) / 1e6
    return str(message["event"]), said
