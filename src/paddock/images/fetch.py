"""Fetches an image's file from a URL, in a process of its own that outlives whoever asked for it.

`python -m paddock.images.fetch JOB` does what JOB/request.json says (a URL may hold secrets, so it is not an argument),
writes how far it is to JOB/status.json, and ends as soon as the request is gone: that is how it is cancelled. A lock in
JOB tells whether it lives. Started again after its host's fall, it goes on where the download was cut off.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from paddock.base import clock
from paddock.base import log as logs
from paddock.base.errors import Invalid, PaddockError, Refused
from paddock.base.files import write_private
from paddock.base.run import spawn
from paddock.images import published, unpack
from paddock.images.download import Limits, download
from paddock.images.progress import BuildStatus, StatusFile, read_status
from paddock.images.store import file_digest, file_sha256
from paddock.machine.spec import GIB, MIB, Frozen

log = logging.getLogger(__name__)

MAX_STARTS = 10  # of one job: a fetcher that dies again and again has a reason
_LOCK_FD = "PADDOCK_FETCH_LOCK_FD"
_CANCELLED = 3  # exit code
_TICK = 0.25  # seconds between looks whether it was cancelled
_SAY_EVERY = 0.25  # seconds
_SMALL = 4 * MIB  # bytes of a list of checksums, or of a signature
_PACKED = (".gz", ".bz2", ".xz", ".zst")


class Request(Frozen):
    """What to fetch. `sha256` may be that of the file as it is sent, or of what it unpacks to; `anywhere`: also from
    addresses that are not of the open internet; `trust`: authorities in PEM besides the host's. The file appears at
    `target` when it is whole. Sizes in bytes. With a `source` its publisher is asked first what it must be;
    `only_look`: nothing but that."""

    url: str = Field(repr=False)
    target: Path
    sha256: str = ""
    anywhere: bool = False
    trust: Path | None = None
    max_size: int = 64 * GIB
    reserve: int = GIB
    stall: float = 60.0
    source: published.Source | None = None
    only_look: bool = False


def start(job: Path, request: Request) -> None:
    """Start fetching unless that is under way, or has ended. Returns at once. Raises Refused, DiskFull when no process
    can be started."""
    job.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(BlockingIOError), _lock(job) as fd:
        if read_status(_status(job)).state in ("ready", "failed"):
            return
        if _count_start(job) > MAX_STARTS:
            StatusFile(_status(job)).change(state="failed", error=f"the fetcher died {MAX_STARTS} times: {_tail(job)}")
            return
        write_private(_request(job), request.model_dump_json())
        StatusFile(_status(job)).change(doing="starting to fetch")
        argv: list[str | Path] = [sys.executable, "-m", "paddock.images.fetch", job]
        # The lock goes over to the fetcher with its descriptor: at no time is it free while somebody fetches.
        spawn(argv, output=job / "log", env={_LOCK_FD: str(fd)}, pass_fds=(fd,))


def status(job: Path) -> BuildStatus:
    """How far it is; `absent` when nobody is at it and it has not ended: it is to be started then."""
    before = read_status(_status(job))
    if before.state != "building":
        return before
    with contextlib.suppress(BlockingIOError, FileNotFoundError), _lock(job):
        # Free: the fetcher is gone. It may have ended well between our two looks.
        after = read_status(_status(job))
        return BuildStatus(state="absent") if after.state == "building" else after
    return before


def cancel(job: Path) -> bool:
    """Have it ended, and all that it left removed. False: it has not ended yet; ask again."""
    _request(job).unlink(missing_ok=True)
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
        with _lock(job):
            shutil.rmtree(job, ignore_errors=True)
        return not job.exists()
    return not job.exists()


def fetch(job: Path) -> None:
    """Fetch in this process; the caller holds the lock. Raises PaddockError."""
    request = Request.model_validate_json(_request(job).read_bytes())
    said = StatusFile(_status(job))
    try:
        promise = _ask_publisher(job, request, said) if request.source else None
        if not request.only_look:
            whole = _fetched(job, request, _Saying(said), promise)
            os.replace(whole, request.target)
    except Exception as e:
        log.error("%s", "".join(traceback.format_exception(e)))
        _remove_content(job)
        said.change(state="failed", error=str(e) if isinstance(e, PaddockError) else f"BUG: {e!r}")
        raise
    said.change(state="ready", percent=100, doing="")


def _ask_publisher(job: Path, request: Request, said: StatusFile) -> published.Published:
    """What its publisher says of it, written down in the status."""
    assert request.source
    said.change(doing="asking its publisher for the checksum")
    promise = published.ask(request.source, job, lambda url, path: _get_small(request, url, path))
    said.change(version=promise.version, verified=promise.verified)
    return promise


def _get_small(request: Request, url: str, path: Path) -> None:
    """Bring a list of checksums or a signature, anew each time."""
    for old in (path, path.with_name(f"{path.name}.json")):
        old.unlink(missing_ok=True)
    limits = Limits(size=_SMALL, reserve=request.reserve, stall=request.stall)
    download(url, path, anywhere=request.anywhere, limits=limits, say=lambda *_: None, trust=request.trust)


def _fetched(job: Path, request: Request, say: "_Saying", promise: published.Published | None) -> Path:
    """The whole and unpacked file, in the job's directory."""
    part, content = job / "part", job / "content"
    copies = 2 if request.url.endswith(_PACKED) else 1  # unpacked, and as an image
    limits = Limits(size=request.max_size, reserve=request.reserve, stall=request.stall, copies=copies)
    download(request.url, part, anywhere=request.anywhere, limits=limits, say=say.bytes, trust=request.trust)
    if promise and request.source:
        say.doing(80, "comparing it with what its publisher says")
        _check_promise(promise, part)
        published.check_image(request.source, part, job, lambda url, path: _get_small(request, url, path))
    say.doing(82, "reading the checksum")
    found = [file_sha256(part)] if request.sha256 else []
    if not unpack.is_compressed(part):
        _check(request.sha256, found)
        return part
    if found == [request.sha256]:
        found = []
    say.doing(85, "unpacking")
    unpack.unpack(part, content, size=request.max_size, reserve=request.reserve)
    part.unlink()
    if found:
        _check(request.sha256, [*found, file_sha256(content)])
    return content


def _check_promise(promise: published.Published, part: Path) -> None:
    found = file_digest(part, promise.algorithm)
    if found != promise.digest:
        hint = "its publisher may be changing it just now, or the mirror has another one: try again later"
        raise Invalid(f"the fetched file's {promise.algorithm} is {found}, not {promise.digest}", hint=hint)


def _check(wanted: str, found: list[str]) -> None:
    if wanted and wanted.lower() not in found:
        were = " and, unpacked, ".join(found)
        hint = "see whether it is the right file, and correct the checksum or the url"
        raise Invalid(f"the fetched file's sha256 is {were}, not {wanted}", hint=hint, field="sha256")


class _Saying:
    """Says how far it is, not too often."""

    def __init__(self, file: StatusFile) -> None:
        self._file, self._last = file, 0.0

    def bytes(self, here: int, total: int | None) -> None:
        if clock.monotonic() - self._last < _SAY_EVERY:
            return
        self._last = clock.monotonic()
        of = f" of {total // MIB}" if total else ""
        self._file.change(percent=80 * here // total if total else 0, doing=f"{here // MIB}{of} MiB fetched")

    def doing(self, percent: int, what: str) -> None:
        self._file.change(percent=percent, doing=what)


def main(argv: list[str]) -> int:
    """The entry point. Ends with 0 when the file is there, 1 when it could not be had."""
    job = Path(argv[0])
    logs.setup(f"fetch {job.name}")
    try:
        with _given_lock(job):
            threading.Thread(target=_end_when_cancelled, args=(job,), daemon=True).start()
            fetch(job)
    except FileNotFoundError:
        return _CANCELLED
    except BlockingIOError:
        log.error("somebody else is at this job")
        return 1
    except PaddockError as e:
        log.error("%s", e)
        return 1
    return 0


def _end_when_cancelled(job: Path) -> None:
    while _request(job).exists():
        clock.sleep(_TICK)
    os._exit(_CANCELLED)


@contextlib.contextmanager
def _given_lock(job: Path) -> Iterator[None]:
    """Hold the lock: the one our starter gave us, or our own."""
    given = os.environ.pop(_LOCK_FD, "")
    if given:
        os.set_inheritable(int(given), False)
        yield
        return
    with _lock(job):
        yield


@contextlib.contextmanager
def _lock(job: Path) -> Iterator[int]:
    """Raises BlockingIOError while a fetcher has it, FileNotFoundError when there is no such job."""
    fd = os.open(job / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd
    finally:
        os.close(fd)


def _count_start(job: Path) -> int:
    """How often it has been started, this time included."""
    with (job / "starts").open("ab") as file:
        file.write(b".")
        return file.tell()


def _remove_content(job: Path) -> None:
    for name in ("part", "part.json", "content", "checksums", "checksums.json", "signature", "signature.json"):
        (job / name).unlink(missing_ok=True)


def _tail(job: Path) -> str:
    try:
        return (job / "log").read_text(encoding="utf-8", errors="replace")[-1000:].strip() or "its log is empty"
    except OSError as e:
        raise Refused(f"{job} can't be read: {e.strerror}") from e


def _request(job: Path) -> Path:
    return job / "request.json"


def _status(job: Path) -> Path:
    return job / "status.json"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
