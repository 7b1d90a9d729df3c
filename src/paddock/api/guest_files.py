"""Files to and from guests, as streams: in parts by the guest agent, directories as tar files that the guest packs and
unpacks. What arrives lies beside its place until it is whole, and then takes it in one step.
"""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from paddock.api.errors import ApiError, invalid
from paddock.api.guest_work import counted, in_guest
from paddock.api.streaming import answer, in_thread, server
from paddock.base.errors import Conflict, NotFound, PaddockError, Refused
from paddock.cloud.nodes import hypervisor
from paddock.hypervisor import guest_scripts as scripts
from paddock.hypervisor.base import MAX_CHUNK, Guest
from paddock.hypervisor.guest_scripts import Script
from paddock.machine.spec import GIB
from paddock.machine.state import FileChunk, GuestResult

CHUNK = MAX_CHUNK // 2
MOST = 16 * GIB  # bytes of a file, or of a packed directory
SHORT, LONG = 30.0, 600.0  # seconds for a script; for packing and unpacking
PATH = re.compile(r"/[^\x00-\x1f\x7f]{0,1023}")
NAME = re.compile(r"[^/\x00-\x1f\x7f]{0,255}")
MODE = re.compile(r"[0-7]{3,4}")
YES = ("1", "true", "yes")


@dataclass(frozen=True)
class There:
    """What stands at a path in a guest. `kind` is file or directory."""

    kind: str
    mode: str
    size: int


@dataclass(frozen=True)
class Copier:
    """Copies for one server. Its calls block: they run in threads of `in_guest`."""

    server: str
    guest: Guest
    uuid: UUID

    def script(self, script: Script, *arguments: str, timeout: float = SHORT) -> list[str]:
        """Run one of our scripts; its lines. Raises NotFound, Conflict, Refused with what it said."""
        result = self.guest.exec(self.uuid, script.argv(*arguments), "", timeout)
        if result.exit_code:
            raise _explained(self.server, result)
        return result.stdout.splitlines()

    def look(self, path: str) -> There:
        """Raises NotFound, Refused for what is neither file nor directory, or says what can't be."""
        words = (self.script(scripts.STAT, path) or [""])[0].split()
        if words == ["none"]:
            raise NotFound(f"there is no {path} in {self.server}")
        if len(words) != 3 or not (MODE.fullmatch(words[1].zfill(3)) and re.fullmatch("[0-9]{1,18}", words[2])):
            raise Refused(f"{self.server} does not say what {path} is", hint="its guest agent or its shell is broken")
        if words[0] not in ("file", "directory"):
            raise Refused(f"{path} in {self.server} is neither a file nor a directory")
        return There(words[0], words[1].zfill(4)[-4:], int(words[2]))

    def pack(self, path: str) -> tuple[str, int]:
        """Make a tar of a directory: where it lies in the guest, and its bytes."""
        lines = self.script(scripts.PACK, path, timeout=LONG)
        if len(lines) != 2 or not PATH.fullmatch(lines[0]) or not re.fullmatch(" *[0-9]{1,18}", lines[1]):
            raise Refused(f"{self.server} does not say where it packed {path}")
        return lines[0], int(lines[1])

    def prepare(self, path: str, name: str, kind: str, replace: bool) -> tuple[str, str]:
        """Where to write what is to go to a path, and where exactly it will go."""
        lines = self.script(scripts.PREPARE, path, name, kind, "replace" if replace else "keep")
        if len(lines) != 2 or not all(PATH.fullmatch(line) for line in lines):
            raise Refused(f"{self.server} does not say where to write for {path}")
        return lines[0], lines[1]

    def read(self, path: str, offset: int) -> FileChunk:
        return self.guest.read_file(self.uuid, path, offset, CHUNK)

    def write(self, path: str, offset: int, data: bytes) -> None:
        self.guest.write_file(self.uuid, path, offset, data)

    def clear(self, path: str) -> None:
        with suppress(PaddockError):
            self.script(scripts.CLEAR, path)


async def guest_file(request: Request) -> Response:
    """GET a file of the guest (`?path=/etc/hosts`), or, with `tar=1`, also a directory, as a tar file. `X-File-Kind`,
    `X-File-Mode` and `X-File-Size` say what it is; an answer that is cut off was not the whole. PUT a file there, with
    `mode=0644`; with `tar=1` it is unpacked as a directory, and `replace=1` lets that take the place of one that is
    there. A path that is a directory takes what is PUT under its `name`.
    """
    try:
        row, node = await in_thread(server, request.headers.get("authorization", ""), request.path_params["id"])
        copier = Copier(row.name, hypervisor(node).guest, row.uuid)
        if request.method != "PUT":
            return await _sent(request, copier, row.project_id)
        with counted(row.project_id):
            return await _received(request, copier)
    except ClientDisconnect:
        return answer(ApiError(400, "invalid_input", "the file was cut off; nothing has changed in the guest"))
    except Exception as e:
        return answer(e)


async def _sent(request: Request, copier: Copier, project: int) -> Response:
    path = _path(request)
    there = await in_guest(copier.look, path)
    packs = there.kind == "directory"
    if packs and not _yes(request, "tar"):
        raise Conflict(f"{path} in {copier.server} is a directory", hint="ask for it as a tar: tar=1, `paddock cp -r`")
    headers = {"X-File-Kind": there.kind, "X-File-Mode": there.mode, "X-File-Size": str(there.size)}
    if request.method == "HEAD":
        return Response(headers=headers)
    async with AsyncExitStack() as stack:
        stack.enter_context(counted(project))
        source, size = path, there.size
        if packs:
            source, size = await in_guest(copier.pack, path)
            stack.push_async_callback(_cleared, copier, source)
        kind = "application/x-tar" if packs else "application/octet-stream"
        return Sent(_parts(copier, source), stack.pop_all(), {**headers, "X-File-Size": str(size)}, kind)


class Sent(StreamingResponse):
    """An answer in parts, after which (or without which, when the caller has gone) something is let go of."""

    def __init__(self, parts: AsyncIterator[bytes], after: AsyncExitStack, headers: dict[str, str], kind: str) -> None:
        super().__init__(parts, headers=headers, media_type=kind)
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._after:
            await super().__call__(scope, receive, send)


async def _parts(copier: Copier, path: str) -> AsyncIterator[bytes]:
    """A file's bytes. What fails half-way cuts the answer off."""
    offset, end = 0, False
    while not end:
        chunk = await in_guest(copier.read, path, offset)
        end, offset = chunk.end, offset + len(chunk.data)
        if offset > MOST or not (chunk.data or end):
            raise Refused(f"{path} in {copier.server} has no end, or its guest agent says what can't be")
        yield chunk.data


async def _received(request: Request, copier: Copier) -> Response:
    path, kind, replace = _path(request), "directory" if _yes(request, "tar") else "file", _yes(request, "replace")
    name, mode = request.query_params.get("name", ""), request.query_params.get("mode", "0644")
    if not NAME.fullmatch(name) or name in (".", ".."):
        raise invalid("name", "must be a file's name, without '/'")
    if not MODE.fullmatch(mode):
        raise invalid("mode", "must be octal, like 0644")
    ours, target = await in_guest(copier.prepare, path, name, kind, replace)
    try:
        size = await _written(request, copier, ours)
        if kind == "file":
            await in_guest(copier.script, scripts.PLACE, ours, target, mode, str(size))
        else:
            how = "replace" if replace else "keep"
            await in_guest(partial(copier.script, timeout=LONG), scripts.UNPACK, ours, target, how, str(size))
    except BaseException:
        await _cleared(copier, ours)
        raise
    return JSONResponse({"path": target, "size": size}, 201)


async def _written(request: Request, copier: Copier, ours: str) -> int:
    """Write the body into a file of ours in the guest: how many bytes it had."""
    offset, waiting = 0, bytearray()
    async for part in request.stream():
        waiting += part
        if offset + len(waiting) > MOST:
            raise ApiError(413, "invalid_input", f"a file may have {MOST // GIB} GiB at most")
        while len(waiting) >= CHUNK:
            await in_guest(copier.write, ours, offset, bytes(waiting[:CHUNK]))
            del waiting[:CHUNK]
            offset += CHUNK
    if waiting:
        await in_guest(copier.write, ours, offset, bytes(waiting))
    return offset + len(waiting)


async def _cleared(copier: Copier, ours: str) -> None:
    with anyio.CancelScope(shield=True):
        await in_guest(copier.clear, ours)


def _path(request: Request) -> str:
    path = request.query_params.get("path", "")
    if not PATH.fullmatch(path):
        raise invalid("path", "must be the absolute path of a file in the guest")
    return path


def _yes(request: Request, name: str) -> bool:
    return request.query_params.get(name, "") in YES


def _explained(server: str, result: GuestResult) -> PaddockError:
    said = result.stderr.strip()[-500:] or f"exit code {result.exit_code}"
    match result.exit_code:
        case scripts.NOTHING:
            return NotFound(f"{said} in {server}")
        case scripts.TAKEN:
            return Conflict(f"in {server}: {said}", hint="replace=1 (`--replace`) puts a directory in its place")
        case _:
            return Refused(f"{server} could not do it: {said}")
