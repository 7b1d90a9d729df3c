"""The hypervisor port: six small protocols, and what a driver can do as data.

All calls are synchronous, idempotent, and safe to repeat after any failure. What a driver makes on its host is named
by the uuid of a machine or a volume. A change carries the caller's `epoch`: a driver refuses one lower than it has seen
for that machine or volume (StaleEpoch), and after a removal it refuses everything up to that epoch, even after a
restart.
"""

from typing import Protocol
from uuid import UUID

from anyio.abc import ByteStream

from paddock.machine.cleaning import Cleaning
from paddock.machine.image import ImageManifest
from paddock.machine.keys import Chord
from paddock.machine.spec import Disk, Frozen, Machine, Power, Volume
from paddock.machine.state import (
    Adapted,
    Change,
    FileChunk,
    Fork,
    GuestResult,
    HostFacts,
    MachineState,
    Metrics,
    Progress,
    Readiness,
    Sizes,
    Snapshot,
    VolumeState,
)
from paddock.machine.warm import WarmImage, Wish

MAX_CHUNK = 512 * 1024  # bytes of a guest's file in one call


class Capabilities(Frozen):
    """What a driver can do, so that callers branch on data and not on a driver's name."""

    driver: str
    console: bool = True
    vnc: bool = True
    guest_exec: bool = True
    direct_kernel: bool = True
    volumes: bool = True
    hot_add: bool = True  # CPUs and memory to a running machine of layout 2
    snapshots: bool = True
    iso: bool = True
    rescue: bool = True
    passwords: bool = True
    metrics: bool = True
    offline_edits: bool = True  # works on disks of machines that are off, in a helper guest
    warm: bool = True  # starts from warm images
    fork: bool = True  # running machines become several
    uefi: bool = True  # machines that boot by UEFI, beside those that boot by a BIOS
    isolated: bool = False  # guests of strangers can't reach the host's loopback, nor each other's


class Machines(Protocol):
    """The machines of one host."""

    def capabilities(self) -> Capabilities: ...

    def facts(self) -> HostFacts: ...

    def ensure(self, machine: Machine, epoch: int) -> None:
        """Define the machine, or change its definition. Its disks must exist; if it runs, it changes at the next
        start."""

    def power(self, machine: UUID, power: Power, epoch: int) -> MachineState:
        """Change its power, and say how it is then; ON returns when QEMU runs. Raises NotFound, PortTaken, Refused
        (with QEMU's last words)."""

    def hibernate(self, machine: UUID, epoch: int) -> Progress:
        """Write its memory and the state of its devices to a file of its own, then end it; ask again until done. Power
        ON goes on from there, once; what can't be gone on with is started anew, and its state says why. Power OFF
        drops it. Until it is done the machine may run on, and does after any error. Raises Conflict when it is off,
        DiskFull, Refused."""

    def fork(self, machine: UUID, point: UUID, epoch: int) -> Fork:
        """Make a fork point of a machine that runs: its memory, its devices and its disk of one instant, for which it
        stands still some milliseconds; ask again until done. Machines that are defined with this point begin from it
        (see `Machine.fork`), and never boot instead. Raises Conflict where it can't be forked as it is, DiskFull,
        Refused; whatever happens, it runs on."""

    def drop_fork(self, point: UUID) -> None:
        """Nobody begins from it any more; machines that did go on. Dropping what is not there succeeds."""

    def remove(self, machine: UUID, epoch: int) -> None:
        """Stop it and remove all that it has on this host. Removing what is not there succeeds."""

    def state(self, machine: UUID) -> MachineState:
        """Raises NotFound."""

    def changes(self, cursor: int, timeout: float) -> Change:
        """All machines, at once if anything happened since `cursor` (0: at once), else when it does or after
        `timeout` seconds."""

    def readiness(self, machine: UUID) -> Readiness: ...

    def adapt(self, machine: UUID, epoch: int) -> Adapted:
        """Bring a running machine to its definition as far as it goes without a new start: volumes and the ISO plugged
        and unplugged, CPUs and memory added. Does nothing to one that is off. Raises NotFound, Refused."""

    def metrics(self, machine: UUID, start: float, end: float, step: float) -> Metrics:
        """What it used between two unix times, about one value per `step` seconds (0: the finest there is), at most 500
        a series. Kept for 30 days, and gone with the machine. A line is empty where nothing is known. Raises
        NotFound."""

    def sizes(self, machine: UUID) -> Sizes:
        """What it really takes of the disk. Raises NotFound."""


class Disks(Protocol):
    """Images and disks of one host."""

    def ensure_image(self, manifest: ImageManifest, source: str) -> Progress:
        """Bring an image here from `source` (a directory on this host) in the background; ask again until done."""

    def images(self) -> tuple[str, ...]:
        """The sha256 of every image that is here and whole."""

    def remove_image(self, image: str) -> None:
        """Raises Conflict while a machine's disk stands on it."""

    def ensure_disk(self, machine: UUID, disk: Disk, epoch: int) -> None:
        """Make the disk, or grow it; a smaller size is refused. One of another generation takes the place of what is
        there. Raises DiskFull, and Conflict while the machine runs."""

    def snapshot(
        self, machine: UUID, snapshot: UUID, target: str, epoch: int, cleaning: Cleaning | None = None
    ) -> Snapshot:
        """Copy the system disk as it is at one moment to the file `target` (of this host; a whole qcow2 without backing
        file), in the background; ask again until done. The machine may run, and is not stopped. With `cleaning`, what
        two servers must not share is removed from the copy, and what is left of it is said. What its UEFI remembers
        lies beside it, as `target` with -efivars at its end. Raises DiskFull, NotFound for an image that the helper
        guest can't boot."""

    def drop_snapshot(self, machine: UUID, snapshot: UUID, epoch: int) -> None:
        """Give up making it, and remove what of it lies on this node outside `target`."""

    def set_password(self, machine: UUID, user: str, password_hash: str, helper: str, epoch: int) -> Progress:
        """Change a user's password, given as a crypt(3) hash, on the disk of a machine that is off, in a helper guest
        that boots the image `helper`, in the background; ask again until done. Whatever happens meanwhile, the disk is
        as before or as after. Raises Conflict while the machine is on, NotFound."""


class Volumes(Protocol):
    """Volumes of one host. Nothing but `remove_volume` ever removes one."""

    def ensure_volume(self, volume: Volume, epoch: int) -> None:
        """Make the volume with its file system, or grow it, also while a machine uses it. Raises DiskFull, Invalid for
        a smaller size."""

    def remove_volume(self, volume: UUID, epoch: int) -> None:
        """Remove it and its data. Removing what is not there succeeds. Raises Conflict while a machine's definition has
        it."""

    def volumes(self) -> tuple[VolumeState, ...]:
        """All that are here."""


class WarmImages(Protocol):
    """Guests of a host that have booted already, from which machines start (see `Machine.warm`)."""

    def make_warm(self, machine: Machine) -> Progress:
        """Have the warm image made that this machine, which need not be defined, could start from; in the background,
        with low priority; ask again until done. Raises Refused where there can be none, NotFound for its image,
        DiskFull, Unavailable when there is no room in memory now."""

    def warm_images(self) -> tuple[WarmImage, ...]:
        """All that are here, those that are being made, and notes of where there can be none."""

    def keep_ready(self, wishes: tuple[Wish, ...]) -> None:
        """Hold so many guests restored and paused, that machines are turned on by resuming one, and no others. They are
        made in the background, of memory that can be spared, and given up where it runs short; `warm_images` says how
        many there are. To be said again after a restart."""

    def remove_warm(self, id: str) -> None:
        """Nobody starts from it any more; machines that did go on. Removing what is not there succeeds."""


class Guest(Protocol):
    """Inside a running guest, by its guest agent."""

    def exec(self, machine: UUID, argv: tuple[str, ...], stdin: str, timeout: float) -> GuestResult:
        """Run a command in the guest. Raises Unavailable when the guest agent does not answer, or not in time."""

    def read_file(self, machine: UUID, path: str, offset: int, limit: int) -> FileChunk:
        """Up to `limit` bytes (at most MAX_CHUNK) of a guest's file from `offset` on. Raises NotFound, Unavailable as
        exec, Refused with the guest agent's words."""

    def write_file(self, machine: UUID, path: str, offset: int, data: bytes) -> None:
        """Write at most MAX_CHUNK bytes at `offset` into a file that is there. Raises as `read_file`."""

    def set_password(self, machine: UUID, user: str, password_hash: str) -> None:
        """Change a user's password in the running guest, given as a crypt(3) hash. Raises Unavailable as exec, Refused
        when the guest does not take it."""


class Streams(Protocol):
    """What comes out of a machine. Asynchronous, since a person may look at it for hours."""

    async def console(self, machine: UUID, scrollback: int = 0) -> ByteStream:
        """The serial console, for reading and writing; first come up to `scrollback` of the last bytes that it said.
        Raises Conflict when the machine is off, and where a driver serves one at a time (a node agent lets any number
        of people watch and type) while somebody has it."""

    async def vnc(self, machine: UUID) -> ByteStream:
        """A VNC (RFB) connection to its screen. Raises Conflict when the machine is off."""

    def console_log(self, machine: UUID, limit: int) -> str:
        """The last `limit` bytes that the guest wrote to its serial console."""

    def send_keys(self, machine: UUID, chords: tuple[Chord, ...]) -> None:
        """Press keys of its keyboard, one chord after the other (see `paddock.machine.keys`); returns when the last is
        pressed. Raises Conflict when the machine is off, Invalid for what is no key."""


class Hypervisor(Protocol):
    """A host that runs machines."""

    @property
    def machines(self) -> Machines: ...

    @property
    def disks(self) -> Disks: ...

    @property
    def volumes(self) -> Volumes: ...

    @property
    def warm(self) -> WarmImages: ...

    @property
    def guest(self) -> Guest: ...

    @property
    def streams(self) -> Streams: ...

    def close(self) -> None:
        """Let go of connections and threads; machines go on."""
