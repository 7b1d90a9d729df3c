"""What the Tab key offers in a shell where something of the cloud is to be named."""

import os
from collections.abc import Callable
from contextlib import suppress

import typer

from paddock.base.errors import PaddockError
from paddock.base.statedir import STATE_ENV
from paddock.cli.client import Api
from paddock.cli.session import Session

Completion = Callable[[typer.Context, str], list[str]]


def known(api: Api, collection: str, prefix: str = "") -> list[str]:
    """The names in a collection that begin so, in one answer."""
    return list(api.get("/x/v1/names", {"of": collection, "prefix": prefix})["names"])


def names_of(collection: str) -> Completion:
    """Completes names of what is in a collection of the API."""

    def names(ctx: typer.Context, incomplete: str) -> list[str]:
        """Those that begin so. None where there is no cloud: a shell has no room for errors."""
        given = ctx.find_root().params  # no command was run, so nobody has looked at the options yet
        if given.get("state_dir"):
            os.environ[STATE_ENV] = str(given["state_dir"])
        with suppress(PaddockError):
            return known(Session(given.get("endpoint")).api, collection, incomplete)
        return []

    return names


server_names = names_of("servers")
