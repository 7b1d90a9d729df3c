"""How the long tests went, written down for those who can't wait for them: a table with a row for each.

A run of some of them renews their rows and keeps the others', for each row says when it was written.
"""

import os
import platform
import re
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from paddock.base import clock
from paddock.base.run import run

_ROW = re.compile(r"^\| (test_\S+) \|.*", re.MULTILINE)


@dataclass
class Row:
    """One test: how it ended, when and after how many seconds, and what it or its skip has to say."""

    name: str
    when: datetime
    outcome: str = "passed"
    seconds: float = 0
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        said = "; ".join(note.replace("|", "/").replace("\n", " ") for note in self.notes)
        return f"| {self.name} | {self.outcome} | {self.when:%Y-%m-%d %H:%M} | {self.seconds / 60:.1f} | {said} |"


@dataclass(eq=False)  # pytest keeps its plugins in sets
class Result:
    """A plugin of pytest that hears how each test went. A test notes something by `record_property("note", text)`."""

    when: datetime
    tests: dict[str, Row] = field(default_factory=dict)

    @classmethod
    def begun(cls) -> "Result":
        return cls(clock.now())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.nodeid.startswith("tests/long/"):
            return
        row = self.tests.setdefault(report.nodeid, Row(report.nodeid.removeprefix("tests/long/"), clock.now()))
        row.seconds += report.duration
        if report.outcome != "passed":
            row.outcome = report.outcome
        if report.skipped and isinstance(report.longrepr, tuple):
            row.notes.append(report.longrepr[2].removeprefix("Skipped: "))
        if report.when == "teardown":
            row.notes += [str(value) for name, value in report.user_properties if name == "note"]

    def text(self, before: str = "") -> str:
        """The page, as Markdown. `before` is what it was: rows of tests that this run had not are kept."""
        rows = {match[1]: match[0] for match in _ROW.finditer(before)}
        rows |= {row.name: row.text() for row in self.tests.values()}
        host = f"{os.cpu_count()} CPUs, guests under TCG, {platform.machine()}, Python {platform.python_version()}"
        lines = [
            "# How the long tests went", "",
            f"- last run: {self.when:%Y-%m-%d %H:%M} UTC, of {len(self.tests)} tests",
            f"- host: {host}",
            f"- QEMU: {run(['qemu-system-x86_64', '--version']).stdout.splitlines()[0]}", "",
            "| test | result | when | minutes | notes |", "| --- | --- | --- | ---: | --- |",
            *(rows[name] for name in sorted(rows)),
        ]  # fmt: skip
        return "\n".join(lines) + "\n"
