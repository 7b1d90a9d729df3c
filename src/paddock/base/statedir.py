"""The state directory: where it is, and what lies where in it. `service/state.py` makes, checks and locks it.

Apart from `settings`, since the supervisor needs the paths and must stay small: it imports no pydantic.
"""

import os
from dataclasses import dataclass
from pathlib import Path

STATE_ENV = "PADDOCK_STATE_DIR"
DATABASE_ENV = "PADDOCK_DATABASE_URL"


@dataclass(frozen=True)
class StateDir:
    """The layout of a state directory."""

    root: Path

    @property
    def marker(self) -> Path:
        """That it is ours, and of which version."""
        return self.root / "paddock-state.json"

    @property
    def config(self) -> Path:
        return self.root / "paddock.toml"

    @property
    def catalogue(self) -> Path:
        """Images of the operator's own for the catalogue, if there are any."""
        return self.root / "catalogue.toml"

    @property
    def keys(self) -> Path:
        """<publisher>.gpg: with which signatures of images are checked."""
        return self.root / "keys"

    @property
    def lock(self) -> Path:
        """Flock: one supervisor per state directory."""
        return self.root / "lock"

    @property
    def run(self) -> Path:
        """Sockets, pids, urls: only of use while it runs."""
        return self.root / "run"

    @property
    def short_run(self) -> Path:
        """`run`, for the paths of sockets (107 bytes at most): where it is too long, `run` is a link to a short one."""
        return self.run.readlink() if self.run.is_symlink() else self.run

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def database(self) -> Path:
        return self.root / "db"

    @property
    def postgresql(self) -> Path:
        """<version>/: PostgreSQL's programs, where its service user can't reach those installed."""
        return self.root / "postgresql"

    @property
    def status(self) -> Path:
        """What the supervisor runs, as JSON."""
        return self.run / "status.json"

    @property
    def images(self) -> Path:
        """The cloud's images: <sha256>/manifest.json, disk, ...."""
        return self.root / "images"

    @property
    def uploads(self) -> Path:
        return self.root / "uploads"

    @property
    def nodes(self) -> Path:
        """<name>/ of each local node, unless it says where."""
        return self.root / "nodes"

    @property
    def token(self) -> Path:
        """Of the default project, 0600."""
        return self.root / "token"

    @property
    def secret_key(self) -> Path:
        return self.root / "secret-key"

    @property
    def tls(self) -> Path:
        """Our certificate authority, and what it signed for the API: ca.crt, ca.key, server.crt, server.key."""
        return self.root / "tls"

    @property
    def ca(self) -> Path:
        """What clients trust."""
        return self.tls / "ca.crt"

    @property
    def database_url(self) -> Path:
        return self.run / "database-url"

    @property
    def api_url(self) -> Path:
        return self.run / "api-url"

    def agent_socket(self, node: str) -> Path:
        """Where the agent of a local node listens."""
        return self.short_run / f"agent-{node}.sock"


def default_state_dir() -> Path:
    """Where the state is unless told: `PADDOCK_STATE_DIR`, else /var/lib/paddock for root, else in the user's data."""
    if chosen := os.environ.get(STATE_ENV):
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/paddock")
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(data) / "paddock"
