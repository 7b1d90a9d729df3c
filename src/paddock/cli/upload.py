"""Sending a file to the cloud: read once for its checksum, then sent, and gone on with where it was cut off.

The API keeps what came for a day. It says how much that is, so that a later command goes on too.
"""

import hashlib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from paddock.base import clock
from paddock.base.errors import Conflict, Invalid, Unavailable
from paddock.cli.client import PATIENCE, Api, Json
from paddock.cli.output import file_size, stderr

CHUNK = 1 << 20
TRIES = 6  # without anything new having arrived
LINES = 10.0  # seconds between two lines where no terminal shows a bar
SMALL = 64 << 20  # bytes; the checksum of less is there before anybody asks what we are doing
NARROW = 70  # columns; a terminal with fewer has no room for speed and time


@dataclass(frozen=True)
class Source:
    """A file of this machine, with what it had when we read it."""

    path: Path
    size: int
    sha256: str


def read(path: Path, sha256: str) -> Source:
    """Look at a file and make its checksum. Raises Invalid for one that is none, or that is not `sha256` (if given)."""
    size = look_at(path)
    title = f"Reading {path.name}" if size > SMALL else ""
    digest = hashlib.sha256()
    with Bar(title, size) as bar:
        for chunk in _chunks(path, 0, size):
            digest.update(chunk)
            bar.advance(len(chunk))
    if sha256 and digest.hexdigest() != sha256:
        raise Invalid(f"{path} has SHA-256 {digest.hexdigest()}, not {sha256}", field="sha256")
    return Source(path, size, digest.hexdigest())


def checked_sha256(text: str) -> str:
    """A SHA-256 as the API takes it; empty for none. Raises Invalid."""
    if text and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise Invalid(f"{text!r} is no SHA-256: that has 64 hex digits", field="sha256")
    return text.lower()


def send(api: Api, content: str, source: Source, params: Mapping[str, str] | None = None) -> Json | None:
    """PUT a file to the path `content`, from where an earlier upload ended; `params` say which file of it is meant.
    What is answered when it is whole; None if it was whole already. A connection that is cut is made anew as long as
    more and more arrives.

    Raises Unavailable when nothing arrives any more, Conflict when somebody else sends it, and what the API refuses.
    """
    tries, before = 0, -1
    with Bar(f"Uploading {source.path.name}", source.size) as bar:
        while True:
            here = received(api, content, PATIENCE, params)
            if here is None:
                return None
            tries, before = (0 if here > before else tries + 1), here
            bar.at(here)
            chunks = _counted(_chunks(source.path, here, source.size), bar.advance)
            try:
                return api.upload(content, chunks, source.size - here, {**(params or {}), "offset": here})
            except (Unavailable, Conflict):
                if tries >= TRIES:
                    raise
                clock.sleep(min(0.25 * 2**tries, 4))


def received(api: Api, content: str, patience: float = 0, params: Mapping[str, str] | None = None) -> int | None:
    """How many bytes are there to go on from; None when it is whole."""
    said = api.get(content, params, patience=patience)
    return int(said["received"]) if said["state"] in ("absent", "failed") else None


def look_at(path: Path) -> int:
    """How many bytes it has. Raises Invalid for what can't be sent."""
    try:
        status = path.stat()
    except OSError as e:
        raise Invalid(f"{path} can't be read: {e.strerror}", field="file") from e
    if not stat.S_ISREG(status.st_mode):
        raise Invalid(f"{path} is not a regular file", field="file")
    if not os.access(path, os.R_OK):
        raise Invalid(f"{path} can't be read: permission denied", field="file")
    if not status.st_size:
        raise Invalid(f"{path} is empty", field="file")
    return status.st_size


def _chunks(path: Path, start: int, end: int) -> Iterator[bytes]:
    left = end - start
    try:
        with path.open("rb") as file:
            file.seek(start)
            while left and (chunk := file.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk
    except OSError as e:
        raise Invalid(f"{path} can't be read: {e.strerror}", field="file") from e
    if left:
        raise Invalid(f"{path} became shorter while it was read", field="file")


def _counted(chunks: Iterator[bytes], count: Callable[[int], None]) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        count(len(chunk))


class Bar:
    """How far a file is: a bar on a terminal, a line now and then elsewhere. Without a title it shows nothing."""

    def __init__(self, title: str, size: int) -> None:
        self._title, self._size, self._here, self._begun = title, size, 0, 0
        self._said = clock.monotonic()
        narrow = stderr().width < NARROW
        more = () if narrow else (TransferSpeedColumn(), TimeRemainingColumn())
        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=10 if narrow else 24), DownloadColumn(),
            *more, console=stderr(), disable=not (title and sys.stderr.isatty()),
        )  # fmt: skip
        self._task = self._bar.add_task(title, total=size)

    def __enter__(self) -> Self:
        self._bar.start()
        if self._title and self._bar.disable:
            stderr().print(f"{self._title}, {file_size(self._size)}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def at(self, here: int) -> None:
        """So much is there already."""
        if here != self._begun and self._title and self._bar.disable:
            stderr().print(f"{self._title}: {file_size(here)} are there already")
        self._here = self._begun = here
        self._bar.update(self._task, completed=here)

    def advance(self, more: int) -> None:
        """So much more is there."""
        self._here += more
        self._bar.advance(self._task, more)
        if self._title and self._bar.disable and clock.monotonic() - self._said > LINES:
            self._said = clock.monotonic()
            stderr().print(f"{self._title}: {file_size(self._here)} of {file_size(self._size)}")
