"""Waiting for one action of one thing, and saying how it ended: what all commands share that ask for a change."""

from collections.abc import Sequence
from typing import Annotated

import typer

from paddock.base.errors import Invalid, PaddockError, Unavailable
from paddock.cli import follow, progress
from paddock.cli.client import Api, Json
from paddock.cli.fail import report, say
from paddock.cli.output import Format, show_json, stdout

PATIENT = 600.0  # seconds; the control plane gives up earlier, and says why

NewName = Annotated[str, typer.Argument(metavar="NAME", help="New name.", show_default=False)]
Changes = Annotated[
    list[str], typer.Argument(metavar="LABEL", help="key=value to set, key- to remove.", show_default=False)
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return when it is accepted.")]


def until_done(
    api: Api, label: str, action: Json, done: str, *, wait: bool = True, output: Format = Format.TABLE,
    quiet: bool = False, patience: float = PATIENT,
) -> None:  # fmt: skip
    """Follow an action to its end and print `<label> <done>`. Raises typer.Exit(1) when it failed, 130 on Ctrl-C."""
    if not wait:
        if not quiet:
            tell(action, f"{label}: {action['command']} is accepted, action {action['id']}", output)
        return
    job = follow.Job(label, action, collection="actions")
    try:
        follow.follow(api, [job], progress.view(f"Waiting until {label} {done}"), patience)
    except KeyboardInterrupt:
        say(f"stopped waiting; it goes on: {label}", f"`paddock action show {action['id']}` shows how far it is")
        raise typer.Exit(130) from None
    if job.problem:
        say(job.complaint, job.hint or f"`paddock action show {action['id']}` shows what happened")
        raise typer.Exit(1)
    if not quiet:
        tell(job.action, f"{label} {done}", output)


def delete_each(
    api: Api, things: Sequence[tuple[str, str, Json]], output: Format = Format.TABLE, *, done: str = "is deleted"
) -> None:
    """Delete these, each said by its label, its path and what it was. One that can't be deleted stops no other; then
    Exit(1)."""
    gone: list[Json] = []
    for label, path, thing in things:
        try:
            api.delete(path)
        except Unavailable:
            raise
        except PaddockError as error:
            said = error.message if label in error.message else f"{label}: {error.message}"
            report(type(error)(said, hint=error.hint))
        else:
            gone.append(thing)
            if output is Format.TABLE:
                stdout().print(f"{label} {done}")
    if output is Format.JSON:
        show_json(gone)
    if len(gone) < len(things):
        raise typer.Exit(1)


def tell(thing: Json, text: str, output: Format) -> None:
    """Say what was changed: in a sentence, or as the API shows it now."""
    if output is Format.JSON:
        show_json(thing)
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
            raise Invalid(f"{word!r} is neither key=value (to set) nor key- (to remove)", field="labels")
    return wanted


def labels_of(words: list[str] | None) -> dict[str, str]:
    """The labels of `--label key=value`, each given once. Raises Invalid."""
    if wrong := [word for word in words or () if "=" not in word]:
        raise Invalid(f"--label {wrong[0]!r} is not key=value", field="labels")
    return changed_labels({}, words or [])
