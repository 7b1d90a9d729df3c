"""`paddock token`: what opens a project to people and programs."""

from typing import Annotated

import typer

from paddock.cli import project as projects
from paddock.cli.client import Api, Json
from paddock.cli.output import Column, Format, Output, Quiet, age, clean, show_json, show_rows, stderr
from paddock.cli.session import api_of
from paddock.cli.wait import delete_each

app = typer.Typer(no_args_is_help=True, help="Tokens: what opens a project.")

Of = Annotated[
    str, typer.Option("--project", metavar="PROJECT", help="Of that project: for operators.", show_default=False)
]


def _rights(token: Json) -> str:
    rights = "read" if token["read_only"] else "read, write"
    return f"{rights}, operator" if token["operator"] else rights


COLUMNS = (
    Column("ID", lambda t: t["id"], right=True),
    Column("RIGHTS", _rights),
    Column("AGE", lambda t: age(t["created"]), drop=1, right=True),
    Column("LAST USED", lambda t: f"{age(t['last_used'])} ago" if t["last_used"] else "never", right=True),
    Column("DESCRIPTION", lambda t: t["description"], drop=2, least=16),
)


@app.command("list")
def list_tokens(ctx: typer.Context, project: Of = "", output: Output = Format.TABLE, quiet: Quiet = False) -> None:
    """Show the tokens of a project, without their secrets.

    Examples:
      paddock token list
      paddock token list --project acme
    """
    api = api_of(ctx)
    show_rows(api.list(_path(api, project), {"sort": "id:asc"}), COLUMNS, output, quiet=quiet)


@app.command("create")
def create(
    ctx: typer.Context,
    description: Annotated[str, typer.Option("-d", "--description", help="What it is for.")] = "",
    read_only: Annotated[bool, typer.Option("--read-only", help="It may look, and change nothing.")] = False,
    operator: Annotated[bool, typer.Option("--operator", help="It may do what operators do; with --project.")] = False,
    project: Of = "",
    output: Output = Format.TABLE,
) -> None:
    """Make a token. Its secret is printed now and can never be seen again.

    Examples:
      paddock token create -d "backup script" --read-only
      PADDOCK_TOKEN=$(paddock token create --project acme) paddock ls
    """
    if operator and not project:
        raise typer.BadParameter("--operator goes with --project")
    api = api_of(ctx)
    body: Json = {"description": description, "read_only": read_only, **({"operator": True} if operator else {})}
    made = api.post(_path(api, project), body)
    if output is Format.JSON:
        show_json(made)
        return
    stderr().print(f"token {made['token']['id']} ({_rights(made['token'])}): keep it, it is not shown again")
    print(clean(made["secret"]))


@app.command("revoke")
def revoke(
    ctx: typer.Context,
    tokens: Annotated[list[int], typer.Argument(metavar="ID", help="As `list` shows them.", show_default=False)],
    project: Of = "",
    output: Output = Format.TABLE,
) -> None:
    """Revoke tokens: from now on they open nothing.

    Examples:
      paddock token revoke 7
    """
    api = api_of(ctx)
    path = _path(api, project)
    delete_each(api, [(f"token {id}", f"{path}/{id}", {"id": id}) for id in tokens], output, done="is revoked")


def _path(api: Api, project: str) -> str:
    return f"/admin/v1/projects/{projects.find(api, project)['id']}/tokens" if project else "/x/v1/tokens"
