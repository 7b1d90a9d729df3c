"""Following actions to their end: asks the API again and again, and tells a view what is new.

A job is one action on one server or image, and what has to be true before it is over: that the action ended,
that the server is ready, or that it is gone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Protocol, Self

from paddock.base import clock
from paddock.base.errors import NotFound
from paddock.cli.client import PATIENCE, Api, Json


class Until(Enum):
    """When a job is over."""

    ENDED = "the action ended"
    READY = "the server is ready"
    MADE = "the image or ISO is made"
    GONE = "the server is gone"


@dataclass
class Job:
    """An action that we follow, with what was last seen."""

    label: str
    action: Json
    thing: Json | None = None
    collection: str = "servers"
    until: Until = Until.ENDED
    image: Json | None = None
    over: bool = False
    problem: str = ""
    hint: str = ""
    started: float = field(default_factory=clock.monotonic)
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        """How long we have followed it, in seconds."""
        return (self.ended or clock.monotonic()) - self.started

    @property
    def complaint(self) -> str:
        """The problem, with the label before it unless it is named already."""
        return self.problem if self.label in self.problem else f"{self.label}: {self.problem}"

    @property
    def steps(self) -> list[Json]:
        """The action's steps so far."""
        return list(self.action.get("x_steps") or [])

    @property
    def readiness(self) -> Json:
        """`x_ready` of the server."""
        return (self.thing or {}).get("x_ready") or {}

    @property
    def waiting_for(self) -> str:
        """What it waits for now, in the API's words; empty when it says nothing."""
        if self.over:
            return ""
        if self.action.get("status") == "running":
            return str(self.action.get("x_waiting_for") or (self.thing or {}).get("x_waiting_for") or "")
        return str(self.readiness.get("waiting_for") or "") if self.until is Until.READY else ""

    @property
    def building(self) -> tuple[str, int] | None:
        """What is done to the image in these moments, and its progress of 100; None when nothing is."""
        image = self.image or {}
        if self.over or image.get("x_state") != "building":
            return None
        return str(image.get("x_doing") or "building"), int(image.get("x_progress") or 0)


class View(Protocol):
    """Somebody who shows jobs."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def update(self, jobs: Sequence[Job]) -> None:
        """Show what is new."""


def follow(api: Api, jobs: Sequence[Job], view: View, timeout: float) -> None:
    """Wait until every job is over, at most `timeout` seconds. Problems are left in the jobs.

    Raises Unavailable when the API is away for longer than PATIENCE.
    """
    start = clock.monotonic()
    with view:
        while True:
            for job in jobs:
                if not job.over:
                    refresh(api, job)
            view.update(jobs)
            elapsed = clock.monotonic() - start
            if all(job.over for job in jobs):
                return
            if elapsed >= timeout:
                _give_up((job for job in jobs if not job.over), timeout)
                view.update(jobs)
                return
            clock.sleep(_interval(elapsed))


def refresh(api: Api, job: Job) -> None:
    """Look at everything of a job once."""
    kind = job.collection.rstrip("s")
    if job.action.get("status") == "running":
        job.action = _seek(api, f"/v1/actions/{job.action['id']}", "action") or {**job.action, "status": "success"}
    if job.thing is not None:
        job.thing = _seek(api, f"/v1/{job.collection}/{job.thing['id']}", kind)
        job.image = _image(api, job)
    _judge(job)


def _judge(job: Job) -> None:
    status = job.action.get("status")
    if status == "error":
        _end(job, _failure(job))
        job.hint = str((job.action.get("error") or {}).get("x_hint") or "")
    elif job.thing is None and job.collection == "servers":
        _end(job, "" if job.until is Until.GONE else "was deleted meanwhile")
    elif status != "running" and job.until is Until.READY:
        _judge_readiness(job)
    elif status != "running" and job.until is Until.MADE:
        _judge_image(job)
    elif status != "running" and job.until is Until.ENDED:
        _end(job)


def _judge_readiness(job: Job) -> None:
    thing = job.thing or {}
    if job.readiness.get("ready"):
        _end(job)
    elif thing.get("status") == "off":
        _end(job, str(thing.get("x_problem") or "went off before it was ready"))


def _judge_image(job: Job) -> None:
    thing = job.thing
    if thing is None:
        _end(job, "was deleted meanwhile")
    elif thing["x_state"] == "ready":
        _end(job)
    elif thing["x_state"] != "building":
        _end(job, str(thing.get("x_problem") or "nothing came of it"))


def _end(job: Job, problem: str = "") -> None:
    job.over, job.problem, job.ended = True, problem, clock.monotonic()


def _failure(job: Job) -> str:
    said = str((job.action.get("error") or {}).get("message") or f"{job.action.get('command')} failed")
    problem = str((job.thing or {}).get("x_problem") or "")
    if not problem or problem in said or said in problem:
        return said
    return f"{said}: {problem}"


def _image(api: Api, job: Job) -> Json | None:
    """The image that is built: the thing itself, or what the server is made from while that is not there yet."""
    if job.collection in ("images", "isos"):
        return job.thing
    image = (job.thing or {}).get("image") or {}
    if job.action.get("status") != "running" or (job.image or image).get("x_state") in (None, "ready"):
        return job.image or image
    return _seek(api, f"/v1/images/{image['id']}", "image")


def _seek(api: Api, path: str, key: str) -> Json | None:
    try:
        found: Json = api.get(path, patience=PATIENCE)[key]
    except NotFound:
        return None
    return found


def _give_up(jobs: Iterable[Job], timeout: float) -> None:
    for job in jobs:
        waiting = f": waits for {job.waiting_for}" if job.waiting_for else ""
        what = "still not ready" if job.until is Until.READY else "still not done"
        _end(job, f"{what} after {timeout:g} s{waiting}")


def _interval(elapsed: float) -> float:
    """Seconds until we look again: often at first, since most things take a moment."""
    for until, interval in ((2, 0.1), (10, 0.25), (60, 0.5)):
        if elapsed < until:
            return interval
    return 1.0
