"""`paddock node` and `paddock cluster`: the hosts, what they have, and what is taken of it."""

from typing import Annotated

import typer

from paddock.base.errors import NotFound
from paddock.cli.client import Json
from paddock.cli.output import Column, Format, Output, Quiet, age, file_size, show_json, show_one, show_rows
from paddock.cli.session import api_of

app = typer.Typer(no_args_is_help=True, help="Nodes: the hosts that servers run on.")


def _of(claimed: object, total: float, overcommit: float = 1.0) -> str:
    return f"{claimed}/{total * overcommit:g}"


def _cpus(node: Json) -> str:
    return _of(node["claimed_cpus"], node["cpus"], node["cpu_overcommit"])


def _memory(node: Json) -> str:
    return _of(node["claimed_memory_mib"], node["memory_mib"], node["memory_overcommit"])


def _disk(node: Json) -> str:
    return _of(node["claimed_disk_gib"], node["disk_gib"])


def _ports(node: Json) -> str:
    ports = node.get("ssh_ports") or {}
    return f"{ports['first']}-{ports['first'] + ports['count'] - 1}" if ports else "-"


COLUMNS = (
    Column("NAME", lambda n: n["name"]),
    Column("STATE", lambda n: n["state"]),
    Column("DRIVER", lambda n: n["driver"], drop=2),
    Column("ACCEL", lambda n: n.get("accelerator")),
    Column("SERVERS", lambda n: f"{n['running']}/{n['servers']}", right=True),
    Column("CPUS", _cpus, right=True),
    Column("MEMORY MiB", _memory, right=True),
    Column("DISK GiB", _disk, right=True),
    Column("SSH PORTS", _ports, drop=1),
    Column("PROBLEM", lambda n: n.get("problem") or "", drop=4, least=12),
    Column("SEEN", lambda n: age(n["last_seen"]) if n.get("last_seen") else "-", drop=3, right=True),
)


@app.command("list")
def list_nodes(ctx: typer.Context, output: Output = Format.TABLE, quiet: Quiet = False) -> None:
    """Show the nodes: running of all servers; CPUs, memory and disk claimed of what may be.

    Examples:
      paddock node list
    """
    show_rows(api_of(ctx).get("/admin/v1/nodes")["nodes"], COLUMNS, output, quiet=quiet)


@app.command("show")
def show_node(
    ctx: typer.Context,
    node: Annotated[str, typer.Argument(metavar="NODE", help="Name or id.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Show everything about one node.

    Examples:
      paddock node show n1
    """
    nodes = api_of(ctx).get("/admin/v1/nodes")["nodes"]
    found = [n for n in nodes if n["name"] == node] or [n for n in nodes if str(n["id"]) == node]
    if not found:
        raise NotFound(f"there is no node {node!r}", hint=f"there are: {', '.join(str(n['name']) for n in nodes)}")
    n = found[0]
    accelerator = f"{n.get('accelerator')} ({n['accelerator_reason']})" if n.get("accelerator_reason") else None
    use = n.get("use")
    show_one([
        ("Name", n["name"]), ("ID", n["id"]), ("State", n["state"]), ("Problem", n.get("problem")),
        ("Driver", n["driver"]), ("Hypervisor", f"{n.get('hypervisor')} {n.get('version') or ''}".strip()),
        ("Accelerator", accelerator or n.get("accelerator")), ("Servers", f"{n['servers']}, {n['running']} running"),
        ("CPUs", f"{_cpus(n)} claimed ({n['cpus']} x {n['cpu_overcommit']:g})"),
        ("Memory", f"{_memory(n)} MiB claimed ({n['memory_mib']} x {n['memory_overcommit']:g})"),
        ("Disk", f"{_disk(n)} GiB claimed"),
        *(_really_used(use) if use else ()),
        ("SSH ports", f"{_ports(n)}, {(n.get('ssh_ports') or {}).get('used', 0)} used"),
        ("Last seen", f"{age(n['last_seen'])} ago" if n.get("last_seen") else "never"),
    ], n, output)  # fmt: skip


def _really_used(use: Json) -> list[tuple[str, object]]:
    """What the host says, beside what is claimed."""
    memory, disk = use["memory_mib"] - use["memory_free_mib"], use["disk"] - use["disk_free"]
    parts = [
        f"servers {file_size(use['disk_machines'])}", f"volumes {file_size(use['disk_volumes'])}",
        f"{use['images']} images {file_size(use['disk_images'])}", f"others {file_size(use['disk_others'])}",
    ]  # fmt: skip
    return [
        ("CPUs in use", f"load {use['load']:.2f} in the last minute"),
        ("Memory in use", f"{memory} of {use['memory_mib']} MiB"),
        ("Disk in use", f"{file_size(disk)} of {file_size(use['disk'])}: {', '.join(parts)}"),
    ]


def cluster(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """Show what the whole cloud has, and how much of it is claimed.

    Examples:
      paddock cluster
    """
    s = api_of(ctx).get("/admin/v1/statistics")
    if output is Format.JSON:
        show_json(s)
        return
    rows = [
        _share("vCPUs", s["vcpus"], ""),
        _share("Memory", s["memory_mib"], " MiB"),
        _share("Disk", s["disk_gib"], " GiB"),
        {"what": "Servers", "used": f"{s['servers']['running']} running", "total": s["servers"]["total"], "share": ""},
        {"what": "Nodes", "used": f"{s['nodes']['up']} up", "total": s["nodes"]["total"], "share": ""},
    ]  # fmt: skip
    columns = [
        Column("WHAT", lambda r: r["what"]), Column("CLAIMED", lambda r: r["used"], right=True),
        Column("OF", lambda r: r["total"], right=True), Column("SHARE", lambda r: r["share"], right=True),
    ]  # fmt: skip
    show_rows(rows, columns, output)


def _share(what: str, of: Json, unit: str) -> Json:
    share = f"{float(of.get('utilization_pct') or 0):.0f} %"
    return {"what": what, "used": f"{of['claimed']}{unit}", "total": f"{of['total']}{unit}", "share": share}
