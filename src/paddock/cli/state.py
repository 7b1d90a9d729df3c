"""A server's state in our own words: what /v1 calls running may be paused, and what it calls off, hibernated."""

from paddock.cli.client import Json


def state_of(server: Json) -> str:
    """`x_status`, which says more than the word that clients of other clouds know."""
    return str(server.get("x_status") or server["status"])
