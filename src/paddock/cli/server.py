"""`paddock server`: what servers there are and what became of them. Doing things to them is in power.py."""

import sys
from typing import Annotated

import typer

from paddock.base.errors import Conflict
from paddock.cli import ask, lookup
from paddock.cli.client import Api, Json
from paddock.cli.complete import server_names
from paddock.cli.output import (
    Column,
    Format,
    Output,
    Quiet,
    age,
    clean,
    duration,
    gigabytes,
    printable,
    show_one,
    show_rows,
)
from paddock.cli.session import api_of
from paddock.cli.state import State, state_of
from paddock.cli.wait import NoWait, until_done

PANEL = "Servers"
Server = Annotated[
    str,
    typer.Argument(metavar="SERVER", help="Name, id, or node/number.", show_default=False, autocompletion=server_names),
]

app = typer.Typer(no_args_is_help=True, help="Servers: list, create, power, look inside.")


def _type(server: Json, key: str) -> object:
    return (server.get("server_type") or {}).get(key)


def ready(server: Json) -> str:
    """yes, what it waits for, or - for one that is off."""
    state = server.get("x_ready") or {}
    if state_of(server) in ("off", "hibernated", "deleting", "unknown"):
        return "failed" if server.get("x_problem") else "-"
    if state.get("ready"):
        return "yes"
    return f"no: {state.get('waiting_for') or 'not yet'}"


def ssh(server: Json) -> str:
    """host:port, only while it runs."""
    address = server.get("x_ssh")
    return f"{address['host']}:{address['port']}" if address and state_of(server) == "running" else "-"


COLUMNS = (
    Column("NAME", lambda s: s["name"], least=14),
    Column("ID", lambda s: s.get("x_name") or s["id"]),
    Column("STATUS", state_of),
    Column("IMAGE", lambda s: (s.get("image") or {}).get("name"), drop=3, least=9),
    Column("TYPE", lambda s: _type(s, "name"), drop=1),
    Column("RAM", lambda s: gigabytes(_type(s, "memory")), right=True),
    Column("CPUS", lambda s: _type(s, "cores"), right=True),
    Column("SSH", ssh, least=14),
    Column("READY", ready, least=7),
    Column("AGE", lambda s: age(s["created"]), drop=2, right=True),
)


def _outcome(event: Json) -> str:
    """A wait that went on is one event, looked at many times."""
    said = "waited" if event.get("outcome") == "again" else str(event.get("outcome"))
    return f"{said} x{event['times']}" if int(event.get("times") or 1) > 1 else said


EVENTS = (
    Column("AT", lambda e: str(e["at"])[11:19]),
    Column("TOOK", lambda e: duration(e["seconds"]) if e.get("seconds") is not None else "-", right=True),
    Column("ACTION", lambda e: e.get("action"), drop=2),
    Column("STEP", lambda e: e.get("step")),
    Column("OUTCOME", _outcome),
    Column("DETAIL", lambda e: e.get("detail") or "", least=12),
    Column("CORRELATION", lambda e: e.get("correlation_id"), drop=1),
)
STEPS = (
    Column("STEP", lambda s: s["name"]),
    Column("NEEDS THE SERVER", lambda s: s["needs"]),
    Column("DESTROYS", lambda s: s["destroys"]),
)


@app.command("list")
def list_servers(
    ctx: typer.Context,
    group: Annotated[str, typer.Option("-g", "--group", help="Only of this group.")] = "",
    status: Annotated[State | None, typer.Option("-s", "--status", help="Only in this state.")] = None,
    selector: Annotated[str, typer.Option("-l", "--selector", help="Only with these labels: env=prod.")] = "",
    output: Output = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Show your servers. Columns that don't fit the terminal are left out.

    Examples:
      paddock ls
      paddock ls --status running --group pf1
      paddock ls -q -l env=prod
    """
    asked = {"label_selector": selector, "x_status": status or "", "sort": "id:asc"}
    found = api_of(ctx).list("/v1/servers", {k: v for k, v in asked.items() if v})
    show_rows([s for s in found if not group or s.get("x_group") == group], COLUMNS, output, quiet=quiet)


@app.command("show")
def show_server(ctx: typer.Context, server: Server, output: Output = Format.TABLE) -> None:
    """Show everything about one server.

    Examples:
      paddock server show web
      paddock server show n1/1000 -o json
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    volumes = _volumes(api, thing) if output is Format.TABLE else []
    show_one([*_fields(thing), ("Volumes", volumes)], thing, output)


@app.command("timeline")
def timeline(ctx: typer.Context, server: Server, output: Output = Format.TABLE) -> None:
    """Show every step of a server's life: when, how long, and what it waited for.

    Examples:
      paddock server timeline web
    """
    api = api_of(ctx)
    found = api.get(f"/x/v1/servers/{lookup.server(api, server)['id']}/timeline")["timeline"]
    show_rows(found, EVENTS, output)


@app.command("log")
def log(
    ctx: typer.Context,
    server: Server,
    bytes: Annotated[int, typer.Option("-n", "--bytes", min=1, help="So much of its end.")] = 65536,
    raw: Annotated[bool, typer.Option("--raw", help="With the guest's escape sequences.")] = False,
) -> None:
    """Print what the server wrote to its serial port, from boot messages on.

    Examples:
      paddock server log web
      paddock server log web --bytes 2000
    """
    api = api_of(ctx)
    text = api.text(f"/x/v1/servers/{lookup.server(api, server)['id']}/console_log", {"limit": bytes})
    sys.stdout.write(text if raw else printable(text))


@app.command("steps")
def steps(ctx: typer.Context, server: Server, output: Output = Format.TABLE, quiet: Quiet = False) -> None:
    """Show the steps an operator may run again, and what each needs.

    Examples:
      paddock server steps web
    """
    api = api_of(ctx)
    show_rows(_steps(api, lookup.server(api, server)), STEPS, output, quiet=quiet)


@app.command("run-step")
def run_step(
    ctx: typer.Context,
    server: Server,
    step: Annotated[str, typer.Argument(help="One of `paddock server steps`.", show_default=False)],
    confirm: Annotated[str, typer.Option(help="The server's name, for a step that destroys data.")] = "",
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Run one step of a server's life again.

    A step that destroys data wants the server's name typed, or given with --confirm.

    Examples:
      paddock server run-step web cloud_init
      paddock server run-step web clone --confirm web
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    known = {str(s["name"]): s for s in _steps(api, thing)}
    if step not in known:
        raise typer.BadParameter(f"there is no step {step!r}; there are: {', '.join(known)}", param_hint="STEP")
    if known[step]["destroys"] and not confirm and ask.at_terminal():
        ask_for = f"Step {step} destroys data of {thing['name']}."
        confirm = thing["name"] if ask.confirm_by_name(str(thing["name"]), ask_for) else ""
    if known[step]["destroys"] and confirm != thing["name"]:
        raise Conflict(f"step {step} destroys data", hint=f"if you mean it: --confirm {thing['name']}")
    action = api.post(f"/admin/v1/servers/{thing['id']}/steps/{step}", {"confirm": confirm})["action"]
    until_done(api, f"{step} of {thing['name']}", action, "is done", wait=not no_wait, output=output)


def _steps(api: Api, server: Json) -> list[Json]:
    found: list[Json] = api.get(f"/admin/v1/servers/{server['id']}/steps")["steps"]
    return [s for s in found if s.get("by_hand", True)]


def _autostart(turn: Json) -> str:
    """Only where it has any."""
    if not turn.get("enabled"):
        return ""
    waits = f", waits until {str(turn['at'])[11:19]}" if turn.get("at") else ""
    return f"yes, order {turn['order']}, the next ones {turn['delay']} s later{waits}"


def _rescue(server: Json) -> str | None:
    armed = server.get("rescue_enabled")
    if server.get("x_in_rescue"):
        return f"is what runs; its next start, reboot or reset boots {'it again' if armed else 'the own disk'}"
    return "at its next start, reboot or reset" if armed else None


def _protected(server: Json) -> str:
    """What it can't be done to."""
    against = server.get("protection") or {}
    return " and ".join(f"against {what}" for what in ("delete", "rebuild") if against.get(what))


def _volumes(api: Api, server: Json) -> list[str]:
    """Their names: the server has ids."""
    ids = server.get("volumes") or ()
    return [str(v["name"]) for v in api.list("/v1/volumes") if v["id"] in ids] if ids else []


def _fields(s: Json) -> list[tuple[str, object]]:
    type, image, state = s.get("server_type") or {}, s.get("image") or {}, s.get("x_ready") or {}
    size = (
        f"{type.get('cores')} CPU, {gigabytes(type.get('memory'))} memory, {gigabytes(s.get('primary_disk_size'))} disk"
    )
    by = f"by {'+'.join(state.get('by') or ['?'])} after {duration(state.get('after_seconds'))}"
    address = s.get("x_ssh") if state_of(s) == "running" else None
    return [
        ("Name", s["name"]), ("ID", s["id"]), ("Number", s.get("x_name")), ("Node", s.get("x_node")),
        ("Status", state_of(s)), ("Ready", f"yes, {by}" if ready(s) == "yes" else ready(s)),
        ("Waiting for", s.get("x_waiting_for")), ("Step", s.get("x_step")), ("Problem", s.get("x_problem")),
        ("Image", image.get("name")), ("Type", f"{type.get('name')} ({size})"),
        ("SSH", f"{address['user']}@{address['host']} port {address['port']}" if address else None),
        ("Description", s.get("x_description")), ("Autostart", _autostart(s.get("x_autostart") or {})),
        ("Firmware", s.get("x_firmware")), ("Kernel arguments", s.get("x_kernel_args")),
        ("Group", s.get("x_group")), ("Role", s.get("x_role")), ("Restart", s.get("x_restart")),
        ("Placement group", (s.get("placement_group") or {}).get("name")), ("ISO", (s.get("iso") or {}).get("name")),
        ("Rescue", _rescue(s)), ("Protected", _protected(s)),
        ("Labels", s.get("labels")), ("Accelerator", s.get("x_accelerator")), ("UUID", s.get("x_uuid")),
        ("Created", f"{clean(s['created'])} ({age(s['created'])} ago)"),
    ]  # fmt: skip
