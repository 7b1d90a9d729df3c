"""The content of images and ISOs: sent as it is, kept as far as it came when it is cut off, and gone on with later."""

import fcntl
import hashlib
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import anyio
from django.db import transaction
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from paddock.api.auth import SAFE
from paddock.api.errors import ApiError, invalid, missing
from paddock.api.streaming import answer, asked, in_thread, token
from paddock.api.v1 import actions, images, isos
from paddock.base.errors import Conflict, Invalid
from paddock.base.log import correlation_id
from paddock.cloud.flows import image as image_flow
from paddock.cloud.flows import image_files
from paddock.cloud.models import Action, Image
from paddock.images.kernel import MOST, ROLES, check_file
from paddock.machine.image import Role

RANGE = re.compile(r"bytes (\d{1,16})-(\d{1,16})/(\d{1,16}|\*)")
ISO = "iso"
SILENCE = 45.0  # seconds


@dataclass(frozen=True)
class Part:
    """What a request brings: bytes from `start` on, `size` of them (None: as many as come), of `total` in all (None:
    all that are to come, unless `open`, where more follow)."""

    start: int = 0
    size: int | None = None
    total: int | None = None
    open: bool = False


@dataclass(frozen=True)
class Target:
    """What of which image is sent: its disk, or the kernel or initrd that comes before that."""

    image: Image
    role: Role = Role.DISK

    @property
    def path(self) -> Path:
        """Where it arrives."""
        if self.role == Role.DISK:
            return image_files.upload_of(self.image)
        return self.whole.with_name(f"{self.whole.name}.part")

    @property
    def whole(self) -> Path:
        """Where a kernel or an initrd is once all of it has come."""
        return image_files.boot_file(self.image, self.role)

    @property
    def promised(self) -> str:
        """The sha256 that it must have, or nothing."""
        own = self.image.announced
        return own.files[self.role] if own and self.role != Role.DISK else self.image.expected_sha256


async def image_content(request: Request) -> Response:
    """The disk of an announced image: PUT it, GET how many of its bytes are here. Where a kernel was announced with it,
    `file=kernel` and `file=initrd` mean those, and they come first. A part is put by `Content-Range:
    bytes 0-1048575/4194304`; `?offset=1048576` puts all the rest. An upload that is cut off keeps what came for a day;
    `sha256` tells who goes on with it whether it is of the same file, if one was announced.
    """
    return await _content(request, iso=False)


async def iso_content(request: Request) -> Response:
    """The file of an announced ISO, sent as an image's."""
    return await _content(request, iso=True)


async def _content(request: Request, iso: bool) -> Response:
    try:
        image = await in_thread(_wanted, *asked(request), iso)
        target = _target(request, image)
        if request.method in SAFE:
            here, state = await in_thread(_received, target), await in_thread(_state, target)
            return _progress(200, here, state=state, sha256=target.promised or None)
        return await _put(request, target, _part(request))
    except ClientDisconnect:
        return answer(ApiError(400, "invalid_input", "the upload was cut off; what came is kept"))
    except Exception as e:
        return answer(e)


def _progress(status: int, size: int, **more: object) -> Response:
    return JSONResponse({"received": size, **more}, status, {"Upload-Offset": str(size)})


def _target(request: Request, image: Image) -> Target:
    """What of the image is meant. Raises ApiError for what it has not."""
    name = request.query_params.get("file", Role.DISK.value)
    own = image.manifest.get("files", ()) if image.state == "ready" else ()
    known = {Role.DISK, *(image.announced.files if image.announced else ()), *(Role(f["role"]) for f in own)}
    if name not in known:
        raise invalid("file", f"must be one of {', '.join(sorted(known))}, which are what is to come of this image")
    return Target(image, Role(name))


def _part(request: Request) -> Part:
    """What the request says it brings. Raises ApiError for what can't be understood."""
    said, offset = request.headers.get("content-range"), request.query_params.get("offset")
    length = request.headers.get("content-length")
    size = int(length) if length and length.isdecimal() else None
    if said is None:
        if offset is not None and not re.fullmatch(r"[0-9]{1,16}", offset):
            raise invalid("offset", "must be a number of bytes")
        return Part(int(offset or 0), size)
    found = RANGE.fullmatch(said.strip())
    if found is None or offset is not None:
        raise invalid("Content-Range", "must look like 'bytes 0-1048575/4194304', without an `offset` beside it")
    first, last = int(found[1]), int(found[2])
    total = None if found[3] == "*" else int(found[3])
    if last < first or (total is not None and last >= total):
        raise invalid("Content-Range", "ends before it begins, or after the whole does")
    if size is not None and size != last - first + 1:
        raise invalid("Content-Range", f"names {last - first + 1} bytes, but {size} come")
    return Part(first, last - first + 1, total, open=total is None)


def _wanted(method: str, authorization: str, id: int, iso: bool) -> Image:
    """The image, if the token may ask for it by this method; and if it waits for content, where that is to come."""
    rows = Image.objects.filter(project=token(method, authorization).project, delete_requested=False, deleted=None)
    found = (rows.filter(type=ISO) if iso else rows.exclude(type=ISO)).filter(pk=id).first()
    if found is None:
        raise missing(f"{'ISO' if iso else 'image'} with ID '{id}'")
    if method in SAFE:
        return found
    with transaction.atomic():
        return _still_awaited(found)


def _still_awaited(image: Image) -> Image:
    """The row as it is now, locked until the transaction ends."""
    row = Image.objects.select_for_update().filter(pk=image.pk, delete_requested=False, deleted=None).first()
    if row is None:
        raise missing(f"{'ISO' if image.type == ISO else 'image'} with ID '{image.pk}'")
    if row.state in ("ready", "building"):
        raise Conflict(f"{row.title} already has its content")
    return row


def _state(target: Target) -> str:
    """Of the image; of its kernel or initrd that it is here already."""
    image = target.image
    return "ready" if target.role != Role.DISK and target.whole.exists() else image.state


def _received(target: Target) -> int:
    """How many bytes are here to go on from, or were taken; what was found bad is no beginning."""
    image, role = target.image, target.role
    if image.state == "ready":
        return sum(f["size"] for f in image.manifest.get("files", ()) if role in (Role.DISK, f["role"]))
    if role != Role.DISK and target.whole.exists():
        return target.whole.stat().st_size
    if image.state == "failed":
        return 0
    try:
        return target.path.stat().st_size
    except FileNotFoundError:
        return 0


async def _put(request: Request, target: Target, part: Part) -> Response:
    """Write what comes to a file. When it is whole, give a disk to the image's flow, and put others beside it."""
    file = await in_thread(_open, target, part)
    with file:
        try:
            size, digest = await _receive(request.stream(), file, part, MOST.get(target.role))
            if part.open or (part.total is not None and size < part.total):
                return _progress(200, size, state=target.image.state)
            if target.role != Role.DISK:
                await in_thread(_keep, target)
                return _progress(200, size, state="ready", sha256=target.promised or None)
            row, action = await in_thread(_take_in, target.image, digest)
        except ApiError:  # it is wrong, or has no place; after anything else it can be gone on with
            await in_thread(_discard, file, target)
            raise
    shown = {"iso": isos.shown(row)} if row.type == ISO else {"image": images.shown(row)}
    told = {key: reply.model_dump(mode="json") for key, reply in {**shown, "action": actions.shown(action)}.items()}
    return _progress(202, size, **told)


def _keep(target: Target) -> None:
    """A kernel or an initrd is whole. Raises ApiError when it is not the one that was announced."""
    try:
        check_file(target.role, target.path, target.promised)
    except Invalid as e:
        raise invalid("file", e.message) from e
    with transaction.atomic():
        _still_awaited(target.image)
        os.replace(target.path, target.whole)


def _discard(file: BinaryIO, target: Target) -> None:
    """Remove what is of no use: on this file, which nobody else has meanwhile."""
    path = target.path
    if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
        path.unlink()


def _open(target: Target, part: Part) -> BinaryIO:
    """A private file, locked, cut off where the part begins: a second upload at once is refused, and one after a crash
    takes the file over."""
    path, image = target.path, target.image
    _check_order(target)
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
            raise BlockingIOError
        with transaction.atomic():
            row = _still_awaited(image)  # before anything of a file is cut off that the image's flow reads
            _cut(file, Target(row, target.role), part)
            if row.state == "failed" and target.role == Role.DISK:
                Image.objects.filter(pk=row.pk).update(state="absent", problem="")
    except BlockingIOError:
        file.close()
        raise Conflict(f"{image.title} is being uploaded by somebody else") from None
    except BaseException:
        file.close()
        raise
    return file


def _check_order(target: Target) -> None:
    """Raises Conflict for a disk before its kernel: with the disk the image is whole."""
    own = target.image.announced
    wanted = [role for role in ROLES if own and role in own.files]
    missing = [role for role in wanted if not Target(target.image, role).whole.exists()]
    if missing and target.role == Role.DISK:
        files = " and ".join(f"?file={role.value}" for role in missing)
        raise Conflict(f"the {missing[0].value} of {target.image.title} comes first", hint=f"PUT it to {files}")


def _cut(file: BinaryIO, target: Target, part: Part) -> None:
    """Keep what is before the part. Raises ApiError when something between is missing, or there is no room."""
    here = _received(target) if target.role == Role.DISK else os.fstat(file.fileno()).st_size
    if part.start > here:
        details = {"received": here, "hint": f"go on from byte {here}"}
        raise ApiError(409, "conflict", f"{here} bytes are here, and these begin at {part.start}", details)
    file.truncate(part.start)
    file.seek(part.start)
    disk = os.fstatvfs(file.fileno())
    free, comes = disk.f_bavail * disk.f_frsize, (part.total or part.start + (part.size or 0)) - part.start
    if comes > free:
        raise ApiError(507, "disk_full", f"the upload can't be stored: {comes} bytes are to come, and {free} are free")


async def _receive(
    chunks: AsyncIterator[bytes], file: BinaryIO, part: Part, limit: int | None = None
) -> tuple[int, str]:
    """Write all of it. Returns how many bytes are here now, and their sha256 if all came at once (else it is empty)."""
    digest, size = hashlib.sha256(), part.start
    most = None if part.size is None else part.start + part.size
    target = anyio.wrap_file(file)
    try:
        async for chunk in _arriving(chunks):
            size += len(chunk)
            if most is not None and size > most:
                raise invalid("body", "is longer than was said")
            if limit is not None and size > limit:
                raise invalid("body", f"is longer than {limit} bytes, which is the most that such a file may have")
            digest.update(chunk)
            await target.write(chunk)
    except OSError as e:
        raise ApiError(507, "disk_full", f"the upload could not be stored: {e.strerror}") from e
    finally:
        await _flush(target)
    return size, "" if part.start else digest.hexdigest()


async def _arriving(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Raises ClientDisconnect when nothing comes for SILENCE: who sent it may be gone without a word, and holds the
    file."""
    while True:
        try:
            with anyio.fail_after(SILENCE):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise ClientDisconnect from None
        if chunk is None:
            return
        yield chunk


async def _flush(target: "anyio.AsyncFile[bytes]") -> None:
    """Have what came in the file, also when it is cut off."""
    with anyio.CancelScope(shield=True):
        try:
            await target.flush()
        except OSError as e:
            raise ApiError(507, "disk_full", f"the upload could not be stored: {e.strerror}") from e


def _take_in(image: Image, digest: str) -> tuple[Image, Action]:
    """Have the image's flow check what came. One that came in parts is hashed by the flow alone."""
    if image.expected_sha256 and digest and digest != image.expected_sha256:
        raise invalid("sha256", f"what came has {digest}")
    with transaction.atomic():
        row = _still_awaited(image)
        action = image_flow.ask_take_in(row, correlation_id.get())
        row.refresh_from_db()
    return row, action
