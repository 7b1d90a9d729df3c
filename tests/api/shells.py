"""Command lines at the real API: an operator's, a reader's; with a worker behind it, so that they may wait."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.caller import Caller
from tests.api.live import LiveApi
from tests.api.turning import turning
from tests.cli.conftest import Shell
from tests.cloud.harness import Cloud

NARROW = 80  # columns: what a terminal has that nobody made wider


class Person(Shell):
    """Somebody who types, and looks at what comes."""

    def table(self, *words: str) -> list[list[str]]:
        """The cells of a table, its heading first; no line of it may be wider than a terminal."""
        lines = self.ok(*words, columns=NARROW).splitlines()
        assert max(map(len, lines)) <= NARROW, lines
        return [line.split() for line in lines]

    def json(self, *words: str) -> Any:
        """What `-o json` gives."""
        return json.loads(self.ok(*words, "-o", "json"))

    def background(self, *words: str | Path) -> "subprocess.Popen[str]":
        """The same in a process of its own, which somebody may interrupt."""
        return subprocess.Popen(
            self.argv(*words), env=self.env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )


@pytest.fixture
def anna(live: LiveApi, cloud: Cloud, tmp_path: Path) -> Iterator[Person]:
    """Who may do all in the default project; what she asks for is done."""
    with turning(cloud):
        yield Person(tmp_path, f"http://127.0.0.1:{live.port}", Caller(operator=True).token)


@pytest.fixture
def reader(anna: Person) -> Person:
    """Who may only look."""
    return Person(anna.home, anna.endpoint, Caller(read_only=True).token)
