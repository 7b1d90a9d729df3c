"""Words of warm starts: what a node keeps of guests that have booted already, how a machine began, and why it did not
begin warm. Drivers share the reasons, so that people read the same ones whatever serves them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from paddock.machine.image import ImageManifest
from paddock.machine.spec import GIB, Frozen, Machine, Sha256

Policy = Literal["never", "second-use", "always"]  # when a node makes warm images unasked
WARM_BUDGET = 20 * GIB  # bytes of a node's disk, unless somebody says otherwise


class WarmImage(Frozen):
    """The memory, the devices and the disk of a guest that has booted, on one node. Machines that are asked for with
    the same image, CPUs and memory start from it."""

    id: Annotated[str, Field(description="the hash of all that it depends on")]
    image: Sha256
    name: str  # of the image
    scope: str  # "public", or the project whose machines alone may start from it
    cpus: int
    memory_mib: int
    disk: int  # bytes that the guest sees
    size: int = 0  # bytes that it really takes
    made: datetime | None = None
    used: datetime | None = None  # when a machine started from it last
    machines: int = 0  # whose disks stand on its disk
    making: bool = False
    ready: int = 0  # guests that are held restored and paused, for machines to take
    wanted: int = 0  # how many there shall be
    lacking: str = ""  # why there are fewer
    shared: bool = True  # machines share its memory until they write to it; else each has read all of it
    unusable: str = ""  # why there can be none of this image, or none now


class Wish(Frozen):
    """So many guests are to be held ready, restored from the warm image that a machine like this could start from."""

    machine: Machine
    count: Annotated[int, Field(ge=0, le=1000)]


class Start(Frozen):
    """How a machine that was turned on began."""

    warm: bool = False  # from a warm image
    pool: bool = False  # one that was held ready
    fork: bool = False  # from the memory of another machine that ran
    why: str = ""  # not, where that was asked for


def why_not(machine: Machine, manifest: ImageManifest, paused: bool = False) -> str:
    """Why a machine like this boots; empty: it could start from a warm image."""
    reasons = {
        "it was not asked for": not machine.warm,
        "its guest's CPUs were to stand still": paused,
        "it boots its rescue system": machine.rescue is not None,
        "it boots from a CD": machine.iso is not None and machine.iso_first,
        "it boots by UEFI": machine.firmware == "uefi",
        "its memory is in huge pages": machine.huge_pages,
        f"image {manifest.name} has no guest agent": not manifest.guest_agent,
        f"image {manifest.name} has no cloud-init": not (manifest.cloud_init or manifest.direct_boot),
        "its user data says what host keys it has": _names_host_keys(machine.seed.user_data),
    }
    return next((why for why, holds in reasons.items() if holds), "")


def none_yet(image: str, machine: Machine, making: bool) -> str:
    """Why a machine boots that could start from a warm image of `image`, if there were one."""
    said = f"there is no warm image of {image} with {machine.cpus} CPUs and {machine.memory_mib} MiB yet"
    return f"{said}: it is being made" if making else said


def too_small(disk: int) -> str:
    """Why a machine boots whose disk is smaller than the warm image's, which has `disk` bytes."""
    return f"its disk is smaller than the warm image's ({disk // GIB} GiB)"


def _names_host_keys(user_data: str) -> bool:
    """Then cloud-init must be done before SSH answers."""
    return any(word in user_data for word in ("ssh_keys:", "ssh_deletekeys:", "ssh_genkeytypes:"))


def scope_of(project: int | None) -> str:
    """Whose machines share a warm image: memory is never shared by projects unless it came from a public image."""
    return "public" if project is None else f"project-{project}"
