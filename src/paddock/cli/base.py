"""`paddock base`: what every server is set up with beneath its own user data."""

import os
import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from paddock.base.errors import PaddockError, Refused
from paddock.base.run import attended
from paddock.cli import ask
from paddock.cli.client import Json
from paddock.cli.fail import report
from paddock.cli.given import text_of
from paddock.cli.output import Format, Output, printable, show_json, stdout
from paddock.cli.session import api_of

EDITOR = "vi"
LATER = "servers that are made or rebuilt from now on get it"

app = typer.Typer(no_args_is_help=True, help="What servers are set up with beneath their user data: sysctls, sshd …")


@app.command("show")
def show(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """Print the base configuration: a cloud-config.

    Examples:
      paddock base show
      paddock base show > base.yaml
    """
    base = api_of(ctx).get("/x/v1/base")["base"]
    if output is Format.JSON:
        show_json(base)
    else:
        stdout().print(printable(base["text"].rstrip("\n")))


@app.command("set")
def replace(
    ctx: typer.Context,
    file: Annotated[str, typer.Option("-f", "--file", help="A cloud-config, - for stdin.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Put another in its place. For operators.

    Examples:
      paddock base set -f base.yaml
    """
    _told(
        api_of(ctx).put("/admin/v1/base", {"text": text_of(file, "file")})["base"],
        "the base configuration is changed",
        output,
    )


@app.command("edit")
def edit(ctx: typer.Context) -> None:
    """Change it in your editor ($VISUAL, $EDITOR). For operators.

    What can't be used is said, and opened again.

    Examples:
      EDITOR=nano paddock base edit
    """
    api = api_of(ctx)
    if not ask.at_terminal():
        raise Refused("there is no terminal for an editor", hint="`paddock base show`, then `paddock base set -f FILE`")
    before = str(api.get("/admin/v1/base")["base"]["text"])
    with tempfile.TemporaryDirectory(prefix="paddock-base-") as place:
        file = Path(place) / "base.yaml"
        file.write_text(before, encoding="utf-8")
        while True:
            attended([*shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or EDITOR), file])
            text = text_of(str(file), "file")
            if text == before:
                stdout().print("nothing is changed")
                return
            try:
                changed = api.put("/admin/v1/base", {"text": text})["base"]
            except PaddockError as error:
                report(error)
                typer.confirm("Open it again?", default=True, abort=True, err=True)
                continue
            _told(changed, "the base configuration is changed", Format.TABLE)
            return


@app.command("reset")
def reset(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """Go back to the default. For operators.

    Examples:
      paddock base reset
    """
    _told(api_of(ctx).delete("/admin/v1/base")["base"], "the base configuration is the default again", output)


def _told(base: Json, said: str, output: Format) -> None:
    if output is Format.JSON:
        show_json(base)
    else:
        stdout().print(f"{said}; {LATER}")
