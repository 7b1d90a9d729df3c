"""`paddock server fork`: new servers that go on where a running one is, memory and all."""

from collections.abc import Sequence
from typing import Annotated

import typer

from paddock.base.errors import PaddockError
from paddock.cli import follow, keys, launch, lookup, progress
from paddock.cli.client import Api, Json
from paddock.cli.fail import report
from paddock.cli.output import Format, Output, Quiet, show_json, stderr, stdout
from paddock.cli.server import Server
from paddock.cli.session import api_of

FORK = 900.0  # seconds

Count = Annotated[int | None, typer.Option("-c", "--count", min=1, max=100, help="Several at once.")]
Name = Annotated[str, typer.Option(help="Of the new server; several are numbered.", show_default=False)]
Key = Annotated[list[str] | None, typer.Option(help="Lets this one in too: name, id or .pub file.")]
Label = Annotated[list[str] | None, typer.Option("-l", "--label", help="key=value, repeatable.")]


def fork_server(
    ctx: typer.Context,
    server: Server,
    count: Count = None,
    name: Name = "",
    ssh_key: Key = None,
    label: Label = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return when it is accepted.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait until they can be used.")] = FORK,
    output: Output = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Fork a running server: new ones go on where it is, with its memory, its processes and its disk.

    It stands still for milliseconds. Each fork has a name, host keys, addresses and random numbers of its own before it
    can be reached, and begins on the same node. Whoever may log in to the server may log in to its forks.

    Examples:
      paddock server fork web
      paddock server fork web --count 3
      paddock server fork web --name try-it --label env=test
    """
    api = api_of(ctx)
    wanted: Json = {"count": count, "name": name or None, "labels": dict(launch.label_of(text) for text in label or ())}
    if ssh_key:
        wanted["ssh_keys"] = keys.chosen(api, ssh_key)
    body = {key: value for key, value in wanted.items() if value}
    found = lookup.server(api, server)
    answer = api.post(f"/x/v1/servers/{found['id']}/fork", body)
    jobs = _jobs(answer)
    if not no_wait:
        _follow(api, str(found["name"]), jobs, timeout)
        answer["action"] = api.get(f"/v1/actions/{answer['action']['id']}")["action"]
    _report(jobs)
    if quiet:
        print("\n".join(job.label for job in jobs))
    elif output is Format.JSON:
        show_json({**answer, "servers": [job.thing or {} for job in jobs]})
    else:
        _tell(str(found["name"]), answer, jobs, waited=not no_wait)
    if any(job.problem for job in jobs):
        raise typer.Exit(1)


def _jobs(answer: Json) -> list[follow.Job]:
    made = zip(answer["servers"], answer["next_actions"], strict=True)
    return [follow.Job(str(thing["name"]), action, thing, until=follow.Until.READY) for thing, action in made]


def _follow(api: Api, name: str, jobs: Sequence[follow.Job], timeout: float) -> None:
    what = jobs[0].label if len(jobs) == 1 else f"{len(jobs)} servers"
    try:
        follow.follow(api, jobs, progress.view(f"Forking {name} into {what}"), timeout)
    except KeyboardInterrupt:
        stderr().print(f"stopped waiting; it goes on: {' '.join(job.label for job in jobs)}")
        raise typer.Exit(130) from None


def _report(jobs: Sequence[follow.Job]) -> None:
    for job in jobs:
        if job.problem:
            hint = job.hint or f"`paddock server timeline {job.label}` shows how far it came"
            report(PaddockError(f"{job.label}: {job.problem}", hint=hint))


def _tell(name: str, answer: Json, jobs: Sequence[follow.Job], *, waited: bool) -> None:
    console = stdout()
    if not waited:
        console.print(f"{name} is being forked; look with: paddock server show {jobs[0].label}")
        return
    if still := next((step["detail"] for step in answer["action"].get("x_steps") or [] if step["name"] == "fork"), ""):
        console.print(f"{name} was forked: {still}")
    for job in jobs:
        if not job.problem:
            console.print(f"{job.label} is {launch.ready_by(job.readiness)}; log in: paddock ssh {job.label}")
