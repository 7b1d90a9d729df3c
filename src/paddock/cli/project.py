"""`paddock project` and `paddock limits`: tenants, what they may have, and what they have of it."""

from typing import Annotated

import typer

from paddock.base.errors import Invalid, NotFound
from paddock.cli.client import Api, Json
from paddock.cli.output import Column, Format, Output, Quiet, age, show_json, show_one, show_rows, stdout
from paddock.cli.session import api_of
from paddock.cli.wait import delete_each

app = typer.Typer(no_args_is_help=True, help="Projects: tenants, apart from each other. For operators.")

LIMITS = {
    "servers": "Servers", "cores": "CPUs", "memory_mib": "Memory MiB", "disk_gib": "Disk GiB", "volumes": "Volumes",
    "volume_gib": "Volumes GiB", "snapshots": "Snapshots",
}  # fmt: skip
Project = Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id.", show_default=False)]
Most = "At most so many{}; none: no limit."
Servers = Annotated[str | None, typer.Option(help=Most.format(""), show_default=False)]
Cores = Annotated[str | None, typer.Option(help=Most.format(" CPUs of servers"), show_default=False)]
Memory = Annotated[str | None, typer.Option(help=Most.format(" MiB of memory"), show_default=False)]
Disk = Annotated[str | None, typer.Option(help=Most.format(" GiB of servers' disks"), show_default=False)]
Volumes = Annotated[str | None, typer.Option(help=Most.format(""), show_default=False)]
VolumeGib = Annotated[str | None, typer.Option(help=Most.format(" GiB of volumes"), show_default=False)]
Snapshots = Annotated[str | None, typer.Option(help=Most.format(" images and ISOs of its own"), show_default=False)]


def _limit(number: int, name: str) -> Column:
    """One of many; the last go first where the terminal is narrow, after the age."""
    title, drop = LIMITS[name].upper().replace("IB", "iB"), len(LIMITS) + 1 - number
    return Column(title, lambda p: _most(p["limits"][name]), drop=drop, right=True)


def _share(of: Json) -> str:
    return f"{of['used']}, no limit" if of["limit"] is None else f"{of['used']} of {of['limit']}"


def _most(limit: object) -> str:
    return "-" if limit is None else str(limit)


COLUMNS = (
    Column("NAME", lambda p: p["name"], least=12),
    Column("ID", lambda p: p["id"], right=True),
    *(_limit(number, name) for number, name in enumerate(LIMITS)),
    Column("AGE", lambda p: age(p["created"]), drop=1, right=True),
)
SHARES = (
    Column("LIMIT OF", lambda r: r["what"]),
    Column("USED", lambda r: r["used"], right=True),
    Column("OF", lambda r: _most(r["limit"]), right=True),
)


@app.command("list")
def list_projects(ctx: typer.Context, output: Output = Format.TABLE, quiet: Quiet = False) -> None:
    """Show the projects and their limits.

    Examples:
      paddock project list
    """
    show_rows(api_of(ctx).list("/admin/v1/projects", {"sort": "id:asc"}), COLUMNS, output, quiet=quiet)


@app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it will be called.", show_default=False)],
    servers: Servers = None,
    cores: Cores = None,
    memory_mib: Memory = None,
    disk_gib: Disk = None,
    volumes: Volumes = None,
    volume_gib: VolumeGib = None,
    snapshots: Snapshots = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a project. Without limits it may have as much as there is room for.

    Examples:
      paddock project create acme --servers 10 --cores 20
      paddock token create --project acme
    """
    limits = _limits(locals())
    made = api_of(ctx).post("/admin/v1/projects", {"name": name, "limits": limits})["project"]
    if output is Format.JSON:
        show_json(made)
    else:
        stdout().print(f"project {made['name']} is made; `paddock token create --project {made['name']}` opens it")


@app.command("show")
def show(ctx: typer.Context, project: Project, output: Output = Format.TABLE) -> None:
    """Show one project, its limits, and what it has of them.

    Examples:
      paddock project show acme
    """
    api = api_of(ctx)
    found = api.get(f"/admin/v1/projects/{find(api, project)['id']}")
    p, usage = found["project"], found["usage"]
    fields = [(LIMITS[name], _share(usage[name])) for name in LIMITS]
    show_one([("Name", p["name"]), ("ID", p["id"]), *fields, ("Created", p["created"])], found, output)


@app.command("limits")
def set_limits(
    ctx: typer.Context,
    project: Project,
    servers: Servers = None,
    cores: Cores = None,
    memory_mib: Memory = None,
    disk_gib: Disk = None,
    volumes: Volumes = None,
    volume_gib: VolumeGib = None,
    snapshots: Snapshots = None,
    output: Output = Format.TABLE,
) -> None:
    """Change limits of a project. Those that are not named stay; what it has already stays too.

    Examples:
      paddock project limits acme --servers 20 --volume-gib none
    """
    limits = _limits(locals())
    if not limits:
        raise Invalid("say which limits", hint="`paddock project limits --help` lists them")
    api = api_of(ctx)
    changed = api.put(f"/admin/v1/projects/{find(api, project)['id']}", {"limits": limits})["project"]
    if output is Format.JSON:
        show_json(changed)
    else:
        said = ", ".join(f"{LIMITS[name]} {_most(changed['limits'][name])}" for name in limits)
        stdout().print(f"project {changed['name']}: {said}")


@app.command("delete")
def delete(
    ctx: typer.Context,
    projects: Annotated[list[str], typer.Argument(metavar="PROJECT", help="Names or ids.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Delete projects that have no servers, volumes and images. Their tokens open nothing any more.

    Examples:
      paddock project delete acme
    """
    api = api_of(ctx)
    found = [find(api, ref) for ref in projects]
    delete_each(api, [(f"project {p['name']}", f"/admin/v1/projects/{p['id']}", p) for p in found], output)


def limits(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """Show what this project may have, and what it has of it.

    Examples:
      paddock limits
    """
    said = api_of(ctx).get("/x/v1/limits")["limits"]
    if output is Format.JSON:
        show_json(said)
    else:
        show_rows([{"what": LIMITS[name], **said[name]} for name in LIMITS], SHARES, output)


def find(api: Api, ref: str) -> Json:
    """A project by name or id; a name wins, since one may consist of digits. Raises NotFound."""
    named = api.list("/admin/v1/projects", {"name": ref})
    if not named and ref.isascii() and ref.isdigit() and len(ref) <= 15:
        found: Json = api.get(f"/admin/v1/projects/{ref}")["project"]
        return found
    if not named:
        raise NotFound(f"there is no project {ref!r}", hint="`paddock project list` shows them all")
    return named[0]


def _limits(given: dict[str, object]) -> Json:
    """The limits among a command's options. Raises Invalid for what is neither a number nor none."""
    return {name: _number(name, str(given[name])) for name in LIMITS if given[name] is not None}


def _number(name: str, text: str) -> int | None:
    if text == "none":
        return None
    if not (text.isascii() and text.isdigit()):
        raise Invalid(f"{text!r} is no limit", hint="give a number, or none", field=f"--{name.replace('_', '-')}")
    return int(text)
