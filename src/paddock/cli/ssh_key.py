"""`paddock ssh-key`: the public keys that new servers may be given."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from paddock.cli import keys, lookup
from paddock.cli.output import Column, Format, Output, Quiet, age, show_rows
from paddock.cli.session import api_of
from paddock.cli.wait import delete_each, tell

app = typer.Typer(no_args_is_help=True, help="SSH keys that new servers are given.")

COLUMNS = (
    Column("NAME", lambda k: k["name"], least=12),
    Column("ID", lambda k: k["id"], right=True),
    Column("FINGERPRINT", lambda k: k["fingerprint"]),
    Column("AGE", lambda k: age(k["created"]), drop=1, right=True),
)


@app.command("list")
def list_keys(ctx: typer.Context, output: Output = Format.TABLE, quiet: Quiet = False) -> None:
    """Show the keys.

    Examples:
      paddock ssh-key list
    """
    show_rows(api_of(ctx).list("/v1/ssh_keys"), COLUMNS, output, quiet=quiet)


@app.command("add")
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it will be called.", show_default=False)],
    file: Annotated[str, typer.Argument(help="Public key file, - for stdin.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Add a public key.

    Examples:
      paddock ssh-key add anna ~/.ssh/id_ed25519.pub
      ssh-add -L | head -1 | paddock ssh-key add agent -
    """
    text = sys.stdin.read().strip() if file == "-" else keys.read(Path(file).expanduser())
    key = api_of(ctx).post("/v1/ssh_keys", {"name": name, "public_key": text})["ssh_key"]
    tell(key, f"SSH key {key['name']} is added ({key['fingerprint']})", output)


@app.command("delete")
def delete(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="KEY", help="Names or ids.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Delete keys. Servers that have them keep them.

    Examples:
      paddock ssh-key delete anna
    """
    api = api_of(ctx)
    found = [lookup.find(api, "ssh_keys", ref) for ref in names]
    delete_each(api, [(f"SSH key {k['name']}", f"/v1/ssh_keys/{k['id']}", k) for k in found], output)
