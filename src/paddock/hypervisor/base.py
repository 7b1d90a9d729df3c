"""The hypervisor port: four small protocols, and what a driver can do as data.

All calls are synchronous, idempotent, and safe to repeat after any failure. What a driver makes on its host is named
by the machine's uuid. A change carries the caller's `epoch`: a driver refuses one lower than it has seen for that
machine (StaleEpoch), and after `remove` it refuses everything up to that epoch, even after a restart.
"""

from typing import Protocol
from uuid import UUID

from anyio.abc import ByteStream

from paddock.machine.image import ImageManifest
from paddock.machine.spec import Disk, Frozen, Machine, Power
from paddock.machine.state import Change, GuestResult, HostFacts, MachineState, Progress, Readiness


class Capabilities(Frozen):
    """What a driver can do, so that callers branch on data and not on a driver's name."""

    driver: str
    console: bool = True
    vnc: bool = True
    guest_exec: bool = True
    direct_kernel: bool = True


class Machines(Protocol):
    """The machines of one host."""

    def capabilities(self) -> Capabilities: ...

    def facts(self) -> HostFacts: ...

    def ensure(self, machine: Machine, epoch: int) -> None:
        """Define the machine, or change its definition. Its disks must exist; if it runs, it changes at the next
        start."""

    def power(self, machine: UUID, power: Power, epoch: int) -> None:
        """Change its power; ON returns when QEMU runs. Raises NotFound, PortTaken, Refused (with QEMU's last words)."""

    def remove(self, machine: UUID, epoch: int) -> None:
        """Stop it and remove all that it has on this host. Removing what is not there succeeds."""

    def state(self, machine: UUID) -> MachineState:
        """Raises NotFound."""

    def changes(self, cursor: int, timeout: float) -> Change:
        """All machines, at once if anything happened since `cursor` (0: at once), else when it does or after
        `timeout` seconds."""

    def readiness(self, machine: UUID) -> Readiness: ...


class Disks(Protocol):
    """Images and disks of one host."""

    def ensure_image(self, manifest: ImageManifest, source: str) -> Progress:
        """Bring an image here from `source` (a directory on this host) in the background; ask again until done."""

    def images(self) -> tuple[str, ...]:
        """The sha256 of every image that is here and whole."""

    def remove_image(self, image: str) -> None:
        """Raises Conflict while a machine's disk stands on it."""

    def ensure_disk(self, machine: UUID, disk: Disk, epoch: int) -> None:
        """Make the disk, or grow it; a smaller size is refused. Raises DiskFull."""


class Guest(Protocol):
    """Inside a running guest, by its guest agent."""

    def exec(self, machine: UUID, argv: tuple[str, ...], stdin: str, timeout: float) -> GuestResult:
        """Run a command in the guest. Raises Unavailable when the guest agent does not answer, or not in time."""


class Streams(Protocol):
    """What comes out of a machine. Asynchronous, since a person may look at it for hours."""

    async def console(self, machine: UUID) -> ByteStream:
        """The serial console, for reading and writing. Raises Conflict when the machine is off."""

    async def vnc(self, machine: UUID) -> ByteStream:
        """A VNC (RFB) connection to its screen. Raises Conflict when the machine is off."""

    def console_log(self, machine: UUID, limit: int) -> str:
        """The last `limit` bytes that the guest wrote to its serial console."""


class Hypervisor(Protocol):
    """A host that runs machines."""

    @property
    def machines(self) -> Machines: ...

    @property
    def disks(self) -> Disks: ...

    @property
    def guest(self) -> Guest: ...

    @property
    def streams(self) -> Streams: ...

    def close(self) -> None:
        """Let go of connections and threads; machines go on."""
