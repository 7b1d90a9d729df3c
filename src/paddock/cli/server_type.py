"""`paddock type`: the sizes that servers come in, and what sets them apart besides; operators make more of them."""

from typing import Annotated

import typer

from paddock.base.errors import Invalid
from paddock.cli import lookup
from paddock.cli.amounts import gigabytes_of
from paddock.cli.client import Api, Json
from paddock.cli.complete import names_of
from paddock.cli.output import Column, Format, Output, Quiet, gigabytes, show_one, show_rows
from paddock.cli.session import api_of
from paddock.cli.wait import delete_each, tell

OURS = "/admin/v1/server_types"
Type = Annotated[
    str,
    typer.Argument(metavar="TYPE", help="Name or id.", show_default=False, autocompletion=names_of("server_types")),
]
Cpus = Annotated[int | None, typer.Option("--cpus", min=1, help="So many CPUs.", show_default=False)]
Memory = Annotated[str | None, typer.Option("--memory", help="So much: 2G, 512M.", show_default=False)]
Disk = Annotated[str | None, typer.Option("--disk", help="So much, in whole GB: 40G.", show_default=False)]
About = Annotated[str | None, typer.Option("-d", "--description", help="For people.", show_default=False)]
Hourly = Annotated[str | None, typer.Option("--hourly", help="Price of an hour in EUR: 0.0100.", show_default=False)]
Monthly = Annotated[str | None, typer.Option("--monthly", help="Of a month; new ones: else 730 hours'.")]
Dedicated = Annotated[bool | None, typer.Option("--dedicated-cpus/--shared-cpus", help="A CPU of the host's for each.")]
Huge = Annotated[bool | None, typer.Option("--huge-pages/--no-huge-pages", help="Its memory is in huge pages.")]
Nested = Annotated[bool | None, typer.Option("--nested/--no-nested", help="It may run virtual machines itself.")]

app = typer.Typer(no_args_is_help=True, help="Server types: CPUs, memory and disk.")


def _has(type: Json) -> str:
    """What it has that others have not."""
    found = (
        ("dedicated CPUs", type.get("cpu_type") == "dedicated"), ("huge pages", type.get("x_huge_pages")),
        ("nested", type.get("x_nested")), ("deprecated", type.get("deprecated")),
    )  # fmt: skip
    return ", ".join(word for word, has in found if has) or "-"


def _price(type: Json, of: str) -> str:
    """In EUR, exact, as the API has it; - where nothing is charged."""
    amounts = [price[f"price_{of}"]["gross"] for price in type.get("prices") or ()]
    return f"{amounts[0]} EUR" if amounts and float(amounts[0]) else "-"


COLUMNS = (
    Column("NAME", lambda t: t["name"]),
    Column("ID", lambda t: t["id"], right=True),
    Column("CPUS", lambda t: t["cores"], right=True),
    Column("MEMORY", lambda t: gigabytes(t["memory"]), right=True),
    Column("DISK", lambda t: gigabytes(t["disk"]), right=True),
    Column("AN HOUR", lambda t: _price(t, "hourly"), drop=2, right=True),
    Column("HAS", _has),
    Column("DESCRIPTION", lambda t: t["description"], drop=1, least=16),
)


@app.command("list")
def list_types(ctx: typer.Context, output: Output = Format.TABLE, quiet: Quiet = False) -> None:
    """Show the server types.

    Examples:
      paddock type list
    """
    show_rows(api_of(ctx).list("/v1/server_types"), COLUMNS, output, quiet=quiet)


@app.command("show")
def show_type(ctx: typer.Context, type: Type, output: Output = Format.TABLE) -> None:
    """Show everything about one server type.

    Examples:
      paddock type show small
    """
    t = lookup.find(api_of(ctx), "server_types", type)
    show_one([
        ("Name", t["name"]), ("ID", t["id"]), ("Description", t["description"]), ("CPUs", t["cores"]),
        ("CPUs are", t.get("cpu_type")), ("Memory", gigabytes(t["memory"])), ("Disk", gigabytes(t["disk"])),
        ("Huge pages", t.get("x_huge_pages")), ("Nested virtualization", t.get("x_nested")),
        ("An hour", _price(t, "hourly")), ("A month", _price(t, "monthly")), ("Deprecated", t.get("deprecated")),
    ], t, output)  # fmt: skip


@app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it will be called.", show_default=False)],
    cpus: Annotated[int, typer.Option("--cpus", min=1, help="So many CPUs.", show_default=False)],
    memory: Annotated[str, typer.Option("--memory", help="So much: 2G, 512M.", show_default=False)],
    disk: Annotated[str, typer.Option("--disk", help="So much, in whole GB: 40G.", show_default=False)],
    description: About = None,
    hourly: Hourly = None,
    monthly: Monthly = None,
    dedicated_cpus: Dedicated = None,
    huge_pages: Huge = None,
    nested: Nested = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a server type. For operators.

    Servers with CPUs of their own, huge pages or nested virtualization go only to nodes that have them to give.

    Examples:
      paddock type create quick --cpus 4 --memory 8G --disk 80G --dedicated-cpus --huge-pages
      paddock type create lab --cpus 2 --memory 4G --disk 40G --nested --hourly 0.0150
    """
    said = _body(description, cpus, memory, disk, hourly, monthly, dedicated_cpus, huge_pages, nested)
    api = api_of(ctx)
    made = api.post(OURS, {"name": name, **said})["server_type"]
    tell(made, f"server type {made['name']} is made; use it: paddock launch IMAGE --type {made['name']}", output)


@app.command("set")
def set_type(
    ctx: typer.Context,
    type: Type,
    name: Annotated[str | None, typer.Option("-n", "--name", help="Another name.", show_default=False)] = None,
    cpus: Cpus = None,
    memory: Memory = None,
    disk: Disk = None,
    description: About = None,
    hourly: Hourly = None,
    monthly: Monthly = None,
    dedicated_cpus: Dedicated = None,
    huge_pages: Huge = None,
    nested: Nested = None,
    deprecated: Annotated[
        bool | None, typer.Option("--deprecated/--no-deprecated", help="For no new servers any more.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Change a server type. Servers that have it keep their size. For operators.

    Examples:
      paddock type set small --hourly 0.0120
      paddock type set lab --no-nested
      paddock type set quick --deprecated
    """
    said = _body(description, cpus, memory, disk, hourly, monthly, dedicated_cpus, huge_pages, nested)
    said |= {field: value for field, value in (("name", name), ("deprecated", deprecated)) if value is not None}
    if not said:
        raise Invalid("nothing to change", hint="`paddock type set --help` shows what there is")
    api = api_of(ctx)
    thing = lookup.find(api, "server_types", type)
    tell(api.put(f"{OURS}/{thing['id']}", said)["server_type"], f"server type {thing['name']} is changed", output)


@app.command("delete")
def delete(
    ctx: typer.Context,
    types: Annotated[list[str], typer.Argument(metavar="TYPE", help="Names or ids.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Delete server types that no server has. For operators.

    Examples:
      paddock type delete lab
    """
    api: Api = api_of(ctx)
    found = [lookup.find(api, "server_types", ref) for ref in types]
    delete_each(api, [(f"server type {t['name']}", f"{OURS}/{t['id']}", t) for t in found], output)


def _body(
    description: str | None, cpus: int | None, memory: str | None, disk: str | None, hourly: str | None,
    monthly: str | None, dedicated_cpus: bool | None, huge_pages: bool | None, nested: bool | None,
) -> Json:  # fmt: skip
    """What was said, as the API takes it. Raises Invalid."""
    said = {
        "description": description, "cores": cpus, "memory_mib": _amount(memory, "memory", 1024),
        "disk_gib": _amount(disk, "disk", 1), "price_hourly": hourly, "price_monthly": monthly,
        "dedicated_cpus": dedicated_cpus, "huge_pages": huge_pages, "nested": nested,
    }  # fmt: skip
    return {field: value for field, value in said.items() if value is not None}


def _amount(text: str | None, field: str, per_gigabyte: int) -> int | None:
    """So many of the unit of which `per_gigabyte` are a GB; only whole ones."""
    if text is None:
        return None
    amount = gigabytes_of(text)
    if amount is None or amount * per_gigabyte != int(amount * per_gigabyte):
        example = "2G or 512M" if per_gigabyte > 1 else "40G"
        raise Invalid(f"--{field} {text!r} is no whole amount: say {example}", field=field)
    return int(amount * per_gigabyte)
