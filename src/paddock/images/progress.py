"""How far a build is, in a file that anybody may read at any time and that is never half written."""

import contextlib
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from paddock.base.clock import now
from paddock.machine.spec import Frozen

Say = Callable[[int, str], None]  # percent of the whole, and what is being done


class BuildStatus(Frozen):
    """A build, or a download. `sha256` is the image's once it is ready, `error` says why it failed. Of what a publisher
    says of its image: `version` tells it from the next, `verified` is what proves it, for people."""

    state: Literal["absent", "building", "ready", "failed"]
    percent: Annotated[int, Field(ge=0, le=100)] = 0
    doing: str = ""
    sha256: str = ""
    error: str = ""
    version: str = ""
    verified: str = ""
    pid: int = 0
    started: datetime | None = None


class StatusFile:
    """A build's status on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status = BuildStatus(state="building", pid=os.getpid(), started=now())

    def change(self, **fields: object) -> None:
        """Write the status with these fields changed."""
        self.status = self.status.model_copy(update=fields)
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        new.write_text(self.status.model_dump_json(), encoding="utf-8")
        new.rename(self.path)


def read_status(path: Path) -> BuildStatus:
    """What the file says; `absent` when there is none that can be read."""
    with contextlib.suppress(FileNotFoundError, ValidationError):
        return BuildStatus.model_validate_json(path.read_bytes())
    return BuildStatus(state="absent")
