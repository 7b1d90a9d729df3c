"""`paddock exec`: run a command in a server through its guest agent, without SSH or network."""

import sys
from typing import Annotated

import typer

from paddock.base.errors import Invalid
from paddock.cli import lookup
from paddock.cli.fail import say
from paddock.cli.server import PANEL, Server
from paddock.cli.session import api_of

GRACE = 15.0  # seconds that the answer may take beyond the command's own time


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("exec", rich_help_panel=PANEL)(execute)


def execute(
    ctx: typer.Context,
    server: Server,
    command: Annotated[list[str], typer.Argument(help="Program and arguments, after --.", show_default=False)],
    timeout: Annotated[float, typer.Option(min=1, max=600, help="Seconds it may run.")] = 60.0,
    stdin: Annotated[bool, typer.Option("-i", "--stdin", help="Pass our stdin (UTF-8) to it.")] = False,
) -> None:
    """Run a command in a server through the guest agent; its exit code becomes ours.

    It needs no SSH, key or network: only the guest agent, which our images have.

    Examples:
      paddock exec web -- cloud-init status --long
      paddock exec web --timeout 300 -- apt-get -y upgrade
      echo hello | paddock exec -i web -- tee /tmp/hello
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    body = {"argv": command, "stdin": _stdin() if stdin else "", "timeout": timeout}
    answer = api.post(f"/x/v1/servers/{thing['id']}/exec", body, timeout=timeout + GRACE)
    sys.stdout.write(answer.get("stdout") or "")
    sys.stderr.write(answer.get("stderr") or "")
    if answer.get("truncated"):
        say("the output was too long and is cut short", "let the command write to a file, and fetch that over SSH")
    code = answer.get("exit_code")
    raise typer.Exit(255 if code is None else int(code) & 255)


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as e:
        raise Invalid("stdin is not UTF-8, and the guest agent takes text only", field="stdin") from e
