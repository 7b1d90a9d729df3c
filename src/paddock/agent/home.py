"""The agent's state directory: its own, of a version it understands, and used by one agent at a time."""

import fcntl
import os
import stat
from pathlib import Path

from pydantic import ValidationError

from paddock import __version__
from paddock.base.errors import Conflict, Refused
from paddock.base.files import write_atomically
from paddock.machine.spec import Frozen

LAYOUT = 1  # of a node's state directory; raise it when an older agent would misread it
MARKER = "node.json"
LOCK = "lock"


class Marker(Frozen):
    """Whose directory it is. `version` is the layout's, `paddock` the program's that wrote it."""

    version: int = LAYOUT
    name: str
    driver: str
    paddock: str = __version__


class Home:
    """A claimed state directory. The claim ends with the process, or with `close`."""

    def __init__(self, root: Path, name: str, driver: str) -> None:
        """Claim `root`, making it if need be. Raises Refused, or Conflict while another agent has it."""
        self.root = root
        _make(root)
        self._refuse_strangers(name, driver)
        self._lock = self._locked()
        if self._read() is None:
            write_atomically(root / MARKER, Marker(name=name, driver=driver).model_dump_json(), sync=True)

    @property
    def fence(self) -> Path:
        """Epochs and tombstones."""
        return self.root / "fence"

    def close(self) -> None:
        os.close(self._lock)

    def _locked(self) -> int:
        fd = os.open(self.root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            os.close(fd)
            raise Conflict(f"{self.root} is in use by another node agent", hint="stop that one first") from e
        return fd

    def _refuse_strangers(self, name: str, driver: str) -> None:
        marker = self._read()
        if marker is None:
            if found := sorted({p.name for p in self.root.iterdir()} - {LOCK, f".{MARKER}.new"}):
                hint = "name an empty directory, or one that a node agent made"
                raise Refused(f"{self.root} is no state directory of a node: it holds {found[0]}", hint=hint)
            return
        if marker.version > LAYOUT:
            text = f"{self.root} was written by a newer paddock ({marker.paddock}); this one is {__version__}"
            raise Refused(text, hint="use that version or a later one")
        for what, ours, theirs in (("node", name, marker.name), ("driver", driver, marker.driver)):
            if ours != theirs:
                hint = "one directory belongs to one node and one driver"
                raise Refused(f"{self.root} belongs to {what} {theirs}, not to {ours}", hint=hint)

    def _read(self) -> Marker | None:
        path = self.root / MARKER
        try:
            return Marker.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as e:
            raise Refused(f"{path} can't be read as a node's marker: {e}") from e


def _make(root: Path) -> None:
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise Refused(f"{root} can't be made: {e.strerror}", hint="choose another --state-dir") from e
    found = root.stat()
    if found.st_uid != os.geteuid():
        raise Refused(f"{root} belongs to user {found.st_uid}, not to us", hint="choose another --state-dir")
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise Refused(f"{root} can be written by others", hint=f"chmod go-w {root}")
