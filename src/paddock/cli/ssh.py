"""`paddock ssh`: the real ssh client, told where the server is and which host key is its own.

Host keys are kept per server uuid in a file of ours, so that a forwarded port that changes hands never brings a
wrong warning, and never a missing one.
"""

import shlex
from typing import Annotated

import typer

from paddock.base.errors import Conflict, Unavailable
from paddock.base.run import become
from paddock.cli import follow, keys, lookup, progress
from paddock.cli.client import Api, Json
from paddock.cli.output import stderr
from paddock.cli.server import PANEL, Server
from paddock.cli.session import api_of, config_dir
from paddock.cli.state import state_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ssh", rich_help_panel=PANEL)(ssh)


def ssh(
    ctx: typer.Context,
    server: Server,
    command: Annotated[list[str] | None, typer.Argument(help="What to run there, after --.")] = None,
    login: Annotated[str, typer.Option("-l", "--login", help="User; else the image's.", show_default=False)] = "",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Try at once, ready or not.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait until it is ready.")] = 120.0,
    print_only: Annotated[bool, typer.Option("--print", help="Print the ssh command instead.")] = False,
) -> None:
    """Log in to a server, or run a command on it. The exit code is that of ssh.

    Examples:
      paddock ssh web
      paddock ssh web -l root
      paddock ssh web -- uname -a
      paddock ssh --print web
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    if state_of(thing) in ("off", "paused", "hibernated"):  # a start goes on with each
        raise Conflict(f"{thing['name']} is {state_of(thing)}", hint=f"start it: paddock start {thing['name']}")
    if not (no_wait or print_only or thing["x_ready"]["ready"]):
        thing = _wait(api, thing, timeout)
    argv = command_line(thing, login, command or [])
    if print_only:
        print(shlex.join(argv))
    else:
        become(argv)


def command_line(thing: Json, login: str, command: list[str]) -> list[str]:
    """The ssh command for a server. Raises Conflict when it has no address."""
    address = thing.get("x_ssh")
    if not address:
        raise Conflict(f"{thing['name']} has no SSH address yet", hint=f"paddock server show {thing['name']}")
    argv = [
        "ssh", "-p", str(address["port"]), "-l", login or str(address["user"]),
        "-o", f"HostKeyAlias=paddock-{thing['x_uuid']}",
        "-o", f'UserKnownHostsFile="{config_dir() / "known_hosts"}"',
        "-o", "StrictHostKeyChecking=accept-new",
    ]  # fmt: skip
    for key in keys.known_keys():
        argv += ["-i", str(key)]
    return [*argv, "--", str(address["host"]), *command]


def _wait(api: Api, thing: Json, timeout: float) -> Json:
    name = str(thing["name"])
    stderr().print(f"{name} is not ready yet; waiting (Ctrl-C stops, --no-wait skips this)")
    job = follow.Job(name, {"id": 0, "status": "success"}, thing, until=follow.Until.READY)
    follow.follow(api, [job], progress.view(f"Waiting for {name}"), timeout)
    if job.problem or job.thing is None:
        raise Unavailable(
            f"{name}: {job.problem}", hint=f"`paddock console {name}` shows what it does; --no-wait tries all the same"
        )
    return job.thing
