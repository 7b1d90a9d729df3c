"""The Disks protocol of a node: images, the machines' system disks, and snapshots of these."""

from pathlib import Path
from uuid import UUID

from paddock.base.errors import Conflict, Refused
from paddock.hypervisor.qemu import disks
from paddock.hypervisor.qemu.images import ImageStore
from paddock.hypervisor.qemu.layout import Layout, MachineDir
from paddock.hypervisor.qemu.record import images_of
from paddock.hypervisor.qemu.snapshot import Snapshots
from paddock.machine.image import ImageManifest
from paddock.machine.spec import Disk
from paddock.machine.state import Progress, Snapshot


class QemuDisks:
    """See `paddock.hypervisor.base.Disks`. The fence keeps epochs."""

    def __init__(self, layout: Layout, images: ImageStore, snapshots: Snapshots) -> None:
        self._layout = layout
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
        self._images.remove(image)
        for overlay in self._layout.overlays.glob(f"{image}-*.qcow2"):
            overlay.unlink(missing_ok=True)

    def ensure_disk(self, machine: UUID, disk: Disk, epoch: int) -> None:  # noqa: ARG002
        if disk.name != "system" or disk.image is None:
            raise Refused(f"this node can't make disk {disk.name!r}: it makes system disks over an image only")
        disks.ensure(self._layout, machine, disk, self._images.manifest(disk.image))

    def snapshot(self, machine: UUID, snapshot: UUID, target: str, epoch: int) -> Snapshot:  # noqa: ARG002
        return self._snapshots.snapshot(machine, snapshot, Path(target))

    def drop_snapshot(self, machine: UUID, snapshot: UUID, epoch: int) -> None:  # noqa: ARG002
        self._snapshots.drop(machine, snapshot)

    def _directories(self) -> list[Path]:
        return [d for d in self._layout.machines.iterdir() if d.is_dir()]
