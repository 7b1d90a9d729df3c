"""`paddock image create`: an image of a server's disk, to make other servers of."""

from typing import Annotated

import typer

from paddock.base.errors import NameTaken
from paddock.cli import lookup
from paddock.cli.client import Json
from paddock.cli.output import Format, Output, stdout
from paddock.cli.session import api_of
from paddock.cli.wait import NoWait, labels_of, until_done
from paddock.machine.cleaning import Trace


def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it will be called.", show_default=False)],
    server: Annotated[
        str, typer.Option("--from", metavar="SERVER", help="Name, id, or node/number.", show_default=False)
    ],
    keep: Annotated[
        list[Trace] | None,
        typer.Option(
            "--keep",
            metavar="WHAT",
            help=f"Leave this in it, which all made of it share then: {', '.join(Trace)}.",
            show_default=False,
        ),
    ] = None,
    description: Annotated[str, typer.Option("-d", "--description", help="For people.", show_default=False)] = "",
    label: Annotated[list[str] | None, typer.Option("--label", help="key=value", show_default=False)] = None,
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Make an image of a server, running or off, for other servers: cleaned of what two servers must not share.

    The server itself is not touched. An exact copy is `paddock snapshot`.

    Examples:
      paddock image create web-base --from web
      paddock image create web-base --from web --keep authorized-keys --keep passwords
    """
    api = api_of(ctx)
    thing = lookup.server(api, server)
    body: Json = {"name": name, "keep": [k.value for k in keep or []], "labels": labels_of(label)}
    if description:
        body["description"] = description
    try:
        answer = api.post(f"/x/v1/servers/{thing['id']}/actions/create_image", body)
    except NameTaken as e:
        raise NameTaken(f"there is already an image or ISO {name}", hint="choose another NAME") from e
    done = f"is image {name} now; use it: paddock launch {name}"
    until_done(api, str(thing["name"]), answer["action"], done, wait=not no_wait, output=output)
    if not no_wait and output is Format.TABLE:
        for shared in api.get(f"/v1/images/{answer['image']['id']}")["image"].get("x_shared", []):
            stdout().print(f"all servers made of it share: {shared}")
