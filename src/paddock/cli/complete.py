"""What the Tab key offers in a shell where a server is to be named."""

import os
from contextlib import suppress

import typer

from paddock.base.errors import PaddockError
from paddock.base.statedir import STATE_ENV
from paddock.cli.session import Session


def server_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Servers whose names begin so. None where there is no cloud: a shell has no room for errors."""
    given = ctx.find_root().params  # no command was run, so nobody has looked at the options yet
    if given.get("state_dir"):
        os.environ[STATE_ENV] = str(given["state_dir"])
    with suppress(PaddockError):
        servers = Session(given.get("endpoint")).api.list("/v1/servers")
        return [str(s["name"]) for s in servers if str(s["name"]).startswith(incomplete)]
    return []
