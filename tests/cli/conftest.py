"""A cloud to speak to, and a person's empty home."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from paddock.cli.main import run
from tests.cli.server import TOKEN, Cloud, Routes, serving


@dataclass
class Shell:
    """Runs `paddock` as a person would, in a home of its own."""

    home: Path
    endpoint: str
    token: str = TOKEN

    @property
    def env(self) -> dict[str, str]:
        """What the command sees: nothing of ours but the path."""
        return {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / "config"),
            "PADDOCK_ENDPOINT": self.endpoint, "PADDOCK_TOKEN": self.token, "LANG": "C.UTF-8",
            "PADDOCK_STATE_DIR": str(self.home / "state"), "USER": "anna", "LOGNAME": "anna", "TERM": "xterm-256color",
        }  # fmt: skip

    @property
    def config(self) -> Path:
        return self.home / "config" / "paddock"

    def argv(self, *words: str | Path) -> list[str]:
        """The command line that runs `paddock` with these words."""
        return [sys.executable, "-m", "paddock.cli.main", *map(str, words)]

    def run(
        self, *words: str | Path, input: str | None = None, columns: int | None = None, **env: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end, with no terminal; in this process, since starting one takes longer than most commands."""
        whole = {**self.env, **({"COLUMNS": str(columns)} if columns else {}), **env}
        out, err, before = io.StringIO(), io.StringIO(), dict(os.environ)
        stdin, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO((input or "").encode()), encoding="utf-8")
        try:
            os.environ.clear()
            os.environ.update(whole)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run([str(word) for word in words])
        finally:
            sys.stdin = stdin
            os.environ.clear()
            os.environ.update(before)
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    def ok(self, *words: str | Path, input: str | None = None, columns: int | None = None, **env: Any) -> str:
        """What it prints; it must succeed."""
        done = self.run(*words, input=input, columns=columns, **env)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def fails(self, *words: str | Path, code: int = 1, input: str | None = None, **env: Any) -> str:
        """What it complains of; it must fail with this exit code and no traceback."""
        done = self.run(*words, input=input, **env)
        assert done.returncode == code, f"{words}: {done.returncode} {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stderr


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> Iterator[None]:
    """What we start heeds Ctrl-C even if we don't: a shell's background jobs are started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def api() -> Iterator[tuple[Routes, str]]:
    """One server for all tests, since starting one takes longer than most of them."""
    routes = Routes(Cloud())
    with serving(routes) as endpoint:
        yield routes, endpoint


@pytest.fixture
def cloud(api: tuple[Routes, str]) -> Cloud:
    """A cloud of the test's own, behind that server."""
    api[0].cloud = Cloud()
    return api[0].cloud


@pytest.fixture
def paddock(cloud: Cloud, api: tuple[Routes, str], tmp_path: Path) -> Shell:
    """A person's command line, and an empty home."""
    return Shell(tmp_path, api[1])
