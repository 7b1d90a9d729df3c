"""The door to processes."""

import errno
import os
import sys
from pathlib import Path

import pytest

from paddock.base import clock
from paddock.base.errors import CommandFailed, DiskFull, Refused
from paddock.base.run import _no_output, run, spawn


def test_output_and_code() -> None:
    done = run([sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr)"])
    assert (done.code, done.stdout, done.stderr) == (0, "out\n", "err\n")


def test_failure_says_what_the_program_said() -> None:
    with pytest.raises(CommandFailed, match="exit code 3: no such luck"):
        run([sys.executable, "-c", "import sys; print('no such luck', file=sys.stderr); sys.exit(3)"])


def test_failure_may_be_looked_at() -> None:
    assert run([sys.executable, "-c", "raise SystemExit(4)"], check=False).code == 4


def test_missing_program_is_refused_with_a_hint() -> None:
    with pytest.raises(Refused, match="not installed") as caught:
        run(["paddock-no-such-program"])
    assert "doctor" in caught.value.hint


def test_too_slow() -> None:
    start = clock.monotonic()
    with pytest.raises(CommandFailed, match=r"did not end within 0\.2 s"):
        run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.2)
    assert clock.monotonic() - start < 5


def test_arguments_are_no_shell() -> None:
    assert run(["printf", "%s", "$(id); `id`"]).stdout == "$(id); `id`"


def test_spawned_process_has_a_session_of_its_own_and_no_pipe_to_us(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import os; print(os.getsid(0) == os.getpid(), os.path.realpath('/proc/self/fd/1'))"
    spawn([sys.executable, "-c", code], output=log).wait()
    assert log.read_text() == f"True {log}\n"
    assert log.stat().st_mode & 0o777 == 0o600


def test_output_goes_through_no_planted_link(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    with pytest.raises(Refused, match="symbolic link"):
        spawn(["true"], output=tmp_path / "log")
    assert not (tmp_path / "victim").exists()


def test_output_that_cannot_be_opened_is_explained(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=f"true could not be started: its output can't go to {tmp_path}: Is a directory"):
        spawn(["true"], output=tmp_path)
    full = _no_output(("true",), tmp_path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert isinstance(full, DiskFull)
    assert "No space left" in full.message
