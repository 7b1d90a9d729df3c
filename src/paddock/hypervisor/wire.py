"""Bodies of the calls to a node agent that are more than one model of `paddock.machine`: both ends share them."""

from typing import Annotated

from pydantic import Field

from paddock.machine.image import ImageManifest
from paddock.machine.spec import Frozen, Power
from paddock.machine.state import MachineState

EPOCH = "epoch"  # query parameter of every change
CORRELATION_HEADER = "X-Correlation-Id"
MAX_GUEST_SECONDS = 3600.0
MAX_POLL_SECONDS = 60.0


class PowerRequest(Frozen):
    power: Power


class ImageRequest(Frozen):
    manifest: ImageManifest
    source: str


class ExecRequest(Frozen):
    argv: Annotated[tuple[str, ...], Field(min_length=1)]
    stdin: str = ""
    timeout: Annotated[float, Field(gt=0, le=MAX_GUEST_SECONDS, description="seconds")] = 30.0


class Images(Frozen):
    images: tuple[str, ...]


class MachineList(Frozen):
    machines: tuple[MachineState, ...]
