"""Which cloud one run of the command line speaks to: found from options, environment and state directory."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import typer

from paddock.base.errors import Invalid, Unavailable
from paddock.base.statedir import StateDir, default_state_dir
from paddock.cli.client import Api, read_token

ENDPOINT_ENV = "PADDOCK_ENDPOINT"
CA_ENV = "PADDOCK_CA"
TOKEN_ENV = "PADDOCK_TOKEN"  # noqa: S105  (the variable's name)


@dataclass
class Session:
    """One run. `endpoint` is what `--endpoint` said, or None."""

    endpoint: str | None = None

    @cached_property
    def api(self) -> Api:
        """The API, not yet spoken to. Raises PaddockError when we know no address or token."""
        state = StateDir(default_state_dir())
        chosen = self.endpoint or os.environ.get(ENDPOINT_ENV)
        token = os.environ.get(TOKEN_ENV)
        own = _own_address(state)
        if not chosen and not own:
            raise Unavailable(
                f"Paddock is not running: {state.api_url} is not there",
                hint="`paddock up` starts it; for another cloud set PADDOCK_ENDPOINT and PADDOCK_TOKEN",
            )
        if chosen and not token and _same(chosen) != _same(own):
            raise Invalid(
                f"there is no token for {chosen}",
                hint=f"set {TOKEN_ENV}; the token in {state.root} goes only to the cloud that runs there",
            )
        return Api(chosen or own, token or read_token(state.token), _authority(state))


def api_of(ctx: typer.Context) -> Api:
    """The API of this run."""
    session = ctx.find_object(Session)
    assert session is not None, "BUG: the main callback makes the session"
    return session.api


def config_dir() -> Path:
    """Where this user's keys and known hosts are: made 0700 when it is not there."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    path = Path(base) / "paddock"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _authority(state: StateDir) -> Path | None:
    """The certificates to trust besides the system's: those that PADDOCK_CA names, else those of this machine's own
    cloud."""
    if chosen := os.environ.get(CA_ENV):
        return Path(chosen).absolute()
    return state.ca if state.ca.exists() else None


def _own_address(state: StateDir) -> str:
    try:
        return state.api_url.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _same(address: str) -> str:
    return address.rstrip("/").removesuffix("/v1").rstrip("/")
