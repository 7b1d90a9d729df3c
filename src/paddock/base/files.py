"""Writing small files so that a reader sees the old or the new content, whatever happens in between.

Links that somebody planted are never followed, and nobody but us may read what is written unless `mode` says so.
"""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes, mode: int = 0o600, sync: bool = True, temporary: Path | None = None) -> None:
    """Put `data` at `path` in one step; `sync`: so that it also survives a power cut. Raises OSError.

    What is under way lies in `temporary`, a name of this file's only writer: by default `.<name>.new` beside it.
    """
    new = temporary or path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    if sync:
        _sync_directory(path.parent)


def write_atomically(path: Path, text: str, *, sync: bool = False) -> None:
    """Put a text at `path` in one step; with `sync` it also survives a power cut. Raises OSError."""
    write_whole(path, text.encode(), sync=sync)


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Put a text at `path` in one step, where other processes may write the same file. Raises OSError."""
    write_whole(path, text.encode(), mode, sync=False, temporary=path.with_name(f".{path.name}.{os.getpid()}.new"))


def overwrite(path: Path, text: str, *, sync: bool = False) -> None:
    """Replace a small file's content where it lies, which takes no room: for a full disk. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        content = text.encode()
        os.pwrite(fd, content, 0)
        os.ftruncate(fd, len(content))
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
