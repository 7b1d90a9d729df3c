"""Where things lie on a node: paths only.

QEMU runs with its machine's directory as its working directory and names everything relative to it, because a unix
socket's path may have 107 bytes only. We reach those sockets by the directory's descriptor, for the same reason.
"""

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from paddock.machine.image import Role


@dataclass(frozen=True)
class MachineDir:
    """All that a machine has on its node."""

    root: Path

    @property
    def spec(self) -> Path:
        """The last accepted definition."""
        return self.root / "spec.json"

    @property
    def run(self) -> Path:
        """The process that runs it or ran it last: pid, since when, how it ended."""
        return self.root / "run.json"

    @property
    def lock(self) -> Path:
        """Flocked by QEMU itself (it inherits the descriptor), from before its start to its very end."""
        return self.root / "lock"

    @property
    def system_disk(self) -> Path:
        return self.root / "system.qcow2"

    @property
    def efi_variables(self) -> Path:
        """What its UEFI remembers."""
        return self.root / "efivars.qcow2"

    @property
    def seed(self) -> Path:
        return self.root / "seed.iso"

    @property
    def rescue_seed(self) -> Path:
        """What the rescue system is told instead of the seed."""
        return self.root / "rescue.iso"

    @property
    def memory(self) -> Path:
        """Its memory, while it is hibernated."""
        return self.root / "memory.state"

    @property
    def memory_record(self) -> Path:
        """What is needed to go on with its memory."""
        return self.root / "memory.json"

    @property
    def serial_log(self) -> Path:
        return self.root / "serial.log"

    @property
    def qemu_log(self) -> Path:
        return self.root / "qemu.log"


SOCKETS = ("qmp.sock", "qmp2.sock", "agent.sock", "serial.sock", "vnc.sock")


@dataclass(frozen=True)
class Layout:
    """A node's state directory."""

    root: Path

    @property
    def machines(self) -> Path:
        return self.root / "machines"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def overlays(self) -> Path:
        """Empty overlays, made once and copied: a copy is 70 times as fast as `qemu-img create`."""
        return self.root / "overlays"

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    @property
    def accelerator(self) -> Path:
        """What the probe found, and on which hardware and kernel."""
        return self.root / "accelerator.json"

    @property
    def warm(self) -> Path:
        """Guests that have booted already, from which others start."""
        return self.root / "warm"

    @property
    def pool(self) -> Path:
        """Guests that are held ready. As deep as the machines: a directory there becomes one of theirs."""
        return self.root / "pool"

    @property
    def helpers(self) -> Path:
        """What helper guests boot."""
        return self.root / "helpers"

    def machine(self, uuid: UUID) -> MachineDir:
        return MachineDir(self.machines / str(uuid))

    def image(self, sha256: str) -> Path:
        return self.images / sha256

    def volume(self, uuid: UUID) -> Path:
        """A volume's directory; its data is `disk.raw` in it."""
        return self.volumes / str(uuid)

    def warm_image(self, id: str) -> "WarmDir":
        return WarmDir(self.warm / id)

    def overlay(self, sha256: str, size: int) -> Path:
        return self.overlays / f"{sha256}-{size}.qcow2"


class WarmDir(MachineDir):
    """A warm image: made as if it were a machine, so that its guest finds all in its place. A warm image that nobody
    can start from any more keeps its disk as long as machines' disks stand on it."""

    @property
    def ram(self) -> Path:
        """What its guest's memory held."""
        return self.root / "ram"

    @property
    def devices(self) -> Path:
        """The state of all devices."""
        return self.root / "devices"

    @property
    def record(self) -> Path:
        """What it is; there is a warm image only where this is."""
        return self.root / "warm.json"

    @property
    def fork_record(self) -> Path:
        """What it is, when it is no warm image but a fork point that machines may begin from yet."""
        return self.root / "fork.json"

    @property
    def used(self) -> Path:
        """Touched whenever a machine starts from it."""
        return self.root / "used"


def warm_file(id: str, name: str) -> str:
    """A warm image's file as QEMU names it from inside a machine's directory."""
    return f"../../warm/{id}/{name}"


def image_file(sha256: str, role: Role) -> str:
    """An image's file as QEMU names it from inside a machine's directory."""
    return f"../../images/{sha256}/{role}"


def volume_file(uuid: UUID) -> str:
    """A volume's data as QEMU names it from inside a machine's directory."""
    return f"../../volumes/{uuid}/disk.raw"
