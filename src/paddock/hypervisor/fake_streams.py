"""Console and screen of a fake machine: a serial port that greets and echoes, and a screen that says it has none."""

import asyncio
import contextlib
import math
from collections.abc import Callable

import anyio
from anyio.abc import ByteStream

RFB_VERSION = b"RFB 003.008\n"


class LocalStream(ByteStream):
    """Answers what it is sent, inside this process. `answer` turns input into output."""

    def __init__(self, greeting: bytes, answer: Callable[[bytes], bytes]) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer = answer
        self._output, self._input = anyio.create_memory_object_stream[bytes](math.inf)
        self._output.send_nowait(greeting)
        self._rest = b""
        self.closed = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = self._rest or await self._input.receive()
        self._rest = data[max_bytes:]
        return data[:max_bytes]

    async def send(self, item: bytes) -> None:
        try:
            if said := self._answer(item):
                self._output.send_nowait(said)
        except anyio.ClosedResourceError as e:
            raise anyio.BrokenResourceError from e
        await asyncio.sleep(0)

    async def send_eof(self) -> None:
        """A serial line has no end of file."""

    async def aclose(self) -> None:
        self.closed = True
        self._output.close()
        self._input.close()

    def hang_up(self) -> None:
        """The machine stopped: the reader gets the rest and then the end. From any thread."""
        with contextlib.suppress(RuntimeError):  # its event loop has ended before it
            self._loop.call_soon_threadsafe(self._output.close)


class BlankScreen:
    """Speaks RFB 3.8 (RFC 6143, 7.1.1 and 7.1.2) up to a refusal with a reason, as servers without a screen do."""

    def __init__(self) -> None:
        self._heard = b""

    def answer(self, data: bytes) -> bytes:
        before, self._heard = len(self._heard), self._heard + data[: len(RFB_VERSION)]
        if before >= len(RFB_VERSION) or len(self._heard) < len(RFB_VERSION):
            return b""
        reason = b"a machine of the fake hypervisor has no screen"
        return b"\0" + len(reason).to_bytes(4) + reason
