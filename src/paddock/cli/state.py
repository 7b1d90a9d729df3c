"""A server's state in our own words: what /v1 calls running may be paused, and what it calls off, hibernated."""

from typing import Literal

from paddock.cli.client import Json

State = Literal[
    "running", "off", "paused", "hibernated", "initializing", "starting", "stopping", "rebuilding", "deleting",
    "migrating", "unknown",
]  # fmt: skip


def state_of(server: Json) -> str:
    """`x_status`, which says more than the word that clients of other clouds know."""
    return str(server.get("x_status") or server["status"])
