"""`paddock server set`: what a server is described by, and when it is started by itself."""

from typing import Annotated, Literal

import typer

from paddock.base.errors import Invalid
from paddock.cli import lookup
from paddock.cli.client import Json
from paddock.cli.output import Format, Output, stdout
from paddock.cli.server import Server
from paddock.cli.session import api_of
from paddock.cli.state import state_of
from paddock.cli.wait import tell

Description = Annotated[str | None, typer.Option("-d", "--description", help="For people.", show_default=False)]
Autostart = Annotated[bool | None, typer.Option("--autostart/--no-autostart", help="Start it when its node comes up.")]
Order = Annotated[int | None, typer.Option("--order", min=0, max=9999, help="Lower ones start first.")]
Delay = Annotated[int | None, typer.Option("--delay", min=0, max=3600, help="Seconds that the next ones wait.")]
Restart = Annotated[Literal["no", "on-failure"] | None, typer.Option(help="When its QEMU dies.", show_default=False)]
KernelArgs = Annotated[
    str | None, typer.Option("--kernel-args", help="For images whose kernel QEMU loads.", show_default=False)
]


def turn(autostart: bool | None, order: int | None, delay: int | None) -> Json | None:
    """When a server is started by itself, as the API takes it; None when nothing was said of that."""
    said = {"enabled": autostart, "order": order, "delay": delay}
    return {name: value for name, value in said.items() if value is not None} or None


def set_server(
    ctx: typer.Context,
    server: Server,
    description: Description = None,
    autostart: Autostart = None,
    order: Order = None,
    delay: Delay = None,
    restart: Restart = None,
    kernel_args: KernelArgs = None,
    group: Annotated[str | None, typer.Option("-g", "--group", help="To start and stop servers together.")] = None,
    role: Annotated[str | None, typer.Option(help="What it does in its group.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Change what a server is described by, and when it is started by itself. What you leave out stays as it is.

    Examples:
      paddock server set db --autostart --order 1 --delay 30
      paddock server set web --restart on-failure --description "the shop"
      paddock server set old --no-autostart --group ""
    """
    said: Json = {
        "x_description": description, "x_restart": restart, "x_kernel_args": kernel_args, "x_group": group,
        "x_role": role, "x_autostart": turn(autostart, order, delay),
    }  # fmt: skip
    body = {name: value for name, value in said.items() if value is not None}
    if not body:
        raise Invalid("nothing to change", hint="`paddock server set --help` shows what there is")
    api = api_of(ctx)
    thing = api.put(f"/v1/servers/{lookup.server(api, server)['id']}", body)["server"]
    tell(thing, f"{thing['name']} is changed", output)
    if kernel_args is not None and state_of(thing) != "off" and output is Format.TABLE:
        stdout().print("its kernel gets these arguments at its next start")
