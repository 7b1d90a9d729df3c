"""`paddock placement-group`: servers that shall not share a node."""

from typing import Annotated

import typer

from paddock.cli import lookup
from paddock.cli.complete import names_of
from paddock.cli.output import Column, Format, Output, Quiet, age, show_one, show_rows
from paddock.cli.session import api_of
from paddock.cli.wait import Changes, NewName, changed_labels, delete_each, labels_of, tell

Group = Annotated[
    str,
    typer.Argument(
        metavar="GROUP", help="Name or id.", show_default=False, autocompletion=names_of("placement_groups")
    ),
]

app = typer.Typer(no_args_is_help=True, help="Placement groups: servers that don't share a node.")

COLUMNS = (
    Column("NAME", lambda g: g["name"], least=12),
    Column("ID", lambda g: g["id"], right=True),
    Column("TYPE", lambda g: g["type"]),
    Column("SERVERS", lambda g: len(g["servers"]), right=True),
    Column("LABELS", lambda g: g.get("labels") or "", drop=2),
    Column("AGE", lambda g: age(g["created"]), drop=1, right=True),
)


@app.command("list")
def list_groups(ctx: typer.Context, output: Output = Format.TABLE, quiet: Quiet = False) -> None:
    """Show the placement groups.

    Examples:
      paddock placement-group list
    """
    show_rows(api_of(ctx).list("/v1/placement_groups", {"sort": "id:asc"}), COLUMNS, output, quiet=quiet)


@app.command("show")
def show_group(ctx: typer.Context, group: Group, output: Output = Format.TABLE) -> None:
    """Show one group, and the servers in it.

    Examples:
      paddock placement-group show databases
    """
    api = api_of(ctx)
    g = lookup.find(api, "placement_groups", group)
    servers = [s["name"] for s in api.list("/v1/servers") if s["id"] in g["servers"]] if g["servers"] else []
    show_one([
        ("Name", g["name"]), ("ID", g["id"]), ("Type", g["type"]), ("Servers", servers), ("Labels", g["labels"]),
        ("Created", g["created"]),
    ], g, output)  # fmt: skip


@app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it will be called.", show_default=False)],
    label: Annotated[list[str] | None, typer.Option("--label", help="key=value", show_default=False)] = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a group of which no two servers share a node.

    Examples:
      paddock placement-group create databases
      paddock server join db-1 databases
    """
    body = {"name": name, "type": "spread", "labels": labels_of(label)}
    group = api_of(ctx).post("/v1/placement_groups", body)["placement_group"]
    tell(group, f"placement group {group['name']} is made", output)


@app.command("rename")
def rename(
    ctx: typer.Context,
    group: Group,
    name: NewName,
    output: Output = Format.TABLE,
) -> None:
    """Give a group another name.

    Examples:
      paddock placement-group rename databases db
    """
    api = api_of(ctx)
    thing = lookup.find(api, "placement_groups", group)
    changed = api.put(f"/v1/placement_groups/{thing['id']}", {"name": name})["placement_group"]
    tell(changed, f"placement group {thing['name']} is now {name}", output)


@app.command("label")
def label_group(
    ctx: typer.Context,
    group: Group,
    labels: Changes,
    output: Output = Format.TABLE,
) -> None:
    """Set or remove labels.

    Examples:
      paddock placement-group label databases env=prod old-
    """
    api = api_of(ctx)
    thing = lookup.find(api, "placement_groups", group)
    body = {"labels": changed_labels(thing["labels"], labels)}
    changed = api.put(f"/v1/placement_groups/{thing['id']}", body)["placement_group"]
    tell(changed, f"placement group {thing['name']} is labelled", output)


@app.command("delete")
def delete(
    ctx: typer.Context,
    groups: Annotated[list[str], typer.Argument(metavar="GROUP", help="Names or ids.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Delete groups. Their servers stay where they are.

    Examples:
      paddock placement-group delete databases
    """
    api = api_of(ctx)
    found = [lookup.find(api, "placement_groups", ref) for ref in groups]
    delete_each(api, [(f"placement group {g['name']}", f"/v1/placement_groups/{g['id']}", g) for g in found], output)
