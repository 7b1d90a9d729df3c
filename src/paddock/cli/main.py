"""`paddock`: the command line. Puts the nouns together, finds the cloud, and turns errors into words and exit codes.

Exit codes: 0 done, 1 it failed, 2 it was asked wrongly, 130 Ctrl-C; `ssh` and `exec` give that of what they ran.
"""

import contextlib
import os
import re
import sys
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import typer

from paddock import __version__
from paddock.base import log
from paddock.base.errors import PaddockError
from paddock.base.statedir import STATE_ENV
from paddock.cli import (
    action,
    apply,
    base,
    change,
    cloud,
    complete,
    completion,
    console,
    copy,
    env,
    execute,
    image,
    image_check,
    image_create,
    inventory,
    iso,
    keyboard,
    launch,
    manners,
    metrics,
    node,
    placement_group,
    pool,
    power,
    project,
    server,
    server_type,
    shell,
    sizes,
    ssh,
    ssh_key,
    token,
    vnc,
    volume,
    words,
)
from paddock.cli.fail import report, say
from paddock.cli.output import Format, Output, show_json, stdout
from paddock.cli.session import ENDPOINT_ENV, Session, api_of, config_dir

MORE = "More"
COLLECTIONS = {
    "image": "images", "launch": "images", "iso": "isos", "volume": "volumes", "type": "server_types",
    "ssh-key": "ssh_keys", "placement-group": "placement_groups",
}  # fmt: skip

app = typer.Typer(
    name="paddock", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"paddock {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    ctx: typer.Context,
    state_dir: Annotated[
        Path | None, typer.Option(envvar=STATE_ENV, help="Where the cloud of this machine is.", show_default=False)
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(envvar=ENDPOINT_ENV, help="Address of its API.", show_default=False)
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log what we do to stderr.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """A cloud of KVM virtual machines on your own machines.

    Start:
      paddock up --detach              a cloud on this machine
      paddock launch debian-12         a server, ready to log in to
      paddock ssh NAME                 log in
      paddock ls                       what there is
      paddock rm NAME                  delete it
    """
    if state_dir:
        os.environ[STATE_ENV] = str(state_dir.absolute())
    if verbose:
        log.setup("paddock", "DEBUG")
    ctx.obj = Session(endpoint)


def version_command(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """Print our version and that of the cloud.

    Examples:
      paddock version
    """
    cloud = api_of(ctx).get("/x/v1/version")
    if output is Format.JSON:
        show_json({"client": __version__, "server": cloud})
    else:
        stdout().print(f"paddock {__version__}, the cloud runs {cloud['name']} {cloud['version']}")


def shell_command(ctx: typer.Context) -> None:
    """Type commands at a prompt; `help` lists them.

    Examples:
      paddock shell
      paddock --endpoint http://manager:7480 shell
    """
    session = ctx.find_object(Session)
    before = ["--endpoint", session.endpoint] if session and session.endpoint else []
    history = config_dir() / "history"
    raise typer.Exit(shell.run_shell(lambda words: run([*before, *words]), partial(_completions, ctx), history))


def _completions(ctx: typer.Context, before: list[str]) -> list[str]:
    """The commands at this place, or the names of what its noun is about."""
    group = _whole()
    collection = COLLECTIONS.get(before[0] if before else "", "servers")
    for word in before:
        inner = getattr(group, "commands", {}).get(word)
        if inner is None:
            break
        group = inner
    if commands := getattr(group, "commands", None):
        return sorted(name for name, command in commands.items() if not command.hidden)
    with contextlib.suppress(PaddockError):
        return complete.known(api_of(ctx), collection)
    return []


cloud.register(app)
launch.register(app)
app.command("ls", rich_help_panel=server.PANEL)(server.list_servers)
power.register(app)
change.register(app)
server.app.command("metrics")(metrics.metrics)
server.app.command("sizes")(sizes.sizes)
server.app.command("send-key")(keyboard.send_key)
image.app.command("create")(image_create.create)
image.app.command("check")(image_check.check)
words.register(app)
for command in (ssh, console, vnc, execute, copy):
    command.register(app)
for name, noun in (
    ("server", server), ("image", image), ("iso", iso), ("volume", volume), ("type", server_type), ("ssh-key", ssh_key),
    ("action", action), ("placement-group", placement_group), ("node", node),
    ("project", project), ("token", token), ("base", base), ("pool", pool),
):  # fmt: skip
    app.add_typer(noun.app, name=name, rich_help_panel="Everything, by noun")
for name, function in (
    ("apply", apply.apply), ("inventory", inventory.inventory), ("env", env.env), ("limits", project.limits),
    ("cluster", node.cluster), ("shell", shell_command), ("completion", completion.completion),
    ("version", version_command),
):  # fmt: skip
    app.command(name, rich_help_panel=MORE)(function)
manners.apply(app)


@cache
def _whole() -> Any:
    """All commands as they are parsed. Making them of the functions takes longer than most commands: it is done once,
    also where a shell runs one after the other."""
    return typer.main.get_command(app)


def run(argv: list[str]) -> int:
    """Run one command line. Answers its exit code; prints what went wrong."""
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    try:
        return int(_whole()(argv, prog_name="paddock", standalone_mode=False) or 0)
    except typer.TyperException as error:
        return _usage(error)
    except PaddockError as error:
        report(error)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        if sys.stderr.isatty():
            print(file=sys.stderr)  # what was typed last, and ^C, stay on their line
        say("interrupted")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1


def main() -> None:
    """The program."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def _usage(error: typer.TyperException) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        return 2
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "paddock"
    text = re.sub(r"\s+", " ", error.format_message())
    said = text.removeprefix("Invalid value: ").replace("Value error, ", "").rstrip(".")
    typed = re.match("No such command '([^']+)'", said) if context and context.parent is None else None
    say(said, words.ELSEWHERE.get(typed[1] if typed else "") or f"{path} --help")
    return error.exit_code


if __name__ == "__main__":
    main()
