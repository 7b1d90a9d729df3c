"""Images and disks of a node: read-only images shared by all, and a qcow2 overlay per machine."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from paddock.base import run
from paddock.base.errors import CommandFailed, Conflict, DiskFull, Invalid, PaddockError, Refused
from paddock.hypervisor.qemu import files, identity
from paddock.hypervisor.qemu.images import ImageStore
from paddock.hypervisor.qemu.layout import Layout, MachineDir, image_file
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import GIB, Disk
from paddock.machine.state import Progress

SECTOR = 512


class QemuDisks:
    """The Disks protocol."""

    def __init__(self, layout: Layout, images: ImageStore) -> None:
        self._layout = layout
        self._images = images

    def ensure_image(self, manifest: ImageManifest, source: str) -> Progress:
        return self._images.ensure(manifest, Path(source))

    def images(self) -> tuple[str, ...]:
        return self._images.whole()

    def remove_image(self, image: str) -> None:
        users = [d.name for d in self._directories() if (d / "image").is_file() and _image_of(d) == image]
        if users:
            raise Conflict(f"image {image[:12]} is in use by machine {users[0]}", hint="remove its machines first")
        self._images.remove(image)
        for overlay in self._layout.overlays.glob(f"{image}-*.qcow2"):
            overlay.unlink(missing_ok=True)

    def ensure_disk(self, machine: UUID, disk: Disk, epoch: int) -> None:  # noqa: ARG002 - the fence keeps epochs
        """Make the system disk, or grow it. Raises Invalid for a bad size, NotFound without its image, DiskFull."""
        if disk.name != "system" or disk.image is None:
            raise Refused(f"this node can't make disk {disk.name!r}: it makes system disks over an image only")
        manifest = self._images.manifest(disk.image)
        _check_size(disk, manifest)
        directory = self._layout.machine(machine)
        identity.make_machine_directory(directory.root)
        if not directory.system_disk.exists():
            _explain_full(lambda: self._make(directory, disk.image or "", disk.size), directory.root, disk.size)
        elif (now := virtual_size(directory.system_disk)) < disk.size:
            _explain_full(lambda: _grow(directory, disk.size), directory.root, disk.size)
        elif now > disk.size:
            raise Invalid(
                f"the disk has {now} bytes and can't shrink to {disk.size}", field="size", hint="disks only grow"
            )

    def _make(self, directory: MachineDir, image: str, size: int) -> None:
        """Named in place only when whole: what a crash leaves behind is made again."""
        empty = self._layout.overlay(image, size)
        if not empty.exists():
            self._make_empty(empty, image, size)
        temporary = directory.root / ".system.new"
        with os.fdopen(files.create(temporary), "wb") as disk, empty.open("rb") as source:
            shutil.copyfileobj(source, disk)
            disk.flush()
            files.write_whole(directory.root / "image", image.encode())
            os.replace(temporary, directory.system_disk)  # while it is ours, so that nobody can swap it
            identity.give_open(disk.fileno(), writable=True)

    def _make_empty(self, path: Path, image: str, size: int) -> None:
        """An overlay that names its backing file relative to a machine's directory, so that all can copy it."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        backing = image_file(image, Role.DISK)
        run.run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, temporary, str(size)])
        os.replace(temporary, path)

    def _directories(self) -> list[Path]:
        return [d for d in self._layout.machines.iterdir() if d.is_dir()]


def virtual_size(path: Path) -> int:
    """Bytes that the guest sees of a qcow2 file, out of its header. Raises Refused when it is none.

    QCOW2 version 2 and 3: magic `QFI\\xfb`, and the size as a big-endian 64-bit number at byte 24.
    """
    fd = files.open_regular(path)
    try:
        header = os.pread(fd, 32, 0)
    finally:
        os.close(fd)
    if len(header) < 32 or header[:4] != b"QFI\xfb":
        raise Refused(f"{path} is not a qcow2 disk", hint="remove the machine and make it again")
    return int.from_bytes(header[24:32])


def _check_size(disk: Disk, manifest: ImageManifest) -> None:
    if disk.size < manifest.disk_size:
        raise Invalid(
            f"a disk of {disk.size} bytes is smaller than image {manifest.name}",
            field="size",
            hint=f"it takes at least {manifest.disk_size} bytes ({manifest.disk_size / GIB:.1f} GiB)",
        )
    if disk.size % SECTOR:
        raise Invalid(f"{disk.size} bytes are not whole sectors", field="size", hint="use a multiple of 512")


def _grow(directory: MachineDir, size: int) -> None:
    """The disk may be a guest's work: qemu-img sees it as the user that QEMU runs as."""
    if files.is_locked(directory.lock):
        raise Conflict("the disk can't grow while the machine runs", hint="power it off first")
    identity.give(directory.system_disk, writable=True)
    run.run(
        ["qemu-img", "resize", "-q", "-f", "qcow2", "system.qcow2", str(size)],
        cwd=directory.root,
        identity=identity.vm_identity(),
    )


def _image_of(directory: Path) -> str:
    return files.read_tail(directory / "image", 64).decode(errors="replace")


def _explain_full(work: Callable[[], None], path: Path, size: int) -> None:
    """Do what needs room; say it plainly when there is none."""
    try:
        work()
    except OSError as e:
        raise full(path, size) if e.errno in (errno.ENOSPC, errno.EDQUOT) else e from e
    except CommandFailed as e:
        if "No space left" in e.message or "quota" in e.message.lower():
            raise full(path, size) from e
        raise


def full(path: Path, size: int) -> PaddockError:
    """DiskFull for something of `size` bytes at `path`."""
    free = shutil.disk_usage(path).free
    return DiskFull(
        f"no room for {size} bytes on the file system of {path}: {free} bytes are free",
        hint="remove machines or images, or give it more room",
    )
