"""Downloads a file over HTTP into a file that grows, and goes on where it was cut off.

Whatever the other side does, it takes bounded room and ends: a limit of size, one of silence, one of slowness, one of
redirects and one of tries. Each connection goes to an address that `address` has looked at.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from paddock.base import clock
from paddock.base.errors import DiskFull, Invalid, Refused, Unavailable
from paddock.base.files import write_atomically
from paddock.images import address
from paddock.machine.spec import GIB, MIB

Say = Callable[[int, int | None], None]  # bytes that are here, and of how many, if that is known

_REDIRECTS = (301, 302, 303, 307, 308)
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_TRUST = "the operator can name its authority: `ca_file` under `[images]` in paddock.toml"
_LOOK_EVERY = 16 * MIB  # bytes between looks at the room that is left


@dataclass(frozen=True)
class Limits:
    """What a download may take. Sizes in bytes, times in seconds."""

    size: int = 64 * GIB
    reserve: int = GIB  # left free on the file system
    copies: int = 0  # of the whole for which there must be room besides, since more is to be made of it
    stall: float = 60.0  # without a byte, or with fewer than `slowest` of them per second
    slowest: int = 1024
    tries: int = 6  # in a row that brought less than a MiB
    pause: float = 1.0  # before the second try; doubled with each
    redirects: int = 5


def download(url: str, part: Path, *, anywhere: bool, limits: Limits, say: Say, trust: Path | None = None) -> None:
    """Bring what is at `url` to the file `part`; what is there of it already is kept if the server proves it the same.
    `trust`: authorities in PEM whose certificates are good besides those that the host trusts.

    Raises Invalid for a URL that is none, Refused when it can't be had (its message says why), DiskFull.
    """
    context, tries = _trusting(trust), 0
    while True:
        before = _size(part)
        try:
            return _Attempt(url, part, anywhere, limits, say, context).run()
        except Unavailable as e:
            tries = 1 if _size(part) - before > MIB else tries + 1
            if tries >= limits.tries:
                raise Refused(f"gave up after {tries} tries: {e.message}", hint="is the server well?") from e
        except OSError as e:
            raise _explained(e, part) from e
        clock.sleep(limits.pause * 2 ** (tries - 1))


class _Attempt:
    """One try: a request, its redirects, and as much of the body as comes."""

    def __init__(self, url: str, part: Path, anywhere: bool, limits: Limits, say: Say, context: ssl.SSLContext) -> None:
        self._url = address.checked(url)
        self._part, self._note = part, part.with_name(f"{part.name}.json")
        self._anywhere, self._limits, self._say, self._context = anywhere, limits, say, context

    def run(self) -> None:
        known = self._read_note()
        offset = _size(self._part) if known.get("validator") else 0
        with contextlib.ExitStack() as stack:
            try:
                response = stack.enter_context(self._answer(self._headers(offset, known)))
                offset, total = self._accept(response, offset)
                self._check_size(total or offset, offset)
                self._write_note(response, total)
                self._take(response, offset, total)
            except httpx.TransportError as e:
                if why := _distrust(e):
                    raise Refused(f"{address.shown(self._url)} is not trusted: {why}", hint=_TRUST) from e
                raise Unavailable(f"{address.shown(self._url)}: {str(e) or type(e).__name__}") from e

    def _headers(self, offset: int, known: dict[str, str]) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", "User-Agent": "paddock"}
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": known["validator"]}
        return headers

    @contextlib.contextmanager
    def _answer(self, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """The answer after all redirects."""
        url = self._url
        with _client(self._limits.stall, self._context) as client:
            for _ in range(self._limits.redirects + 1):
                with _get(client, url, address.resolve(url, self._anywhere), headers) as response:
                    if response.status_code not in _REDIRECTS:
                        yield response
                        return
                    url = _followed(url, response)
        raise Refused(f"{address.shown(self._url)} redirects more than {self._limits.redirects} times")

    def _accept(self, response: httpx.Response, offset: int) -> tuple[int, int | None]:
        """Where the body begins in the file, and how large the whole is."""
        status = response.status_code
        shown = f"{address.shown(self._url)} answered {status} {response.reason_phrase}".rstrip()
        if status == 200:
            return 0, _length(response)
        if status == 206 and offset:
            match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match and int(match[1]) == offset:
                return offset, None if match[2] == "*" else int(match[2])
        if status in (206, 416):  # not the part that was asked for: begin anew
            self._part.unlink(missing_ok=True)
            raise Unavailable(f"{shown} to a request for the rest of the file")
        if status in _TRY_AGAIN:
            raise Unavailable(shown)
        raise Refused(shown, hint="see whether the url is right, and open to everybody")

    def _take(self, response: httpx.Response, offset: int, total: int | None) -> None:
        fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb", buffering=0) as file:
            file.truncate(offset)
            file.seek(offset)
            here, pace, looked = offset, _Pace(self._limits), offset
            for data in response.iter_raw():
                file.write(data)
                here += len(data)
                pace.count(len(data))
                if here - looked >= _LOOK_EVERY or here > self._limits.size:
                    self._check_size(here, here)
                    looked = here
                self._say(here, total)
        if total is not None and here != total:
            raise Unavailable(f"{address.shown(self._url)} sent {here} of {total} bytes")

    def _check_size(self, size: int, here: int) -> None:
        """Raises Refused when the whole is too large, DiskFull when there is no room for what is still to come."""
        if size > self._limits.size:
            raise Refused(f"{address.shown(self._url)} has over {self._limits.size // MIB} MiB, which is the limit")
        free = shutil.disk_usage(self._part.parent).free - self._limits.reserve
        needed = size - here + size * self._limits.copies
        if needed > free or free < 0:
            again = f" and {needed // MIB} MiB needed for it and what is made of it" if self._limits.copies else ""
            raise _full(f"{size // MIB} MiB are to be fetched{again}, and there is room for {max(free, 0) // MIB} MiB")

    def _read_note(self) -> dict[str, str]:
        """What is known of the file that was begun: nothing, if it was begun from another URL."""
        try:
            known = json.loads(self._note.read_bytes())
        except (OSError, ValueError):
            return {}
        return known if known.get("url") == str(self._url) else {}

    def _write_note(self, response: httpx.Response, total: int | None) -> None:
        tag = response.headers.get("ETag", "")
        validator = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
        known = {"url": str(self._url), "validator": validator, "total": total}
        write_atomically(self._note, json.dumps(known))


class _Pace:
    """Sees that a download does not crawl for ever."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._since, self._bytes = clock.monotonic(), 0

    def count(self, size: int) -> None:
        self._bytes += size
        spent = clock.monotonic() - self._since
        if spent < self._limits.stall:
            return
        if self._bytes < spent * self._limits.slowest:
            raise Unavailable(f"only {self._bytes} bytes came in {spent:.0f} s")
        self._since, self._bytes = clock.monotonic(), 0


def _trusting(trust: Path | None) -> ssl.SSLContext:
    """Raises Refused when there are no authorities in that file."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()  # what the operator's host trusts too
    if trust is None:
        return context
    try:
        context.load_verify_locations(trust)
    except OSError as e:  # ssl.SSLError is one
        raise Refused(f"the authorities in {trust} can't be used: {e}", hint="see `ca_file` in paddock.toml") from e
    return context


def _client(stall: float, context: ssl.SSLContext) -> httpx.Client:
    """Without the environment's proxies, which would choose the address for us, and without kept connections."""
    return httpx.Client(
        verify=context,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(stall, connect=min(stall, 30)),
        limits=httpx.Limits(max_keepalive_connections=0),
    )


def _get(
    client: httpx.Client, url: httpx.URL, ip: str, headers: dict[str, str]
) -> contextlib.AbstractContextManager[httpx.Response]:
    """Ask that very address, by the name that the URL has; TLS checks the name too."""
    headers = {**headers, "Host": url.netloc.decode("ascii")}
    return client.stream("GET", url.copy_with(host=ip), headers=headers, extensions={"sni_hostname": url.host})


def _distrust(error: BaseException | None) -> str:
    """Why the other side's certificate is not good; empty when that is not what went wrong."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return ""


def _followed(url: httpx.URL, response: httpx.Response) -> httpx.URL:
    location = response.headers.get("Location", "")
    try:
        following = address.checked(str(url.join(location)))
    except (Invalid, httpx.InvalidURL) as e:
        raise Refused(f"{address.shown(url)} redirects to what is no url of http or https") from e
    if url.scheme == "https" and following.scheme != "https":
        raise Refused(f"{address.shown(url)} redirects from https to http", hint="use the new url if you trust it")
    return following


def _length(response: httpx.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def _full(what: str) -> DiskFull:
    return DiskFull(f"no room for the download: {what}", hint="remove images that are not needed")


def _explained(error: OSError, part: Path) -> Refused:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _full(error.strerror or "the file system is full")
    return Refused(f"the download can't be written to {part}: {error.strerror}")
