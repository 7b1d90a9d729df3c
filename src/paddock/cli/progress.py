"""The two views of work in progress: live on a terminal, plain lines everywhere else. Both go to stderr."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from paddock.cli.client import Json
from paddock.cli.follow import Job, Until, View
from paddock.cli.output import clean, duration, shorten, stderr

MANY = 1  # more jobs than this are a table with a line each


def view(title: str) -> View:
    """The view that fits where stderr goes."""
    return LiveView(title) if sys.stderr.isatty() else LineView()


class LineView:
    """A line for each thing that is new."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, ...]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def update(self, jobs: Sequence[Job]) -> None:
        """Print what was not printed before."""
        for job in jobs:
            for step in collapse(job.steps):
                self._step(job, step)
            if job.building:
                doing, percent = job.building
                self._say(f"{job.label}: image: {doing}, {percent // 10 * 10} %")
            elif job.waiting_for:
                self._say(f"{job.label}: waits for {job.waiting_for}")

    def _step(self, job: Job, step: Json) -> None:
        if step.get("outcome") not in ("done", "failed"):
            return
        if (key := (job.label, str(step.get("name")))) not in self._seen:
            self._seen.add(key)
            ending = "" if step["outcome"] == "done" else f" failed: {step.get('detail') or 'no reason given'}"
            stderr().print(f"{job.label}: {clean(step.get('name'))} {duration(step.get('seconds'))}{clean(ending)}")

    def _say(self, line: str) -> None:
        if (line,) not in self._seen:
            self._seen.add((line,))
            stderr().print(clean(line))


class LiveView:
    """The state of everything, drawn again and again."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._live = Live(console=stderr(), refresh_per_second=8, transient=False)
        self._spinner = Spinner("dots", style="cyan")

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def update(self, jobs: Sequence[Job]) -> None:
        """Draw it."""
        body = self._table(jobs) if len(jobs) > MANY else self._steps(jobs[0])
        self._live.update(Group(Text(self._title, "bold"), body))

    def _steps(self, job: Job) -> Table:
        grid = Table.grid(padding=(0, 1))
        for step in collapse(job.steps):
            grid.add_row(self._sign(step), clean(step.get("name")), *_step_tail(step))
        if job.building:
            doing, percent = job.building
            grid.add_row(self._spinner, "image", _bar(percent), Text(f"{percent} %  {clean(doing)}", no_wrap=True))
        elif job.waiting_for:
            what = "ready" if job.until is Until.READY and job.action.get("status") != "running" else ""
            grid.add_row(self._spinner, what, duration(job.seconds), Text(f"waits for {clean(job.waiting_for)}"))
        elif not job.over:
            grid.add_row(self._spinner, "", duration(job.seconds), "")
        return grid

    def _sign(self, step: Json) -> Text | Spinner:
        signs = {"done": Text("✓", "green"), "failed": Text("✗", "red")}
        return signs.get(str(step.get("outcome")), Text("·", "cyan"))

    def _table(self, jobs: Sequence[Job]) -> Table:
        grid = Table.grid(padding=(0, 1))
        for job in jobs:
            grid.add_row(self._job_sign(job), job.label, duration(job.seconds), Text(_doing(job), no_wrap=True))
        return grid

    def _job_sign(self, job: Job) -> Text | Spinner:
        if not job.over:
            return self._spinner
        return Text("✗", "red") if job.problem else Text("✓", "green")


def collapse(steps: Sequence[Json]) -> list[Json]:
    """One entry per step: a step that waited and ran again is shown as its last run, with the time of all of them."""
    merged: dict[str, Json] = {}
    for step in steps:
        name = str(step.get("name"))
        before = float(merged.get(name, {}).get("seconds") or 0)
        merged[name] = {**step, "seconds": before + float(step.get("seconds") or 0)}
    return list(merged.values())


def _step_tail(step: Json) -> tuple[str, Text]:
    note = step.get("detail") if step.get("outcome") == "failed" else ""
    return duration(step.get("seconds")), Text(clean(note or ""), "red")


def _bar(percent: int) -> ProgressBar:
    return ProgressBar(total=100, completed=percent, width=24)


def _doing(job: Job) -> str:
    if job.problem:
        return shorten(clean(job.problem), 60)
    if job.over:
        return "ready" if job.until is Until.READY else "done"
    if job.building:
        doing, percent = job.building
        return f"image: {clean(doing)}, {percent} %"
    if job.waiting_for:
        return f"waits for {clean(job.waiting_for)}"
    running = [s for s in job.steps if s.get("outcome") in ("running", "again")]
    return clean(running[-1].get("name")) if running else ""
