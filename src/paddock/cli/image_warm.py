"""`paddock image warm` and `cool`: guests that have booted already, from which servers begin at once."""

from typing import Annotated

import typer

from paddock.base.errors import NotFound
from paddock.cli import lookup, wait
from paddock.cli.catalogue import last_use
from paddock.cli.client import Api, Json
from paddock.cli.output import Column, Format, Output, file_size, show_rows
from paddock.cli.session import api_of
from paddock.cli.wait import NoWait

PATIENT = 2 * 3600.0  # seconds: without KVM a guest boots for long

Image = Annotated[str, typer.Argument(metavar="IMAGE", help="Name or id.", show_default=False)]
Nodes = Annotated[list[str] | None, typer.Option("--node", help="On this node; repeatable. Else on all.")]


def _ready(warm: Json) -> str:
    return "ready" if warm["shared"] else "ready, not shared"


def _state(warm: Json) -> str:
    return "being made" if warm["making"] else f"none: {warm['unusable']}" if warm["unusable"] else _ready(warm)


COLUMNS = (
    Column("IMAGE", lambda w: w["image"], least=10),
    Column("NODE", lambda w: w["node"]),
    Column("CPUS", lambda w: str(w["cpus"]), right=True),
    Column("MEMORY", lambda w: f"{w['memory_mib']} MiB", right=True),
    Column("FOR", lambda w: "all" if w["scope"] == "public" else w["scope"], drop=2),
    Column("SIZE", lambda w: file_size(w["bytes"]), right=True, drop=1),
    Column("SERVERS", lambda w: str(w["servers"]), right=True, drop=3),
    Column("USED", lambda w: last_use(w["used"]), right=True, drop=4),
    Column("STATE", _state, least=10),
)


def register(app: typer.Typer) -> None:
    """Add both commands."""
    app.command("warm")(warm)
    app.command("cool")(cool)


def warm(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(metavar="[IMAGE]", help="Name or id; none: list them.")] = "",
    type: Annotated[str, typer.Option("-t", "--type", help="For servers of this type.", show_default=False)] = "",
    node: Nodes = None,
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Make an image warm: boot a guest of nobody, and let servers begin from its memory. Without IMAGE, list those
    that nodes keep. Nodes make them by themselves too, when an image is used for the second time.

    Examples:
      paddock image warm debian-12 --type small
      paddock image warm
    """
    api = api_of(ctx)
    if not image:
        show_rows(_known(api), COLUMNS, output)
        return
    if not type:
        raise typer.BadParameter("say for servers of which type: --type small")
    found = built(api, image, output)
    wanted = {"server_type": lookup.find(api, "server_types", type)["name"], "nodes": node or []}
    action = api.post(f"/admin/v1/images/{found['id']}/warm", wanted)["action"]
    wait.until_done(
        api, f"image {image}", action, f"is warm for servers of type {type}", wait=not no_wait, output=output,
        patience=PATIENT,
    )  # fmt: skip


def built(api: Api, image: str, output: Format) -> Json:
    """The image, with a content: it is built now if it has none. Raises as `lookup.find`, Exit(1)."""
    found = lookup.find(api, "images", image)
    if found.get("x_state") in ("absent", "failed"):
        build = api.post(f"/x/v1/images/{found['id']}/build", {})["action"]
        wait.until_done(api, f"image {image}", build, "is built", quiet=output is Format.JSON, patience=PATIENT)
    return found


def cool(ctx: typer.Context, image: Image, no_wait: NoWait = False, output: Output = Format.TABLE) -> None:
    """Drop what nodes keep of an image's guests. Servers that began from that go on.

    Examples:
      paddock image cool debian-12
    """
    api = api_of(ctx)
    found = lookup.find(api, "images", image)
    if not any(warm["sha256"] == found.get("x_sha256", warm["sha256"]) for warm in _known(api)):
        raise NotFound(f"no node keeps a warm image of {image}", hint="`paddock image warm` lists them")
    action = api.post(f"/admin/v1/images/{found['id']}/cool", {})["action"]
    wait.until_done(api, f"image {image}", action, "is warm no more", wait=not no_wait, output=output)


def _known(api: Api) -> list[Json]:
    found: list[Json] = api.get("/admin/v1/warm_images")["warm_images"]
    return found
