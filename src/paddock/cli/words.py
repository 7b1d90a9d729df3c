"""The words of kvm-cloud's prompt: `new`, `instances`, `run`; so that who knows them finds them in `paddock shell`."""

from typing import Annotated

import typer

from paddock.cli import launch, lookup, names
from paddock.cli.client import Json
from paddock.cli.output import Column, Format, Output, show_rows, stdout
from paddock.cli.session import api_of
from paddock.cli.state import state_of
from paddock.cli.wait import until_done

# What other tools call things, and what to type here.
ELSEWHERE = {
    "vm": "paddock start NAME, paddock ssh NAME", "vmcreate": "paddock iso import FILE, paddock launch --iso NAME",
    "vminstantiate": "paddock launch IMAGE --count N, paddock apply -f FILE", "vmlaunch": "paddock start --group G",
    "vmrunning": "paddock ls --status running", "vmstop": "paddock stop --group G", "cld-cmcreate": "paddock launch",
    "list": "paddock ls", "create": "paddock launch IMAGE", "delete": "paddock rm NAME",
}  # fmt: skip

COLUMNS = (
    Column("ID", lambda s: s.get("x_name") or s["id"]),
    Column("TEMPLATE", lambda s: (s.get("image") or {}).get("name"), least=8),
    Column("RAM", lambda s: int(s["server_type"]["memory"] * 1024), right=True),
    Column("CPUS", lambda s: s["server_type"]["cores"], right=True),
    Column("SSH PORT", lambda s: _port(s) if state_of(s) == "running" else "-", right=True),
    Column("STATUS", lambda s: "ONLINE" if state_of(s) == "running" else "OFFLINE"),
    Column("NAME", lambda s: s["name"], drop=1),
)


def register(app: typer.Typer) -> None:
    """Add the words; they are left out of the list of commands, where each has a longer name."""
    for name, function in (("new", new), ("instances", instances), ("run", run)):
        app.command(name, hidden=True)(function)


def new(
    ctx: typer.Context,
    template: Annotated[str, typer.Argument(help="Image: name or id.", show_default=False)],
    ram: Annotated[int, typer.Argument(min=1, help="MB, at least.", show_default=False)],
    cpus: Annotated[int, typer.Argument(min=1, help="At least.", show_default=False)],
) -> None:
    """Create a server that is off, and say its id and SSH port. `run ID` starts it. (See also: paddock launch)

    Examples:
      paddock new tiny 64 2
    """
    api = api_of(ctx)
    order = launch.order_for(api, template, cpus, ram / 1024)
    taken = {str(s["name"]) for s in api.list("/v1/servers")}
    answer = api.post("/v1/servers", order.body(names.fresh(str(order.image["name"]), taken)))
    server = answer["server"]
    until_done(api, str(server["name"]), answer["action"], "is created", quiet=True)
    made = api.get(f"/v1/servers/{server['id']}")["server"]
    stdout().print(f"result: ID: {made.get('x_name') or made['id']}, SSH port: {_port(made)}")


def instances(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """Show all servers as kvm-cloud does. (See also: paddock ls)

    Examples:
      paddock instances
    """
    show_rows(api_of(ctx).list("/v1/servers", {"sort": "id:asc"}), COLUMNS, output)


def run(ctx: typer.Context, id: Annotated[str, typer.Argument(help="node/number, or a name.")]) -> None:
    """Start a server. (See also: paddock start)

    Examples:
      paddock run n1/1000
    """
    api = api_of(ctx)
    server = lookup.server(api, id)
    action = api.post(f"/v1/servers/{server['id']}/actions/poweron")["action"]
    until_done(api, str(server["name"]), action, "runs", quiet=True)
    stdout().print("OK")


def _port(server: Json) -> object:
    return (server.get("x_ssh") or {}).get("port", "-")
