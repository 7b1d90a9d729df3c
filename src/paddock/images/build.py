"""Builds an image in a process of its own, which outlives whoever asked for it.

`python -m paddock.images.build NAME --store DIR --work DIR` writes how far it is to DIR/NAME.status.json and all that
its programs say to DIR/NAME.log. A lock in the store lets one builder of a name work at a time and tells, once it is
free, that a builder is gone. Each build works in a directory of its own, so that a killed one is in nobody's way.
"""

import argparse
import contextlib
import fcntl
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from paddock.base import log as logs
from paddock.base.errors import Invalid, PaddockError
from paddock.base.ids import new_correlation_id
from paddock.base.run import run, spawn
from paddock.images import blank, debian, rescue, tiny
from paddock.images.progress import BuildStatus, Say, StatusFile, read_status
from paddock.images.store import ImageStore
from paddock.machine.image import ImageManifest

log = logging.getLogger(__name__)

BUILDERS: dict[str, Callable[[ImageStore, Path, Say], ImageManifest]] = {
    "tiny": tiny.build,
    "debian-12": debian.build,
    "rescue": rescue.build,
    "blank": blank.build,
}
_TAIL = 1500  # characters of the log in the error of a build that went away
_LOCK_FD = "PADDOCK_BUILD_LOCK_FD"


def start_build(name: str, store: Path, work: Path, *, again: bool = False) -> None:
    """Start building the image unless that is under way, or (without `again`) done. Returns at once.

    Raises Invalid for a name that nobody builds, Refused when no process can be started.
    """
    _known(name)
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(BlockingIOError), _lock(store, name, wait=False) as fd:
        if not again and _is_done(name, store, work):
            return
        StatusFile(_status_path(work, name)).change(doing="starting")
        argv: list[str | Path] = [sys.executable, "-m", "paddock.images.build", name, "--store", store, "--work", work]
        # The lock goes over to the builder with its descriptor: at no time is it free while somebody builds.
        spawn(argv, output=_log_path(work, name), env={_LOCK_FD: str(fd)}, pass_fds=(fd,))


def build_status(name: str, store: Path, work: Path) -> BuildStatus:
    """How far the build is; `absent` when none was ever started here."""
    before = read_status(_status_path(work, name))
    if before.state != "building":
        return before
    with contextlib.suppress(BlockingIOError), _lock(store, name, wait=False):
        # Free: the builder is gone. It may have ended well between our two looks.
        status = read_status(_status_path(work, name))
        return _gone(status, _log_path(work, name)) if status.state == "building" else status
    return before


def build(name: str, store: Path, work: Path) -> ImageManifest:
    """Build the image in this process; the caller holds the lock. Raises PaddockError."""
    status = StatusFile(_status_path(work, name))

    def say(percent: int, doing: str) -> None:
        if doing != status.status.doing:
            log.info("%3d %% %s", percent, doing)
        status.change(percent=percent, doing=doing)

    say(0, "starting")
    _remove_old_work(work, name)
    place = work / f"{name}.work-{new_correlation_id()}"
    place.mkdir(mode=0o700)
    try:
        manifest = BUILDERS[name](ImageStore(store), place, say)
    except Exception as e:
        log.error("%s", "".join(traceback.format_exception(e)))
        status.change(state="failed", error=str(e) if isinstance(e, PaddockError) else f"BUG: {e!r}")
        raise
    finally:
        _keep_logs(place, _log_path(work, name))
        _remove(place)
    status.change(state="ready", percent=100, doing="", sha256=manifest.sha256)
    return manifest


def main(argv: list[str] | None = None) -> int:
    """The entry point. Ends with 0 when the image is there, 1 when it could not be made."""
    parser = argparse.ArgumentParser(prog="python -m paddock.images.build", description=__doc__)
    parser.add_argument("name", choices=sorted(BUILDERS))
    parser.add_argument("--store", type=Path, required=True, help="directory of the cloud's images")
    parser.add_argument("--work", type=Path, required=True, help="directory for status, log and what is in between")
    args = parser.parse_args(argv)
    logs.setup(f"build {args.name}")
    args.work.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with _held_or_waited(args.store, args.name) as waited:
            done = read_status(_status_path(args.work, args.name)) if waited else BuildStatus(state="absent")
            if done.state in ("ready", "failed"):
                log.info("another builder has just ended: %s", done.error or done.state)
                return 0 if done.state == "ready" else 1
            manifest = build(args.name, args.store.absolute(), args.work.absolute())
    except PaddockError as e:
        log.error("%s", e)
        return 1
    log.info("image %s is %s", manifest.name, manifest.sha256)
    return 0


@contextlib.contextmanager
def _held_or_waited(store: Path, name: str) -> Iterator[bool]:
    """Hold the lock: the one our starter gave us, or our own. Gives whether we had to wait for another builder."""
    given = os.environ.pop(_LOCK_FD, "")
    if given:
        os.set_inheritable(int(given), False)
        yield False
        return
    try:
        with _lock(store, name, wait=False):
            yield False
    except BlockingIOError:
        with _lock(store, name, wait=True):
            yield True


@contextlib.contextmanager
def _lock(store: Path, name: str, *, wait: bool) -> Iterator[int]:
    store.mkdir(mode=0o755, parents=True, exist_ok=True)
    fd = os.open(store / f".build-{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield fd
    finally:
        os.close(fd)


def _known(name: str) -> None:
    if name not in BUILDERS:
        raise Invalid(f"no image called {name} can be built", hint=f"there are {', '.join(BUILDERS)}", field="image")


def _is_done(name: str, store: Path, work: Path) -> bool:
    status = read_status(_status_path(work, name))
    return status.state == "ready" and ImageStore(store).path(status.sha256).is_dir()


def _gone(status: BuildStatus, log_path: Path) -> BuildStatus:
    try:
        tail = log_path.read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip()
    except FileNotFoundError:
        tail = ""
    error = f"the builder ended while {status.doing or 'starting'}, without a result; its log ends: {tail or 'empty'}"
    return status.model_copy(update={"state": "failed", "error": error})


def _keep_logs(place: Path, log_path: Path) -> None:
    """What the programs of a build said goes to the end of its log."""
    with log_path.open("ab") as kept:
        for part in sorted(place.glob("*.log")):
            kept.write(part.read_bytes())


def _remove_old_work(work: Path, name: str) -> None:
    for old in work.glob(f"{name}.work-*"):
        _remove(old)


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    if place.exists():  # files of mmdebstrap's own user namespace, when we are a plain user
        run(["mmdebstrap", "--unshare-helper", "rm", "-rf", "--", place], check=False, timeout=300)
        shutil.rmtree(place, ignore_errors=True)


def _status_path(work: Path, name: str) -> Path:
    return work / f"{name}.status.json"


def _log_path(work: Path, name: str) -> Path:
    return work / f"{name}.log"


if __name__ == "__main__":
    sys.exit(main())
