"""Waiting for one action of one thing, and saying how it ended: what all commands share that ask for a change."""

from typing import Annotated

import typer

from paddock.base.errors import Invalid
from paddock.cli import follow, progress
from paddock.cli.client import Api, Json
from paddock.cli.fail import say
from paddock.cli.output import Format, show_json, stdout

PATIENT = 600.0  # seconds; the control plane gives up earlier, and says why

NoWait = Annotated[bool, typer.Option("--no-wait", help="Return when it is accepted.")]


def until_done(
    api: Api, label: str, action: Json, done: str, *, wait: bool = True, output: Format = Format.TABLE,
    quiet: bool = False,
) -> None:  # fmt: skip
    """Follow an action to its end and print `<label> <done>`. Raises typer.Exit(1) when it failed, 130 on Ctrl-C."""
    if not wait:
        if not quiet:
            _tell(action, f"{label}: {action['command']} is accepted, action {action['id']}", output)
        return
    job = follow.Job(label, action, collection="actions")
    try:
        follow.follow(api, [job], progress.view(f"Waiting until {label} {done}"), PATIENT)
    except KeyboardInterrupt:
        say(f"stopped waiting; it goes on: {label}", f"`paddock action show {action['id']}` shows how far it is")
        raise typer.Exit(130) from None
    if job.problem:
        say(f"{label}: {job.problem}", job.hint or f"`paddock action show {action['id']}` shows what happened")
        raise typer.Exit(1)
    if not quiet:
        _tell(job.action, f"{label} {done}", output)


def _tell(action: Json, text: str, output: Format) -> None:
    if output is Format.JSON:
        show_json(action)
    else:
        stdout().print(text)


def changed_labels(labels: dict[str, str], words: list[str]) -> dict[str, str]:
    """Labels after `key=value` (set), `key=` (set to nothing) and `key-` (removed). Raises Invalid."""
    wanted = dict(labels)
    for word in words:
        key, equals, value = word.partition("=")
        if equals:
            wanted[key] = value
        elif word.endswith("-"):
            wanted.pop(word.removesuffix("-"), None)
        else:
            raise Invalid(f"{word!r} is neither key=value nor key-", field="labels")
    return wanted


def labels_of(words: list[str] | None) -> dict[str, str]:
    """The labels of `--label key=value`, each given once. Raises Invalid."""
    return changed_labels({}, words or [])
