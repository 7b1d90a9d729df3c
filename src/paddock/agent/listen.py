"""The agent's socket: for its own user only, and taken over from an agent that is dead but not from a living one."""

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from paddock.base.errors import Conflict, Refused

MAX_PATH = 107  # bytes of a unix socket's path: unix(7)
BACKLOG = 128


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0600. Raises Refused, or Conflict when somebody answers there."""
    length = len(os.fsencode(path))
    if length > MAX_PATH:
        hint = "choose a shorter --socket"
        raise Refused(f"the socket path {path} has {length} bytes, and Linux allows {MAX_PATH}", hint=hint)
    _remove_stale(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _bind(made, path)
        made.listen(BACKLOG)
    except OSError as e:
        made.close()
        raise Refused(f"can't listen on {path}: {e.strerror}") from e
    return made


def _bind(made: socket.socket, path: Path) -> None:
    before = os.umask(0o177)  # bind makes the file: there must be no moment in which others can connect
    try:
        made.bind(str(path))
    finally:
        os.umask(before)


def _remove_stale(path: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Refused(f"{path} is in the way: it is no socket", hint="choose another --socket")
        if _answers(path):
            raise Conflict(f"another process listens on {path}", hint="stop that one first")
        path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # full or slow: it lives
            return True
    return True
