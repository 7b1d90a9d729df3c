"""The Disks protocol of a node: images, the machines' system disks, and snapshots of these."""

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from paddock.base.errors import Conflict, Refused
from paddock.hypervisor.qemu import disks
from paddock.hypervisor.qemu.edit import Edits
from paddock.hypervisor.qemu.guest_agent import check_hash
from paddock.hypervisor.qemu.images import ImageStore
from paddock.hypervisor.qemu.layout import Layout, MachineDir
from paddock.hypervisor.qemu.record import images_of
from paddock.hypervisor.qemu.snapshot import Snapshots
from paddock.machine.cleaning import Cleaning
from paddock.machine.image import ImageManifest
from paddock.machine.spec import Disk
from paddock.machine.state import MachineState, Phase, Progress, Snapshot


class QemuDisks:
    """See `paddock.hypervisor.base.Disks`. The fence keeps epochs."""

    def __init__(
        self,
        layout: Layout,
        images: ImageStore,
        snapshots: Snapshots,
        edits: Edits,
        state_of: Callable[[UUID], MachineState],
        leave: Callable[[str], None],
    ) -> None:
        self._leave = leave  # an image: others remove what they made of it
        self._state_of = state_of
        self._layout = layout
        self._edits = edits
        self._images = images
        self._snapshots = snapshots

    def ensure_image(self, manifest: ImageManifest, source: str) -> Progress:
        return self._images.ensure(manifest, Path(source))

    def images(self) -> tuple[str, ...]:
        return self._images.whole()

    def remove_image(self, image: str) -> None:
        users = [d.name for d in self._directories() if disks.image_of(d) == image or image in images_of(MachineDir(d))]
        if users:
            raise Conflict(f"image {image[:12]} is in use by machine {users[0]}", hint="remove its machines first")
        self._leave(image)
        self._images.remove(image)
        for overlay in self._layout.overlays.glob(f"{image}-*.qcow2"):
            overlay.unlink(missing_ok=True)

    def ensure_disk(self, machine: UUID, disk: Disk, epoch: int) -> None:  # noqa: ARG002
        if disk.name != "system" or disk.image is None:
            raise Refused(f"this node can't make disk {disk.name!r}: it makes system disks over an image only")
        self._edits.settle(machine)
        disks.ensure(self._layout, machine, disk, self._images.manifest(disk.image))

    def snapshot(
        self,
        machine: UUID,
        snapshot: UUID,
        target: str,
        epoch: int,  # noqa: ARG002
        cleaning: Cleaning | None = None,
    ) -> Snapshot:
        self._edits.settle(machine)
        return self._snapshots.snapshot(machine, snapshot, Path(target), cleaning)

    def drop_snapshot(self, machine: UUID, snapshot: UUID, epoch: int) -> None:  # noqa: ARG002
        self._snapshots.drop(machine, snapshot)

    def set_password(self, machine: UUID, user: str, password_hash: str, helper: str, epoch: int) -> Progress:  # noqa: ARG002
        check_hash(password_hash)
        phase = self._state_of(machine).phase
        if phase in (Phase.RUNNING, Phase.PAUSED, Phase.HIBERNATED):
            raise Conflict(f"machine {machine} is {phase}", hint="power it off first")
        return self._edits.set_password(machine, user, password_hash, helper)

    def _directories(self) -> list[Path]:
        return [d for d in self._layout.machines.iterdir() if d.is_dir()]
