"""What a machine shall be: the whole of it, as a node is given it and keeps it on its disk."""

from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024
GIB = 1024 * MIB
MAX_USER_DATA = 32 * 1024  # bytes: the limit that API clients know
UEFI_FROM_MIB = 256  # with less memory OVMF has no room for itself and a kernel, and hangs
MAX_VENDOR_DATA = 32 * 1024  # bytes of the cloud's base configuration

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hostname = Annotated[str, Field(pattern=r"^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?$")]


class Frozen(BaseModel):
    """Base of all that crosses between control plane and node. Unknown fields are ignored, so that a node
    accepts the calls of the next version."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Disk(Frozen):
    """A disk of a machine. The system disk is an overlay over an image; its size is never less than the image's."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")] = "system"
    size: Annotated[int, Field(gt=0, description="bytes")]
    image: Sha256 | None = None
    generation: Annotated[int, Field(ge=0)] = 0  # another one is another disk in its place: how a server is rebuilt


class UserNetwork(Frozen):
    """User-mode networking: no root needed; port 22 of the guest answers on `ssh_port` of the node."""

    kind: Literal["user"] = "user"
    mac: str
    ssh_port: Annotated[int, Field(ge=1, le=65535)]
    ssh_address: str = "127.0.0.1"


class Seed(Frozen):
    """What cloud-init (NoCloud) in the guest is told. `instance_id` stays for the machine's life."""

    instance_id: str
    hostname: Hostname
    ssh_keys: tuple[str, ...] = ()
    user_data: str = ""
    password_hash: str = Field(default="", repr=False, description="crypt(3) hash of root's password; empty: locked")
    vendor_data: str = ""  # the cloud's own cloud-config, which the user's wins over


class Volume(Frozen):
    """A volume: a disk with a life of its own, which machines only borrow. It never shrinks."""

    uuid: UUID
    size: Annotated[int, Field(gt=0, description="bytes")]
    format: Literal["", "ext4", "xfs"] = ""  # made once, when the volume is made; empty: none


class Attached(Frozen):
    """A volume that a machine has. The guest sees it as a SCSI disk of vendor `HC`, product `Volume` and this serial,
    which is what API clients look for."""

    volume: UUID
    serial: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,36}$")]


class Rescue(Frozen):
    """The rescue system that is booted instead of the system disk: from memory, with the machine's disks attached and
    untouched. `image` has a kernel and an initrd."""

    image: Sha256
    ssh_keys: tuple[str, ...] = ()
    password_hash: str = Field(default="", repr=False, description="crypt(3) hash of root's password; empty: locked")


class Machine(Frozen):
    """A machine. Asking a node for the same one twice changes nothing."""

    spec_version: Literal[1] = 1
    uuid: UUID
    name: Hostname
    cpus: Annotated[int, Field(ge=1, le=512)]
    memory_mib: Annotated[int, Field(ge=32)]
    machine_type: str = "pc-q35-7.2"
    cpu_model: Literal["auto"] = "auto"  # auto: `host` under kvm, `max` under tcg
    layout: Literal[1, 2] = 1  # 2: room for more CPUs and memory while it runs, and an empty CD drive
    max_cpus: Annotated[int, Field(ge=0, le=512)] = 0  # of layout 2: up to which CPUs can be added; 0: as many as cpus
    max_memory_mib: Annotated[int, Field(ge=0)] = 0  # the same for memory
    image: Sha256
    system_disk: Disk
    network: UserNetwork
    seed: Seed
    volumes: tuple[Attached, ...] = ()
    iso: Sha256 | None = None  # an image with a file of role `iso`, in the CD drive
    iso_first: bool = True  # whether the CD is booted before the system disk; else where nothing on that can be
    rescue: Rescue | None = None
    firmware: Literal["bios", "uefi"] = "bios"  # uefi: its variables are kept in a qcow2 file of the machine
    kernel_args: Annotated[str, Field(max_length=1024)] = ""  # after the image's own, where QEMU loads the kernel
    nested: bool = False  # may run virtual machines itself, where the host can
    dedicated_cpus: bool = False  # each of its CPUs has one of the host's for itself
    huge_pages: bool = False
    # From whose warm images its first start may begin: "public", or a project's; empty: it boots.
    warm: Annotated[str, Field(pattern=r"^[a-z0-9-]{0,40}$")] = ""
    fork: UUID | None = None  # the fork point that its first start begins from, and from nothing else


class Power(StrEnum):
    """What can be asked of a machine's power. `on` when on and `off` when off change nothing."""

    ON = "on"
    ON_PAUSED = "on_paused"  # QEMU runs, the guest's CPUs do not: for benchmarks and warm images
    OFF = "off"  # at once, like pulling the plug
    SHUTDOWN = "shutdown"  # asks the guest by guest agent or ACPI button, and returns at once
    REBOOT = "reboot"  # asks the guest, and returns at once
    RESET = "reset"  # the reset button
    PAUSE = "pause"  # its CPUs stand still, its memory stays; one that is off has none
    RESUME = "resume"
