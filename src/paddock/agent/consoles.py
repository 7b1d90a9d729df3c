"""One serial console, any number of people at it: all see what comes, and all may type.

QEMU's serial port serves one connection, so that is ours while anybody watches. A watcher who reads too slowly misses
some, and is told so: neither the guest nor the others ever wait for one.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from uuid import UUID
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
from anyio.abc import ByteStream

from paddock.hypervisor.base import Streams

SCROLLBACK = 64 * 1024  # bytes of the past that we keep, and that can be asked for
BACKLOG = 256 * 1024  # bytes that one watcher may be behind
CHUNK = 64 * 1024
DRAIN = 0.02  # seconds for what the line had ready when we came to it
READY = 8 * 1024  # bytes of that
CLOSE = 2.0  # seconds that hanging up may take

Left = Callable[["Line"], None]
_ENDS = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Consoles:
    """The consoles of a node's machines. For one event loop."""

    def __init__(self, source: Streams) -> None:
        self._source = source
        self._lines: dict[UUID, Line] = {}
        self._opening: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    async def open(self, machine: UUID, scrollback: int = 0) -> ByteStream:
        """Join a machine's console; first come its last `scrollback` bytes. Raises as `Streams.console`."""
        async with self._opening.setdefault(machine, asyncio.Lock()):
            line = self._lines.get(machine)
            if line is None or line.ended:
                line = self._lines[machine] = await self._connect(machine)
            return line.join(max(0, min(scrollback, SCROLLBACK)))

    async def _connect(self, machine: UUID) -> "Line":
        stream = await self._source.console(machine)
        try:
            past = await anyio.to_thread.run_sync(self._source.console_log, machine, SCROLLBACK)
            fresh = await _ready(stream)
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise
        return Line(stream, past.encode(), fresh, lambda line: self._left(machine, line))

    def _left(self, machine: UUID, line: "Line") -> None:
        if self._lines.get(machine) is line:
            del self._lines[machine]


class Line:
    """A machine's serial line while somebody is at it. `past` is what its log ends with, `fresh` what the line said
    since it is ours; the log may have some of that as well."""

    def __init__(self, stream: ByteStream, past: bytes, fresh: bytes, left: "Left") -> None:
        self._stream = stream
        self._past = bytearray(past + fresh[overlap(past, fresh) :])
        self._fresh = fresh
        self._left = left
        self._watchers: set[Watcher] = set()
        self._typing = asyncio.Lock()
        self.ended = False
        self._task = asyncio.create_task(self._carry())

    def join(self, scrollback: int) -> "Watcher":
        """One more watcher. The first sees all that the line said since it is ours."""
        watcher = Watcher(self, bytes(self._past[-max(scrollback, len(self._fresh)) :]) if scrollback else self._fresh)
        self._fresh = b""
        self._watchers.add(watcher)
        return watcher

    async def type(self, data: bytes) -> None:
        """Send keys: those of one watcher at a time. Waits as long as the guest takes none."""
        async with self._typing:
            await self._stream.send(data)

    async def leave(self, watcher: "Watcher") -> None:
        """One watcher less; the last one hangs up."""
        self._watchers.discard(watcher)
        if self._watchers or self.ended:
            return
        self.ended = True
        self._left(self)
        self._task.cancel()
        with anyio.move_on_after(CLOSE, shield=True):
            await self._stream.aclose()

    async def _carry(self) -> None:
        try:
            while True:
                self._said(await self._stream.receive(CHUNK))
        except _ENDS:
            await self._stream.aclose()
        finally:
            self.ended = True
            self._left(self)
            for watcher in self._watchers:
                watcher.end()

    def _said(self, data: bytes) -> None:
        self._past += data
        del self._past[:-SCROLLBACK]
        for watcher in self._watchers:
            watcher.tell(data)


class Watcher(ByteStream):
    """One who watches: what came and was not fetched yet, at most BACKLOG bytes of it."""

    def __init__(self, line: Line, past: bytes) -> None:
        self._line = line
        self._waiting: deque[bytes] = deque([past] if past else ())
        self._size = len(past)
        self._missed = 0
        self._news = asyncio.Event()
        self._ended = False

    def tell(self, data: bytes) -> None:
        """Something came. Never waits."""
        if self._size + len(data) > BACKLOG:
            self._missed += self._size
            self._waiting.clear()
            self._size = 0
        self._waiting.append(data)
        self._size += len(data)
        self._news.set()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._news.set()

    async def receive(self, max_bytes: int = CHUNK) -> bytes:
        while not self._waiting:
            if self._ended:
                raise anyio.EndOfStream
            self._news.clear()
            await self._news.wait()
        if self._missed:
            missed, self._missed = self._missed, 0
            return b"\r\n[%d bytes are left out here: this connection is too slow for them]\r\n" % missed
        data = self._waiting.popleft()
        if len(data) > max_bytes:
            self._waiting.appendleft(data[max_bytes:])
        self._size -= len(data[:max_bytes])
        return data[:max_bytes]

    async def send(self, item: bytes) -> None:
        if self._ended:
            raise anyio.BrokenResourceError
        await self._line.type(item)

    async def send_eof(self) -> None:
        """A serial line has no end of file."""

    async def aclose(self) -> None:
        self.end()
        await self._line.leave(self)


def overlap(past: bytes, fresh: bytes) -> int:
    """How many bytes at the start of `fresh` are the end of `past`: the log has what the line said before we read the
    log, and so may the line."""
    for size in range(min(len(past), len(fresh)), 0, -1):
        if past.endswith(fresh[:size]):
            return size
    return 0


async def _ready(stream: ByteStream) -> bytes:
    fresh = b""
    with anyio.move_on_after(DRAIN):
        try:
            while len(fresh) < READY:
                fresh += await stream.receive(READY)
        except _ENDS:
            pass  # whoever carries it on learns of it again
    return fresh
