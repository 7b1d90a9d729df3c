"""Bodies of the calls to a node agent that are more than one model of `paddock.machine`: both ends share them."""

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from paddock.hypervisor.base import MAX_CHUNK
from paddock.machine.cleaning import Cleaning
from paddock.machine.image import ImageManifest
from paddock.machine.keys import Chord
from paddock.machine.spec import Frozen, Power, Sha256
from paddock.machine.state import MachineState, VolumeState
from paddock.machine.warm import WarmImage, Wish

EPOCH = "epoch"  # query parameter of every change
CORRELATION_HEADER = "X-Correlation-Id"
MAX_GUEST_SECONDS = 3600.0
MAX_POLL_SECONDS = 60.0
MAX_PATH = 4096  # bytes, of Linux


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path or ".." in PurePosixPath(path).parts or path.endswith("/"):
        raise ValueError("must be the absolute path of a file, without '..'")
    return path


class PowerRequest(Frozen):
    power: Power


class ImageRequest(Frozen):
    manifest: ImageManifest
    source: str


class ExecRequest(Frozen):
    argv: Annotated[tuple[str, ...], Field(min_length=1)]
    stdin: str = ""
    timeout: Annotated[float, Field(gt=0, le=MAX_GUEST_SECONDS, description="seconds")] = 30.0


class SnapshotRequest(Frozen):
    """`target` is a file on the node's host, which the agent writes as the user that it is."""

    target: Annotated[str, Field(max_length=MAX_PATH), AfterValidator(_absolute)]
    cleaning: Cleaning | None = None


class FileWrite(Frozen):
    """Bytes for a guest's file."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_bytes="base64", val_json_bytes="base64")

    path: Annotated[str, Field(max_length=MAX_PATH)]
    offset: Annotated[int, Field(ge=0)]
    data: Annotated[bytes, Field(max_length=MAX_CHUNK, repr=False)]


class KeysRequest(Frozen):
    chords: tuple[Chord, ...]


class PasswordRequest(Frozen):
    """`password_hash` is of crypt(3); a line of /etc/shadow must not be broken by it."""

    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
    password_hash: Annotated[str, Field(pattern=r"^[!-9;-~]{1,512}$", repr=False)]


class DiskPasswordRequest(PasswordRequest):
    """The same for a machine that is off; `helper` is the image that works on its disk."""

    helper: Sha256


class Images(Frozen):
    images: tuple[str, ...]


class MachineList(Frozen):
    machines: tuple[MachineState, ...]


class VolumeList(Frozen):
    volumes: tuple[VolumeState, ...]


class WarmList(Frozen):
    warm: tuple[WarmImage, ...]


class Wishes(Frozen):
    wishes: tuple[Wish, ...]
