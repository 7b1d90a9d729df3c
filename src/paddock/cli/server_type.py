"""`paddock type`: the sizes that servers come in."""

import typer

from paddock.cli.output import Column, Format, Output, Quiet, gigabytes, show_rows
from paddock.cli.session import api_of

app = typer.Typer(no_args_is_help=True, help="Server types: CPUs, memory and disk.")

COLUMNS = (
    Column("NAME", lambda t: t["name"]),
    Column("ID", lambda t: t["id"], right=True),
    Column("CPUS", lambda t: t["cores"], right=True),
    Column("MEMORY", lambda t: gigabytes(t["memory"]), right=True),
    Column("DISK", lambda t: gigabytes(t["disk"]), right=True),
    Column("DESCRIPTION", lambda t: t["description"], drop=1, least=16),
)


@app.command("list")
def list_types(ctx: typer.Context, output: Output = Format.TABLE, quiet: Quiet = False) -> None:
    """Show the server types.

    Examples:
      paddock type list
    """
    show_rows(api_of(ctx).list("/v1/server_types"), COLUMNS, output, quiet=quiet)
