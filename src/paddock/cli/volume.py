"""`paddock volume`: disks with a life of their own, which servers borrow."""

import re
from typing import Annotated, Literal

import typer

from paddock.base.errors import Conflict
from paddock.cli import ask, lookup
from paddock.cli.client import Api, Json
from paddock.cli.complete import names_of
from paddock.cli.output import Column, Format, Output, Quiet, age, show_json, show_one, show_rows
from paddock.cli.session import api_of
from paddock.cli.wait import Changes, NewName, NoWait, changed_labels, delete_each, labels_of, tell, until_done

Volume = Annotated[
    str,
    typer.Argument(metavar="VOLUME", help="Name or id.", show_default=False, autocompletion=names_of("volumes")),
]
Gigabytes = Annotated[
    str, typer.Option("-s", "--size", metavar="SIZE", help="GB, from 10 on: 10, 50G, 1T.", show_default=False)
]

app = typer.Typer(no_args_is_help=True, help="Volumes: disks that outlive servers.")

COLUMNS = (
    Column("NAME", lambda v: v["name"], least=12),
    Column("ID", lambda v: v["id"], right=True),
    Column("SIZE", lambda v: f"{v['size']} GB", right=True),
    Column("FORMAT", lambda v: v.get("format"), drop=4),
    Column("STATUS", lambda v: v["status"]),
    Column("SERVER", lambda v: v["server"], least=8),
    Column("NODE", lambda v: v.get("x_node"), drop=2),
    Column("DEVICE", lambda v: v["linux_device"], drop=1),
    Column("AGE", lambda v: age(v["created"]), drop=3, right=True),
)


@app.command("list")
def list_volumes(
    ctx: typer.Context,
    selector: Annotated[str, typer.Option("-l", "--selector", help="Only with these labels: env=prod.")] = "",
    output: Output = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Show your volumes.

    Examples:
      paddock volume list
      paddock volume list -l env=prod -o json
    """
    api = api_of(ctx)
    asked = {"label_selector": selector, "sort": "id:asc"}
    found = api.list("/v1/volumes", {k: v for k, v in asked.items() if v})
    if output is Format.TABLE and not quiet:
        found = _with_servers(api, found)
    show_rows(found, COLUMNS, output, quiet=quiet)


def _with_servers(api: Api, volumes: list[Json]) -> list[Json]:
    """Servers by their names: the API has ids here."""
    used = any(v["server"] for v in volumes)
    names = {s["id"]: s["name"] for s in api.list("/v1/servers")} if used else {}
    return [{**v, "server": names.get(v["server"], v["server"])} for v in volumes]


def _gigabytes(text: str) -> int:
    """10, 10G, 10GB or 1T as GB. Raises typer.BadParameter."""
    found = re.fullmatch(r"([1-9][0-9]{0,6})(g|gb|gib|t|tb|tib)?", text.strip().lower())
    if found is None:
        raise typer.BadParameter(f"--size {text!r} is no size in GB: say 10, 50G or 1T")
    return int(found[1]) * (1024 if (found[2] or "g").startswith("t") else 1)


@app.command("show")
def show_volume(ctx: typer.Context, volume: Volume, output: Output = Format.TABLE) -> None:
    """Show everything about one volume.

    Examples:
      paddock volume show data
    """
    api = api_of(ctx)
    v = lookup.find(api, "volumes", volume)
    server = _with_servers(api, [v])[0]["server"] if output is Format.TABLE else None
    show_one([
        ("Name", v["name"]), ("ID", v["id"]), ("Size", f"{v['size']} GB"), ("Format", v.get("format")),
        ("Status", v["status"]), ("Server", server), ("Node", v.get("x_node")),
        ("Device in the guest", v["linux_device"]), ("Protected", v["protection"]["delete"]),
        ("Problem", v.get("x_problem")), ("Labels", v.get("labels")), ("Created", v["created"]),
    ], v, output)  # fmt: skip


@app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it will be called.", show_default=False)],
    size: Gigabytes,
    server: Annotated[str, typer.Option(help="Attach it to this server.", show_default=False)] = "",
    format: Annotated[
        Literal["ext4", "xfs"] | None, typer.Option("-f", "--format", help="Else it is empty.", show_default=False)
    ] = None,
    automount: Annotated[bool, typer.Option("--automount", help="Mount it in the server.")] = False,
    label: Annotated[list[str] | None, typer.Option("--label", help="key=value", show_default=False)] = None,
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Make a volume, and attach it to a server if one is named.

    Without a server it takes its place on a node when it is first attached.

    Examples:
      paddock volume create data --size 10 --format ext4
      paddock volume create data --size 10 --format ext4 --server web --automount
    """
    if automount and not server:
        raise typer.BadParameter("--automount goes with --server")
    gigabytes, api = _gigabytes(size), api_of(ctx)
    body: Json = {"name": name, "size": gigabytes, "labels": labels_of(label)}
    if server:
        body |= {"server": lookup.server(api, server)["id"], "automount": automount}
    else:
        body["location"] = "1"  # there is one
    if format:
        body["format"] = format
    answer = api.post("/v1/volumes", body)
    for action in [answer["action"], *answer["next_actions"]]:
        where = f"is attached to {server}" if action["command"] == "attach_volume" else "is made"
        until_done(api, f"volume {name}", action, where, wait=not no_wait, quiet=output is Format.JSON)
    if output is Format.JSON:
        show_json(api.get(f"/v1/volumes/{answer['volume']['id']}")["volume"])


@app.command("attach")
def attach(
    ctx: typer.Context,
    volume: Volume,
    server: Annotated[str, typer.Argument(metavar="SERVER", help="Name or id.", show_default=False)],
    automount: Annotated[bool, typer.Option("--automount", help="Mount it in the server.")] = False,
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Attach a volume to a server, running or not.

    Examples:
      paddock volume attach data web --automount
    """
    api = api_of(ctx)
    thing, target = lookup.find(api, "volumes", volume), lookup.server(api, server)
    body = {"server": target["id"], "automount": automount}
    action = api.post(f"/v1/volumes/{thing['id']}/actions/attach", body)["action"]
    until_done(api, f"volume {thing['name']}", action, f"is attached to {target['name']}: {thing['linux_device']}",
               wait=not no_wait, output=output)  # fmt: skip


@app.command("detach")
def detach(ctx: typer.Context, volume: Volume, no_wait: NoWait = False, output: Output = Format.TABLE) -> None:
    """Take a volume from its server. Its data stays. Unmount it in the guest first.

    Examples:
      paddock volume detach data
    """
    api = api_of(ctx)
    thing = lookup.find(api, "volumes", volume)
    action = api.post(f"/v1/volumes/{thing['id']}/actions/detach")["action"]
    until_done(api, f"volume {thing['name']}", action, "is detached", wait=not no_wait, output=output)


@app.command("resize")
def resize(
    ctx: typer.Context, volume: Volume, size: Gigabytes, no_wait: NoWait = False, output: Output = Format.TABLE
) -> None:
    """Make a volume larger, also while a server uses it.

    The file system in it is then grown in the guest: resize2fs for ext4, xfs_growfs for xfs.

    Examples:
      paddock volume resize data --size 20
    """
    gigabytes, api = _gigabytes(size), api_of(ctx)
    thing = lookup.find(api, "volumes", volume)
    action = api.post(f"/v1/volumes/{thing['id']}/actions/resize", {"size": gigabytes})["action"]
    until_done(api, f"volume {thing['name']}", action, f"has {gigabytes} GB", wait=not no_wait, output=output)


@app.command("label")
def label(
    ctx: typer.Context,
    volume: Volume,
    labels: Changes,
    output: Output = Format.TABLE,
) -> None:
    """Set or remove labels.

    Examples:
      paddock volume label data env=prod old-
    """
    api = api_of(ctx)
    thing = lookup.find(api, "volumes", volume)
    body = {"labels": changed_labels(thing["labels"], labels)}
    changed = api.put(f"/v1/volumes/{thing['id']}", body)["volume"]
    tell(changed, f"volume {thing['name']} is labelled", output)


@app.command("rename")
def rename(
    ctx: typer.Context,
    volume: Volume,
    name: NewName,
    output: Output = Format.TABLE,
) -> None:
    """Give a volume another name.

    Examples:
      paddock volume rename data archive
    """
    api = api_of(ctx)
    thing = lookup.find(api, "volumes", volume)
    changed = api.put(f"/v1/volumes/{thing['id']}", {"name": name})["volume"]
    tell(changed, f"volume {thing['name']} is now {name}", output)


@app.command("protect")
def protect(
    ctx: typer.Context,
    volume: Volume,
    off: Annotated[bool, typer.Option("--off", help="Take the protection away.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Protect a volume from being deleted.

    Examples:
      paddock volume protect data
      paddock volume protect data --off
    """
    api = api_of(ctx)
    thing = lookup.find(api, "volumes", volume)
    action = api.post(f"/v1/volumes/{thing['id']}/actions/change_protection", {"delete": not off})["action"]
    tell(action, f"volume {thing['name']} {'may be deleted' if off else 'is protected'}", output)


@app.command("delete")
def delete(
    ctx: typer.Context,
    volumes: Annotated[list[str], typer.Argument(metavar="VOLUME", help="Names or ids.", show_default=False)],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Don't ask.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Delete volumes and all data on them. They must be detached.

    Examples:
      paddock volume delete data
    """
    api = api_of(ctx)
    found = [lookup.find(api, "volumes", ref) for ref in volumes]
    names = ", ".join(str(v["name"]) for v in found)
    if not yes:
        if not ask.at_terminal():
            raise Conflict(f"this would delete all data of volume {names}", hint="if you mean it: --yes")
        if not typer.confirm(f"Delete {names} and all data there?", err=True):
            raise Conflict("nothing is deleted")
    delete_each(api, [(f"volume {v['name']}", f"/v1/volumes/{v['id']}", v) for v in found], output)
