"""`paddock exec`: run a command in a server through its guest agent, without SSH or network."""

import base64
import sys
from typing import Annotated, TextIO

import typer

from paddock.base.errors import Invalid, Unavailable
from paddock.cli import lookup
from paddock.cli.client import Api, Json
from paddock.cli.fail import say
from paddock.cli.server import PANEL, Server
from paddock.cli.session import api_of

DAY, LONGEST, USUAL = 86400.0, 600.0, 60.0  # seconds
GRACE = 15.0  # seconds that the answer may take beyond the command's own time


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("exec", rich_help_panel=PANEL)(execute)


def execute(
    ctx: typer.Context,
    server: Server,
    command: Annotated[list[str], typer.Argument(help="Program and arguments, after --.", show_default=False)],
    timeout: Annotated[
        float | None,
        typer.Option(min=1, max=86400, help="Seconds it may run: 60, or a day with --stream; at most 600, or a day."),
    ] = None,
    stream: Annotated[bool, typer.Option("-s", "--stream", help="Show its output while it runs.")] = False,
    stdin: Annotated[bool, typer.Option("-i", "--stdin", help="Pass our stdin (UTF-8) to it.")] = False,
) -> None:
    """Run a command in a server through the guest agent; its exit code becomes ours.

    It needs no SSH, key or network: only the guest agent, which our images have. Ctrl-C with
    --stream ends the command in the server, with all that it started; without, it goes on there.

    Examples:
      paddock exec web -- cloud-init status --long
      paddock exec web --stream -- apt-get -y upgrade
      echo hello | paddock exec -i web -- tee /tmp/hello
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    if stream:
        body = {"argv": command, "stdin": _stdin() if stdin else "", "timeout": timeout or DAY, "stream": True}
        raise typer.Exit(_streamed(api, f"/x/v1/servers/{thing['id']}/exec", body))
    timeout = min(timeout or USUAL, LONGEST)
    body = {"argv": command, "stdin": _stdin() if stdin else "", "timeout": timeout}
    answer = api.post(f"/x/v1/servers/{thing['id']}/exec", body, timeout=timeout + GRACE)
    sys.stdout.write(answer.get("stdout") or "")
    sys.stderr.write(answer.get("stderr") or "")
    if answer.get("truncated"):
        say("the output was too long and is cut short", "--stream shows all of it")
    code = answer.get("exit_code")
    raise typer.Exit(255 if code is None else int(code) & 255)


def _streamed(api: Api, path: str, body: Json) -> int:
    """Print what it says as it says it. Its exit code; 255 when the connection or the command was cut off."""
    try:
        for line in api.lines(path, body):
            if data := line.get("data"):
                out = sys.stderr if line.get("stream") == "stderr" else sys.stdout
                _write(out, base64.b64decode(data))
            if "error" in line:
                raise Unavailable(str(line["error"].get("message")), hint="what it wrote until then is above")
            if "exit_code" in line:
                return int(line["exit_code"]) & 255
    except KeyboardInterrupt:
        say("interrupted: the command is ended in the server")
        return 130
    raise Unavailable("the answer ended before the command did", hint="it may have been ended")


def _write(out: TextIO, data: bytes) -> None:
    """Bytes as they are, where that is possible; what takes text only gets text."""
    if raw := getattr(out, "buffer", None):
        out.flush()
        raw.write(data)
        raw.flush()
    else:
        out.write(data.decode(errors="replace"))


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as e:
        raise Invalid("stdin is not UTF-8, and the guest agent takes text only", field="stdin") from e
