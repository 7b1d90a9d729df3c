"""Small state files of a node: written whole or not at all, for nobody's eyes but ours."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str, *, sync: bool = False) -> None:
    """Replace the file in one step, with mode 0600. With `sync` it also survives a power cut."""
    new = path.with_name(f".{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
        if sync:
            file.flush()
            os.fsync(fd)
    os.replace(new, path)
    if sync:
        _sync_directory(path.parent)


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
