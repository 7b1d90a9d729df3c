"""Streams of bytes over streams of bytes."""

import anyio.lowlevel
from anyio.abc import ByteStream


class Preceded(ByteStream):
    """A stream that first gives some bytes of the past."""

    def __init__(self, past: bytes, stream: ByteStream) -> None:
        self._past, self._stream = past, stream

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self._past:
            return await self._stream.receive(max_bytes)
        await anyio.lowlevel.checkpoint()
        data, self._past = self._past[:max_bytes], self._past[max_bytes:]
        return data

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()
