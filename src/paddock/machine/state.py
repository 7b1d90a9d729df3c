"""What is: a machine's state on its node, its readiness, and the node itself."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from pydantic import ConfigDict, Field

from paddock.machine.spec import Frozen
from paddock.machine.warm import Start, WarmImage


class Phase(StrEnum):
    """A machine as its host sees it."""

    DEFINED = "defined"  # has a directory, never ran
    RUNNING = "running"
    PAUSED = "paused"
    OFF = "off"  # ended as asked: by us or by the guest itself
    HIBERNATED = "hibernated"  # off, with its memory in a file: goes on where it was when it is turned on
    CRASHED = "crashed"  # its process went away without being asked


class Accelerator(StrEnum):
    """Under what guests run."""

    KVM = "kvm"
    TCG = "tcg"


class MachineState(Frozen):
    """One machine on its node."""

    uuid: UUID
    phase: Phase
    pid: int | None = None
    accelerator: Accelerator | None = None
    since: datetime | None = None
    reason: str = ""  # why it is off or crashed, with the last words of its process
    host_restarted: bool = False  # it crashed because its host did, or was restarted while it ran
    rebooting: bool = False  # its guest asked for a reboot that needs a new start: out of the rescue system
    cold_start: str = ""  # why it did not go on with the memory that it was hibernated with, while it is on
    began: Start = Start()  # how its first start began, while it is on
    epoch: int = 0


class Readiness(Frozen):
    """Whether a running guest can be used, by whatever signals there are."""

    ready: bool
    by: tuple[str, ...] = ()  # of: ssh, agent, cloud-init, serial
    waiting_for: str = ""  # empty when ready
    last_words: str = ""  # the last lines of its serial console, when not ready


class NodeUse(Frozen):
    """What of a node's disk is really taken, in bytes. An image that is linked to the cloud's store takes it there."""

    machines: int = 0
    images: int = 0
    volumes: int = 0
    image_count: int = 0


class Sizes(Frozen):
    """What a machine really takes of its node's disk, in bytes."""

    disk: int  # its system disk, without the image that this stands on
    logs: int  # what it wrote to its serial console, and what QEMU said
    memory: int  # kept while it is hibernated
    other: int


class HostFacts(Frozen):
    """A node as its own agent sees it. Memory in MiB, disk in bytes."""

    version: str
    hostname: str
    cpus: int
    memory_mib: int
    memory_free_mib: int
    disk: int
    disk_free: int
    accelerator: Accelerator
    accelerator_reason: str
    hypervisor: str  # "qemu 7.2.22" or "fake"
    load: float = 0.0
    no_nested: str = "it does not say"  # why guests can't run virtual machines themselves; empty: they can
    huge_pages_mib: int = 0
    dedicated_cpus: int = 0  # how many CPUs can belong to one machine each
    use: NodeUse = NodeUse()
    boot_id: str = ""  # another one after each start of the host; empty: not known
    warm: tuple[WarmImage, ...] = ()  # what machines can start from here


class Change(Frozen):
    """Something happened to machines; only a hint to look. `cursor` is to be given to the next question."""

    cursor: int
    machines: tuple[MachineState, ...]  # all that the node has, as of now


class Progress(Frozen):
    """How far a copy, or another long work on a node, is. `error` is empty unless it failed."""

    done: bool
    bytes_done: int = 0
    bytes_total: int = 0
    error: str = ""
    doing: str = ""  # for people, where it is more than copying


class Fork(Progress):
    """How far a fork point is. `paused_ms`: how long the machine stood still for it, in milliseconds."""

    paused_ms: float = 0.0


class Snapshot(Progress):
    """How far a snapshot is. `frozen`: the guest's file systems were held still while its moment was taken; otherwise
    `not_frozen` says why not, and the snapshot is like a disk after a power cut."""

    frozen: bool = False
    not_frozen: str = ""
    cleaned: tuple[str, ...] = ()  # what was found and removed, each a phrase: "host-keys: 6"
    shared: tuple[str, ...] = ()  # what every server made of it will have in common: "logs: 12, say /var/log/dpkg.log"


class Adapted(Frozen):
    """What of a machine's definition its running guest does not have yet: it comes with the next start. Each is a
    sentence for a person; empty: all is as defined."""

    pending: tuple[str, ...] = ()


class VolumeState(Frozen):
    """A volume on its node. Sizes in bytes."""

    uuid: UUID
    size: int
    used: int  # what it takes on the node
    epoch: int = 0


class Series(Frozen):
    """One line of a metrics chart: (unix time, value) pairs, oldest first."""

    name: str
    values: tuple[tuple[float, float], ...]


class Metrics(Frozen):
    """What a machine used, by name: `cpu` (per cent of one CPU), `disk.0.iops.read`, `disk.0.iops.write`,
    `disk.0.bandwidth.read`, `disk.0.bandwidth.write`, `network.0.pps.in`, `network.0.pps.out`,
    `network.0.bandwidth.in`, `network.0.bandwidth.out` (per second; bytes for bandwidth)."""

    step: float  # seconds between values
    series: tuple[Series, ...]


class FileChunk(Frozen):
    """Some bytes of a guest's file; `end`: there were no more."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_bytes="base64", val_json_bytes="base64")

    data: bytes = Field(repr=False)
    end: bool


class GuestResult(Frozen):
    """What a command in a guest left behind."""

    exit_code: int
    stdout: str
    stderr: str
    truncated: bool = False
