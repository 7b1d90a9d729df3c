"""`paddock pool`: guests that nodes hold ready, restored and paused, for servers to begin from in no time."""

from typing import Annotated

import typer

from paddock.base.errors import NotFound
from paddock.cli import lookup, wait
from paddock.cli.client import Api, Json
from paddock.cli.complete import names_of
from paddock.cli.image_warm import PATIENT, built
from paddock.cli.output import Column, Format, Output, show_rows
from paddock.cli.session import api_of
from paddock.cli.wait import NoWait

OURS = "/admin/v1/pools"

app = typer.Typer(no_args_is_help=True, help="Guests that nodes hold ready, for servers to begin from. For operators.")

Image = Annotated[
    str, typer.Argument(metavar="IMAGE", help="Name or id.", show_default=False, autocompletion=names_of("images"))
]
Type = Annotated[
    str,
    typer.Option(
        "-t", "--type", help="For servers of this type.", show_default=False, autocompletion=names_of("server_types")
    ),
]
Node = Annotated[str, typer.Option("--node", help="On this node only. Else on each.", show_default=False)]

COLUMNS = (
    Column("IMAGE", lambda p: p["image"], least=10),
    Column("TYPE", lambda p: p["server_type"]),
    Column("NODE", lambda p: p["on"]),
    Column("READY", lambda p: f"{p['ready']}/{p['wanted']}", right=True),
    Column("WAITS FOR", lambda p: p["lacking"], least=12),
)


@app.command("list")
def list_pools(ctx: typer.Context, output: Output = Format.TABLE) -> None:
    """Show what nodes hold, and what they wait for.

    Examples:
      paddock pool list
    """
    pools: list[Json] = api_of(ctx).get(OURS)["pools"]
    if output is Format.JSON:
        show_rows(pools, COLUMNS, output)
        return
    show_rows([{**pool, **held, "on": held["node"]} for pool in pools for held in pool["nodes"]], COLUMNS, output)


@app.command("set")
def set_pool(
    ctx: typer.Context,
    image: Image,
    type: Type,
    count: Annotated[int, typer.Option("-c", "--count", min=0, max=1000, help="How many.", show_default=False)],
    node: Node = "",
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Hold so many guests of an image ready on each node. They take memory that nobody uses, and give it back when it
    runs short. 0 on a node makes an exception of it.

    Examples:
      paddock pool set debian-12 --type small --count 5
      paddock pool set debian-12 --type small --count 0 --node n2
    """
    api = api_of(ctx)
    wanted = {"image": built(api, image, output)["id"], "server_type": type, "count": count}
    answer = api.put(OURS, {**wanted, **({"node": node} if node else {})})
    where = f"on {node}" if node else "on each node"
    if answer["action"] and not no_wait:
        wait.until_done(api, f"image {image}", answer["action"], "is warm", quiet=True, patience=PATIENT)
    wait.tell(answer["pool"], f"{count} guests of {image} for servers of type {type} are held ready {where}", output)


@app.command("delete")
def delete(ctx: typer.Context, image: Image, type: Type, node: Node = "", output: Output = Format.TABLE) -> None:
    """Hold none ready any more. Servers that began from it go on.

    Examples:
      paddock pool delete debian-12 --type small
    """
    api = api_of(ctx)
    pool = _find(api, image, type, node)
    wait.delete_each(api, [(f"the pool of {image} for {type}", f"{OURS}/{pool['id']}", pool)], output)


def _find(api: Api, image: str, type: str, node: str) -> Json:
    id = lookup.find(api, "images", image)["id"]
    wanted = (id, type, node or None)
    for pool in api.get(OURS)["pools"]:
        if (pool["image_id"], pool["server_type"], pool["node"]) == wanted:
            found: Json = pool
            return found
    raise NotFound(f"there is no pool of {image} for servers of type {type}", hint="`paddock pool list` shows them")
