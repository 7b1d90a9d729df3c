"""`paddock action`: what was asked of a server, and how it went."""

from typing import Annotated

import typer

from paddock.cli import lookup
from paddock.cli.client import Json
from paddock.cli.output import Column, Format, Output, age, duration, show_one, show_rows, stdout
from paddock.cli.progress import collapse
from paddock.cli.server import Server
from paddock.cli.session import api_of

app = typer.Typer(no_args_is_help=True, help="Actions: what was asked of a server, step by step.")


def _took(action: Json) -> str:
    return duration(sum(float(s.get("seconds") or 0) for s in action.get("x_steps") or []))


def _note(action: Json) -> object:
    return (action.get("error") or {}).get("message") or action.get("x_waiting_for") or ""


COLUMNS = (
    Column("ID", lambda a: a["id"], right=True),
    Column("COMMAND", lambda a: a["command"]),
    Column("STATUS", lambda a: a["status"]),
    Column("DONE", lambda a: f"{a['progress']} %", right=True),
    Column("AGE", lambda a: age(a["started"]), right=True),
    Column("TOOK", _took, drop=1, right=True),
    Column("NOTE", _note, least=12),
)
STEPS = (
    Column("STEP", lambda s: s["name"]),
    Column("TOOK", lambda s: duration(s.get("seconds")), right=True),
    Column("OUTCOME", lambda s: s.get("outcome")),
    Column("WAITING FOR", lambda s: s.get("waiting_for") or "", least=12),
    Column("DETAIL", lambda s: s.get("detail") or "", least=12),
)


@app.command("list")
def list_actions(ctx: typer.Context, server: Server, output: Output = Format.TABLE) -> None:
    """Show the actions of a server, the latest last.

    Examples:
      paddock action list web
    """
    api = api_of(ctx)
    found = api.list(f"/v1/servers/{lookup.server(api, server)['id']}/actions", {"sort": "id:asc"})
    show_rows(found, COLUMNS, output)


@app.command("show")
def show_action(
    ctx: typer.Context,
    action: Annotated[int, typer.Argument(metavar="ID", min=1, help="Of `paddock action list`.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Show one action and each of its steps.

    Examples:
      paddock action show 17
    """
    found = api_of(ctx).get(f"/v1/actions/{action}")["action"]
    about = ", ".join(f"{r['type']} {r['id']}" for r in found["resources"])
    show_one([
        ("ID", found["id"]), ("Command", found["command"]), ("Status", found["status"]), ("About", about),
        ("Started", found["started"]), ("Finished", found["finished"]), ("Waiting for", found.get("x_waiting_for")),
        ("Error", (found.get("error") or {}).get("message")),
    ], found, output)  # fmt: skip
    if output is Format.TABLE and found.get("x_steps"):
        stdout().print()
        show_rows(collapse(found["x_steps"]), STEPS, output)
