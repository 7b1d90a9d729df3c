"""`paddock server send-key`: keys for a server's keyboard, where its screen asks for some."""

from typing import Annotated

import typer

from paddock.base.errors import Invalid
from paddock.cli import lookup
from paddock.cli.server import Server
from paddock.cli.session import api_of

PART = 100  # keys in one request


def send_key(
    ctx: typer.Context,
    server: Server,
    keys: Annotated[
        list[str] | None, typer.Argument(help="Like ctrl-alt-delete, f2, down, enter.", show_default=False)
    ] = None,
    text: Annotated[str, typer.Option(help="Type this first, as on a US keyboard.")] = "",
) -> None:
    """Press keys of a server's keyboard.

    Keys that are pressed at once are joined by "-". Names: letters, digits, f1 to f12, ctrl, alt,
    shift, meta, enter, esc, tab, space, backspace, delete, insert, home, end, pgup, pgdn, up,
    down, left, right, minus, print, and others that QEMU knows.

    Examples:
      paddock server send-key web ctrl-alt-delete
      paddock server send-key web down down enter
      paddock server send-key web --text root enter
    """
    if not keys and not text:
        raise Invalid("say which keys to press", hint="paddock server send-key web ctrl-alt-delete", field="keys")
    api = api_of(ctx)
    path = f"/x/v1/servers/{lookup.server(api, server)['id']}/keys"
    for at in range(0, len(text), PART):
        api.post(path, {"text": text[at : at + PART]})
    for at in range(0, len(keys or []), PART):
        api.post(path, {"keys": (keys or [])[at : at + PART]})
