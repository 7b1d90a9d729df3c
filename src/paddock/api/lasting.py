"""A server's console that outlives a restart of its node's agent: the guest runs on, so whoever watches does too."""

import logging
from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread
from anyio.abc import ByteStream

from paddock.base import clock
from paddock.base.errors import Conflict, NotFound, PaddockError

log = logging.getLogger(__name__)

PATIENCE = 30.0  # seconds for an agent to come back
PAUSE = 0.3  # between looks
TAIL = 256  # bytes that came last, by which we find in the log how far we were
LOOK_BACK = 256 * 1024  # bytes of the log
_LOST = b"\r\n[the node's agent was restarted: some of what was written meanwhile may be left out here]\r\n"
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError)


class Lasting(ByteStream):
    """A stream that is opened again when it breaks. `reopen` opens one, `written` reads the console's log."""

    def __init__(
        self, stream: ByteStream, reopen: Callable[[], Awaitable[ByteStream]], written: Callable[[int], str]
    ) -> None:
        self._stream, self._reopen, self._written = stream, reopen, written
        self._there = anyio.Event()
        self._there.set()
        self._tail = b""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = b""
        while not data:
            try:
                data = await self._stream.receive(max_bytes)
            except _BROKEN:
                data = await self._again()
        self._tail = (self._tail + data)[-TAIL:]
        return data

    async def send(self, item: bytes) -> None:
        """Keys that are typed while the agent is away wait for it."""
        await self._there.wait()
        try:
            await self._stream.send(item)
        except _BROKEN:
            log.info("%d bytes were typed just when a node's agent went away", len(item))

    async def send_eof(self) -> None:
        """A serial line has no end of file."""

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def _again(self) -> bytes:
        """Open it again: what was written meanwhile. Raises EndOfStream when that can't be."""
        self._there = anyio.Event()
        await anyio.aclose_forcefully(self._stream)
        end = clock.monotonic() + PATIENCE
        while True:
            try:
                self._stream = await self._reopen()
            except (Conflict, NotFound) as e:  # it went off meanwhile
                raise anyio.EndOfStream from e
            except PaddockError as e:
                if clock.monotonic() > end:
                    raise anyio.EndOfStream from e
                await anyio.sleep(PAUSE)
            else:
                self._there.set()
                return await anyio.to_thread.run_sync(self._missed)

    def _missed(self) -> bytes:
        try:
            written = self._written(LOOK_BACK).encode()
        except PaddockError:
            return _LOST
        at = written.rfind(self._tail) if self._tail else -1
        return written[at + len(self._tail) :] if at >= 0 else _LOST
