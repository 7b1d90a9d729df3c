"""What the Tab key offers in a shell where something of the cloud is to be named."""

import os
from collections.abc import Callable
from contextlib import suppress

import typer

from paddock.base.errors import PaddockError
from paddock.base.statedir import STATE_ENV
from paddock.cli.session import Session

Completion = Callable[[typer.Context, str], list[str]]


def names_of(collection: str) -> Completion:
    """Completes names of what is in `/v1/<collection>`."""

    def names(ctx: typer.Context, incomplete: str) -> list[str]:
        """Those that begin so. None where there is no cloud: a shell has no room for errors."""
        given = ctx.find_root().params  # no command was run, so nobody has looked at the options yet
        if given.get("state_dir"):
            os.environ[STATE_ENV] = str(given["state_dir"])
        with suppress(PaddockError):
            things = Session(given.get("endpoint")).api.list(f"/v1/{collection}")
            return [str(t["name"]) for t in things if str(t["name"] or "").startswith(incomplete) and t["name"]]
        return []

    return names


server_names = names_of("servers")
