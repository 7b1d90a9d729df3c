"""A command in a guest whose output is seen while it runs: it writes to files there, which we read as they grow.

The answer is a line of JSON for each piece of output, and one at the end. Who hangs up ends the command.
"""

import base64
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from uuid import UUID

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from paddock.api.errors import known
from paddock.api.guest_work import in_guest
from paddock.base import clock
from paddock.base.errors import NotFound, PaddockError, Refused, Unavailable
from paddock.hypervisor import guest_scripts as scripts
from paddock.hypervisor.base import Guest

CHUNK = 128 * 1024  # bytes of each stream in one look
SOON, LATE = 0.1, 1.0  # seconds between looks: soon after there was something, later when there is nothing
SCRIPT = 30.0  # seconds that a guest may take to start or to end a command
ALIVE = 5.0  # seconds after which we say something, so that a caller who has gone is noticed
PATIENCE = 60.0  # seconds that a guest agent may be silent in between: it may be busy, or being restarted
OURS = re.compile(r"/[A-Za-z0-9/._-]{1,200}")


@dataclass
class Running:
    """A command that runs in a guest. Its calls block: they run in threads of `in_guest`."""

    guest: Guest
    uuid: UUID
    ours: str
    process: str
    read: dict[str, int] = field(default_factory=lambda: {"stdout": 0, "stderr": 0})

    def look(self) -> tuple[dict[str, bytes], int | None]:
        """What it wrote since the last look, and its exit code if that was all."""
        code = self._code()
        found, more = {}, False
        for name, file in (("stdout", "out"), ("stderr", "err")):
            chunk = self.guest.read_file(self.uuid, f"{self.ours}/{file}", self.read[name], CHUNK)
            self.read[name] += len(chunk.data)
            more = more or bool(chunk.data)  # perhaps not all
            if chunk.data:
                found[name] = chunk.data
        return found, None if more else code

    def end(self) -> None:
        """End it if it still runs, and remove what it left."""
        with suppress(PaddockError):
            self.guest.exec(self.uuid, scripts.STOP.argv(self.ours, self.process), "", SCRIPT)

    def _code(self) -> int | None:
        try:
            said = self.guest.read_file(self.uuid, f"{self.ours}/code", 0, 16).data.strip()
        except NotFound:
            return None
        return int(said) if said.isdigit() else 255


def start(guest: Guest, uuid: UUID, argv: tuple[str, ...], stdin: str) -> Running:
    """Start a command. Raises as `Guest.exec`, Refused for a guest that can't."""
    result = guest.exec(uuid, scripts.START.argv(*argv), stdin, SCRIPT)
    lines = result.stdout.split()
    if result.exit_code or len(lines) != 2 or not OURS.fullmatch(lines[0]) or not re.fullmatch("[0-9]{1,9}", lines[1]):
        why = result.stderr.strip()[-300:] or "its shell does not say where its output is"
        raise Refused(f"the guest could not start the command: {why}", hint="without --stream it may be possible")
    return Running(guest, uuid, lines[0], lines[1])


class Streamed(StreamingResponse):
    """The answer. Whatever becomes of its caller, the command is ended after it."""

    def __init__(self, running: Running, seconds: float, after: AsyncExitStack) -> None:
        super().__init__(_lines(running, seconds), media_type="application/x-ndjson")
        self._running, self._after = running, after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._after:
            try:
                await super().__call__(scope, receive, send)
            finally:
                with anyio.CancelScope(shield=True):
                    await in_guest(self._running.end)


async def _lines(running: Running, seconds: float) -> AsyncIterator[bytes]:
    start = said = clock.monotonic()
    pause = SOON
    try:
        while True:
            found, code = await _patiently(lambda: in_guest(running.look))
            for name, data in found.items():
                yield _line({"stream": name, "data": base64.b64encode(data).decode()})
            if code is not None:
                yield _line({"exit_code": code})
                return
            if clock.monotonic() - start > seconds:
                raise Unavailable(f"it did not end within {seconds:g} s, and was ended")
            pause = SOON if found else min(pause * 1.5, LATE)
            if found:
                said = clock.monotonic()
            elif clock.monotonic() - said > ALIVE:
                said = clock.monotonic()
                yield _line({})
            await anyio.sleep(pause)
    except PaddockError as e:
        yield _line(known(e).body)


async def _patiently(
    look: Callable[[], Awaitable[tuple[dict[str, bytes], int | None]]],
) -> tuple[dict[str, bytes], int | None]:
    """A look, again and again while the node's agent or the guest's is away. Raises Unavailable in the end."""
    until = clock.monotonic() + PATIENCE
    while True:
        try:
            return await look()
        except Unavailable:
            if clock.monotonic() > until:
                raise
            await anyio.sleep(LATE)


def _line(what: dict[str, object]) -> bytes:
    return json.dumps(what).encode() + b"\n"
