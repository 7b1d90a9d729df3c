"""The one door to processes: a list of arguments, never a shell string.

`run` waits and explains a failure; `spawn` starts a process that outlives us.
"""

import errno
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from paddock.base.errors import CommandFailed, DiskFull, Refused

log = logging.getLogger(__name__)

TAIL = 2000  # characters of a failed command's output that its error keeps


@dataclass(frozen=True)
class Completed:
    """What a command that ended left behind."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float


@dataclass(frozen=True)
class Identity:
    """The user a process runs as, where we may choose."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def run(
    argv: Sequence[str | Path],
    *,
    input: str | None = None,
    timeout: float = 60,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    identity: Identity | None = None,
    cwd: Path | None = None,
) -> Completed:
    """Run a command to its end. `env` adds to our environment; `timeout` is in seconds.

    Raises Refused when there is no such program, CommandFailed when it fails and `check` is set, or when
    it does not end in time (it is killed then).
    """
    words = tuple(str(a) for a in argv)
    start = time.monotonic()
    try:
        done = subprocess.run(
            words,
            input=input,
            stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            **_as(identity),
        )
    except FileNotFoundError as e:
        raise Refused(f"{words[0]} is not installed", hint="`paddock doctor` says what to install") from e
    except subprocess.TimeoutExpired as e:
        raise CommandFailed(f"{_shown(words)} did not end within {timeout:g} s") from e
    except OSError as e:
        raise _explained(words, e) from e
    result = Completed(words, done.returncode, done.stdout, done.stderr, time.monotonic() - start)
    log.debug("ran %s: exit code %d after %.3f s", _shown(words), result.code, result.seconds)
    if check and result.code:
        said = (result.stderr.strip() or result.stdout.strip())[-TAIL:]
        raise CommandFailed(f"{_shown(words)} failed with exit code {result.code}: {said or 'it said nothing'}")
    return result


def spawn(
    argv: Sequence[str | Path],
    *,
    output: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    identity: Identity | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, its stdout and stderr appended to `output`.

    It has no pipe to us, so it neither ends nor blocks when we end. Raises Refused when it can't be started, DiskFull
    when there is no room for its output.
    """
    words = tuple(str(a) for a in argv)
    fd = _open_output(words, output)
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=fd,
            stderr=fd,
            cwd=cwd,
            start_new_session=True,
            env={**os.environ, **(env or {})},
            pass_fds=pass_fds,
            **_as(identity),
        )
    except FileNotFoundError as e:
        raise Refused(f"{words[0]} is not installed", hint="`paddock doctor` says what to install") from e
    except OSError as e:
        raise _explained(words, e) from e
    finally:
        os.close(fd)
    log.debug("started %s as process %d", words[0], process.pid)
    return process


def attended(argv: Sequence[str | Path]) -> None:
    """Run a program at our own terminal to its end, as an editor is. Raises Refused, CommandFailed."""
    words = tuple(str(a) for a in argv)
    try:
        code = subprocess.run(words, check=False).returncode
    except FileNotFoundError as e:
        raise Refused(f"{words[0]} is not installed", hint="name another program") from e
    except OSError as e:
        raise _explained(words, e) from e
    if code:
        raise CommandFailed(f"{_shown(words)} ended with exit code {code}")


def become(argv: Sequence[str | Path]) -> NoReturn:
    """Put a program in our own place, with our terminal; its exit code is then ours. Raises Refused when it can't."""
    words = tuple(str(a) for a in argv)
    log.debug("becoming %s", _shown(words))
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvp(words[0], words)  # noqa: S606  (the one door to processes)
    except FileNotFoundError as e:
        raise Refused(f"{words[0]} is not installed", hint="`paddock doctor` says what to install") from e
    except OSError as e:
        raise _explained(words, e) from e


def _open_output(words: Sequence[str], output: Path) -> int:
    try:
        return os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as e:
        raise _no_output(words, output, e) from e


def _no_output(words: Sequence[str], output: Path, error: OSError) -> Refused:
    what = f"{words[0]} could not be started: its output can't go to {output}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{what}: {error.strerror}", hint="make room")
    why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
    return Refused(f"{what}: {why}", hint="see who put what there")


def _as(identity: Identity | None) -> dict[str, Any]:
    if identity is None:
        return {}
    return {"user": identity.uid, "group": identity.gid, "extra_groups": list(identity.groups)}


def _shown(words: Sequence[str]) -> str:
    return " ".join(words)[:300]


def _explained(words: Sequence[str], error: OSError) -> Refused:
    what = "no memory or process left" if error.errno in (errno.ENOMEM, errno.EAGAIN) else error.strerror
    return Refused(f"{words[0]} could not be started: {what}")
