"""Doing things to servers: power, pause, hibernate, delete; to one, several, a group or all."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import typer

from paddock.base.errors import Conflict, NotFound, PaddockError
from paddock.cli import ask, follow, lookup, progress, server
from paddock.cli.client import Api, Json
from paddock.cli.complete import server_names
from paddock.cli.fail import report, say
from paddock.cli.output import Format, Output, show_json, stdout
from paddock.cli.server import PANEL
from paddock.cli.session import api_of
from paddock.cli.state import state_of
from paddock.cli.wait import NoWait

PATIENT = 300.0  # seconds; the control plane gives up earlier, and says why

Servers = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SERVER...", help="Names, ids, or node/number.", show_default=False, autocompletion=server_names
    ),
]
All = Annotated[bool, typer.Option("--all", help="Every server of the project.")]
Group = Annotated[str, typer.Option("-g", "--group", help="Every server of this group.")]


@dataclass(frozen=True)
class Verb:
    """An action that every power command is made of."""

    action: str
    done: str
    help: str
    hint: str = "`paddock server timeline {name}` shows what happened"
    ours: bool = False  # beyond what /v1 has


START = Verb("poweron", "is running", """Start servers that are off.

Examples:
  paddock start web
  paddock start --group pf1
""")  # fmt: skip
SHUTDOWN = Verb("shutdown", "is off", """Ask the guest to shut down, and wait until it is off (90 s).

Examples:
  paddock server shutdown web db
  paddock server shutdown --all
""", "`paddock stop --force {name}` powers it off, `paddock console {name}` shows what it does")  # fmt: skip
POWEROFF = Verb("poweroff", "is off", """Power servers off at once: what the guest has not written is lost.

Examples:
  paddock server poweroff web
""")  # fmt: skip
REBOOT = Verb("reboot", "is rebooting", """Ask the guest to reboot.

Out of the rescue system it leads back to the own disk.

Examples:
  paddock restart web
  paddock restart --group pf1
""")  # fmt: skip
RESET = Verb("reset", "was reset", """Press the reset button: the guest is not asked.

Out of the rescue system it leads back to the own disk.

Examples:
  paddock server reset web
""")  # fmt: skip
PAUSE = Verb("pause", "is paused", """Have servers stand still: their memory stays, their CPUs do nothing.

Examples:
  paddock pause web
  paddock pause --group pf1
""", ours=True)  # fmt: skip
RESUME = Verb("resume", "is running", """Have paused servers go on.

Examples:
  paddock resume web
""", ours=True)  # fmt: skip
HIBERNATE = Verb("hibernate", "is hibernated", """Write servers' memory to disk and end them.

`paddock wake` or `paddock start` goes on where they were; powering one off drops its memory.

Examples:
  paddock hibernate web
  paddock hibernate --group pf1
""", ours=True)  # fmt: skip
WAKE = Verb("wake", "is running", """Have hibernated servers go on where they were.

Examples:
  paddock wake web
""", ours=True)  # fmt: skip
DELETE = Verb("delete", "is deleted", "")


def register(app: typer.Typer) -> None:
    """Add the commands to `paddock server`, and the short forms to `app`."""
    for name, function in (
        ("start", power(START)), ("shutdown", power(SHUTDOWN)), ("stop", stop), ("poweroff", power(POWEROFF)),
        ("reboot", power(REBOOT)), ("reset", power(RESET)), ("delete", delete),
        ("pause", power(PAUSE)), ("resume", power(RESUME)), ("hibernate", power(HIBERNATE)), ("wake", power(WAKE)),
    ):  # fmt: skip
        server.app.command(name)(function)
    for name, function in (
        ("start", power(START)), ("stop", stop), ("restart", power(REBOOT)), ("rm", delete),
        ("pause", power(PAUSE)), ("resume", power(RESUME)), ("hibernate", power(HIBERNATE)), ("wake", power(WAKE)),
    ):  # fmt: skip
        app.command(name, rich_help_panel=PANEL)(function)


def power(verb: Verb) -> Callable[..., None]:
    """The command that does this to servers."""

    def command(
        ctx: typer.Context, servers: Servers = None, all: All = False, group: Group = "", no_wait: NoWait = False,
        output: Output = Format.TABLE,
    ) -> None:  # fmt: skip
        api = api_of(ctx)
        found = lookup.servers(api, servers or [], all=all, group=group)
        _each(api, found, verb, wait=not no_wait, output=output)

    command.__doc__ = verb.help
    return command


def stop(
    ctx: typer.Context, servers: Servers = None, all: All = False, group: Group = "",
    force: Annotated[bool, typer.Option("-f", "--force", help="Pull the plug: the guest is not asked.")] = False,
    no_wait: NoWait = False, output: Output = Format.TABLE,
) -> None:  # fmt: skip
    """Shut servers down; with --force, power them off at once.

    Examples:
      paddock stop web
      paddock stop --group pf1
      paddock stop --force web
    """
    api = api_of(ctx)
    found = lookup.servers(api, servers or [], all=all, group=group)
    _each(api, found, POWEROFF if force else SHUTDOWN, wait=not no_wait, output=output)


def delete(
    ctx: typer.Context, servers: Servers = None, all: All = False, group: Group = "",
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Don't ask before deleting --all or a --group.")] = False,
    no_wait: NoWait = False, output: Output = Format.TABLE,
) -> None:  # fmt: skip
    """Delete servers and their disks, running or not. This can't be undone.

    Servers that you name are deleted without a question.

    Examples:
      paddock rm web
      paddock rm web-1 web-2 web-3
      paddock rm --group pf1 --yes
    """
    api = api_of(ctx)
    found = lookup.servers(api, servers or [], all=all, group=group)
    if found and not servers and not yes:
        _confirm(found)
    _each(api, found, DELETE, wait=not no_wait, output=output)


def _confirm(found: Sequence[Json]) -> None:
    names = ", ".join(str(s["name"]) for s in found)
    if not ask.at_terminal():
        raise Conflict(f"this would delete {len(found)} servers: {names}", hint="if you mean it: --yes")
    if not typer.confirm(f"Delete {len(found)} servers and their disks: {names}?", err=True):
        raise typer.Exit(1)


def _each(api: Api, found: Sequence[Json], verb: Verb, *, wait: bool, output: Format) -> None:
    """Ask for each, wait for all, then say how each ended. One that fails stops no other."""
    until = follow.Until.GONE if verb is DELETE else follow.Until.ENDED
    jobs, failed = [], False
    for thing in found:
        try:
            jobs.append(follow.Job(str(thing["name"]), _ask(api, thing, verb), thing, until=until))
        except PaddockError as error:
            report(type(error)(f"{thing['name']}: {error.message}", hint=error.hint, field=error.field))
            failed = True
    if wait and jobs:
        _follow(api, jobs, verb.done)
    for job in jobs:
        if job.problem:
            say(f"{job.label}: {job.problem}", job.hint or verb.hint.format(name=job.label))
        elif output is Format.TABLE:
            stdout().print(f"{job.label} {verb.done}" if wait else f"{job.label}: {verb.action} is accepted")
    if wait:
        done = {(job.thing or {}).get("id") for job in jobs if not job.problem}
        _tell_cold_starts(api, [s for s in found if state_of(s) == "hibernated" and s["id"] in done])
    if output is Format.JSON:
        show_json([job.action for job in jobs])
    if failed or any(job.problem for job in jobs):
        raise typer.Exit(1)


def _tell_cold_starts(api: Api, asleep: Sequence[Json]) -> None:
    """Who was to go on where it was, and could not."""
    for thing in asleep:
        with suppress(NotFound):  # it was deleted
            now = api.get(f"/v1/servers/{thing['id']}")["server"]
            if state_of(now) == "running" and now.get("x_problem"):
                say(f"{now['name']}: {now['x_problem']}")


def _ask(api: Api, thing: Json, verb: Verb) -> Json:
    path = f"/v1/servers/{thing['id']}"
    post = f"{'/x' if verb.ours else ''}{path}/actions/{verb.action}"
    answer = api.delete(path) if verb is DELETE else api.post(post)
    action: Json = answer["action"]
    return action


def _follow(api: Api, jobs: Sequence[follow.Job], done: str) -> None:
    title = f"Waiting until {jobs[0].label if len(jobs) == 1 else f'{len(jobs)} servers'} {done}"
    try:
        follow.follow(api, jobs, progress.view(title), PATIENT)
    except KeyboardInterrupt:
        names = " ".join(job.label for job in jobs if not job.over)
        say(f"stopped waiting; it goes on: {names}", "`paddock ls` shows how far it is")
        raise typer.Exit(130) from None
