"""`paddock iso`: what can lie in the CD drive of a server, such as an installer."""

from typing import Annotated

import typer

from paddock.cli import arrival, lookup
from paddock.cli.client import Json
from paddock.cli.complete import names_of
from paddock.cli.output import Column, Format, Output, Quiet, age, show_one, show_rows
from paddock.cli.session import api_of
from paddock.cli.wait import NoWait, delete_each

Iso = Annotated[
    str,
    typer.Argument(metavar="ISO", help="Name or id.", show_default=False, autocompletion=names_of("isos")),
]

app = typer.Typer(no_args_is_help=True, help="ISOs: what lies in a server's CD drive.")


def _state(iso: Json) -> str:
    if iso["x_state"] == "building":
        return f"importing {iso.get('x_progress') or 0} %"
    return "incomplete" if iso["x_state"] == "absent" and iso["type"] == "private" else str(iso["x_state"])


COLUMNS = (
    Column("NAME", lambda i: i["name"], least=16),
    Column("ID", lambda i: i["id"], right=True),
    Column("STATE", _state),
    Column("TYPE", lambda i: i["type"], drop=2),
    Column("AGE", lambda i: age(i["x_created"]), drop=1, right=True),
    Column("DESCRIPTION", lambda i: i.get("description"), least=16),
)


@app.command("list")
def list_isos(ctx: typer.Context, output: Output = Format.TABLE, quiet: Quiet = False) -> None:
    """Show your ISOs, and those that everybody may use.

    Examples:
      paddock iso list
    """
    show_rows(api_of(ctx).list("/v1/isos", {"sort": "id:asc"}), COLUMNS, output, quiet=quiet)


@app.command("show")
def show_iso(ctx: typer.Context, iso: Iso, output: Output = Format.TABLE) -> None:
    """Show everything about one ISO.

    Examples:
      paddock iso show installer
    """
    i = lookup.find(api_of(ctx), "isos", iso)
    show_one([
        ("Name", i["name"]), ("ID", i["id"]), ("Description", i.get("description")), ("State", _state(i)),
        ("Problem", i.get("x_problem")), ("Type", i["type"]), ("Architecture", i.get("architecture")),
        ("Content", i.get("x_sha256")), ("Created", i["x_created"]),
    ], i, output)  # fmt: skip


@app.command("import")
def import_iso(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="An ISO 9660 file.", show_default=False)] = "",
    url: Annotated[str, typer.Option(help="Fetch it from there: the cloud does.", show_default=False)] = "",
    name: Annotated[str, typer.Option("-n", "--name", help="Else made of the file's.", show_default=False)] = "",
    sha256: Annotated[str, typer.Option(help="What its SHA-256 must be.", show_default=False)] = "",
    description: Annotated[str, typer.Option("-d", "--description", help="For people.", show_default=False)] = "",
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Make an ISO of a file of this machine, or of what an address has.

    An upload that was cut off, or stopped with Ctrl-C, goes on when you give the same command again.

    Examples:
      paddock iso import debian-12.iso
      paddock iso import https://example.com/installer.iso --sha256 9f86d081...
      paddock server attach-iso web debian-12
    """
    path, address = arrival.place(file, url)
    name = name or arrival.name_of(path, address)
    about = {"name": name, "description": description or name, "url": address}
    given = {"description": about["description"]}
    arrival.bring(api_of(ctx), arrival.Wish(arrival.ISO, about, given, not no_wait, output), path, sha256)


@app.command("delete")
def delete(
    ctx: typer.Context,
    isos: Annotated[list[str], typer.Argument(metavar="ISO", help="Names or ids.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Delete ISOs of yours. One that is in a drive stays there until it is taken out.

    Examples:
      paddock iso delete installer
    """
    api = api_of(ctx)
    found = [lookup.find(api, "isos", ref) for ref in isos]
    delete_each(api, [(f"ISO {i['name']}", f"/x/v1/isos/{i['id']}", i) for i in found], output)
