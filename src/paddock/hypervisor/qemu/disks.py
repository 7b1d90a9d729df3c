"""System disks of a node: a qcow2 overlay per machine, over a read-only image that all share."""

import contextlib
import errno
import os
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from paddock.base import run
from paddock.base.errors import CommandFailed, Conflict, DiskFull, Invalid, PaddockError, Refused
from paddock.hypervisor.qemu import files, identity
from paddock.hypervisor.qemu.layout import Layout, MachineDir, image_file, warm_file
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import GIB, Disk

SECTOR = 512
WARM_DISK = "system.qcow2"  # a warm image's
_DATA_FILE = 4  # qcow2's incompatible feature of that bit
_MAKING = threading.Lock()  # of what is copied for all


def ensure(layout: Layout, machine: UUID, disk: Disk, manifest: ImageManifest) -> None:
    """Make the system disk, or grow it; one of another generation takes the place of what is there.

    Raises Invalid for a bad size, DiskFull, Conflict while the machine runs and the disk would have to change.
    """
    _check_size(disk, manifest)
    directory = layout.machine(machine)
    identity.make_machine_directory(directory.root)
    if not directory.system_disk.exists() or generation(directory) != disk.generation:
        _explain_full(lambda: _make(layout, directory, disk), directory.root, disk.size)
    elif (now := virtual_size(directory.system_disk)) < disk.size:
        _explain_full(lambda: _grow(directory, disk.size), directory.root, disk.size)
    elif now > disk.size:
        raise Invalid(f"the disk has {now} bytes and can't shrink to {disk.size}", field="size", hint="disks only grow")


def generation(directory: MachineDir) -> int:
    """Which generation the disk that is there has; 0 where nothing says another."""
    try:
        return int(files.read_tail(_generation_file(directory), 20) or 0)
    except ValueError:
        return -1  # half a file: none that anybody asks for


def image_of(root: Path) -> str:
    """The image that the disk in a machine's directory stands on; empty when there is none."""
    return files.read_tail(root / "image", 64).decode(errors="replace")


def warm_of(root: Path) -> str:
    """The warm image whose disk the disk in a machine's directory stands on; empty: it stands on its image itself."""
    return files.read_tail(root / "warm", 64).decode(errors="replace")


def is_fresh(directory: MachineDir) -> bool:
    """Whether no machine has ever run with this disk."""
    return _fresh_file(directory).exists()


def use(directory: MachineDir) -> None:
    """A machine is about to run with it."""
    _fresh_file(directory).unlink(missing_ok=True)


def disuse(directory: MachineDir) -> None:
    """What ran with it was nobody: it counts as not used, and the next start puts another one in its place."""
    with contextlib.suppress(OSError):
        _fresh_file(directory).touch(0o600)


def renew(layout: Layout, directory: MachineDir, disk: Disk) -> None:
    """An empty one in the place of one that nobody has used. Raises DiskFull, Conflict while the machine runs."""
    disuse(directory)
    _explain_full(lambda: _make(layout, directory, disk), directory.root, disk.size)


def stand_on_warm(layout: Layout, directory: MachineDir, warm: str, size: int) -> None:
    """Put one in its place that stands on the disk of a warm image. The mark comes first: what it names is kept.
    Raises DiskFull, Conflict while the machine runs."""
    empty = layout.overlays / f"{warm}-{size}.qcow2"

    def make() -> None:
        _ensure_empty(empty, warm_file(warm, WARM_DISK), size)
        files.write_whole(directory.root / "warm", warm.encode(), sync=False)
        try:
            _put(directory, empty)
        except BaseException:
            if _new(directory).exists():  # it did not come into its place: the disk is as it was
                (directory.root / "warm").unlink()
            raise

    _explain_full(make, directory.root, size)


def make_over(directory: MachineDir, base: str, size: int) -> None:
    """A first disk over the file of that name. Raises DiskFull."""
    _explain_full(lambda: _make_empty(directory.system_disk, base, size), directory.root, size)


def backing(directory: MachineDir, up: str = "") -> dict[str, Any]:
    """What a machine's disk stands on, as a block node of QEMU: said, and not read out of a disk that a guest had.
    `up` leads from where QEMU stands to the machine's directory."""
    node = qcow2(up + image_file(image_of(directory.root), Role.DISK))
    for id in reversed(stood_on(directory.root)):
        node = qcow2(up + warm_file(id, WARM_DISK), node)
    return node


def stood_on(root: Path) -> list[str]:
    """The warm images and fork points between the disk in a directory and its image, from above. Raises Refused where
    they go round in a circle."""
    found: list[str] = []
    while warm := warm_of(root):
        if warm in found:
            raise Refused(f"the disk in {root} stands on itself", hint="somebody changed it: look who")
        found.append(warm)
        root = root.parent.parent / "warm" / warm
    return found


def qcow2(filename: str, backing: dict[str, Any] | None = None) -> dict[str, Any]:
    """A block node of QEMU."""
    node: dict[str, Any] = {"driver": "qcow2", "file": {"driver": "file", "filename": filename}}
    return {**node, "backing": backing} if backing else node


def closed(node: dict[str, Any]) -> dict[str, Any]:
    """The same, and that nothing is below the last of it: where that is not said, its header is believed."""
    below = node.get("backing")
    return {**node, "backing": closed(below) if below else None}


def _make(layout: Layout, directory: MachineDir, disk: Disk) -> None:
    """Named in place only when whole: what a crash leaves behind is made again.

    The old disk's image is kept until the new disk is there, a first disk's from before it is; the generation is
    written last, so that whatever a crash leaves counts as not made.
    """
    image = disk.image or ""
    empty = layout.overlay(image, disk.size)
    _ensure_empty(empty, image_file(image, Role.DISK), disk.size)
    first = not directory.system_disk.exists()
    if first:
        files.write_whole(directory.root / "image", image.encode())
    _put(directory, empty)
    (directory.root / "warm").unlink(missing_ok=True)
    if not first:
        files.write_whole(directory.root / "image", image.encode())
    if disk.generation or not first:
        files.write_whole(_generation_file(directory), str(disk.generation).encode())
    _fresh_file(directory).touch(0o600)


def _put(directory: MachineDir, empty: Path) -> None:
    """A copy of an empty overlay becomes the system disk."""
    temporary = _new(directory)
    with os.fdopen(files.create(temporary), "wb") as new, empty.open("rb") as source, _stopped(directory):
        shutil.copyfileobj(source, new)
        new.flush()
        os.replace(temporary, directory.system_disk)  # while it is ours, so that nobody can swap it
        identity.give_open(new.fileno(), writable=True)


def _new(directory: MachineDir) -> Path:
    """A system disk that is not in its place yet."""
    return directory.root / ".system.new"


def _fresh_file(directory: MachineDir) -> Path:
    return directory.root / "fresh"


def _generation_file(directory: MachineDir) -> Path:
    return directory.root / "generation"


@contextlib.contextmanager
def _stopped(directory: MachineDir) -> Iterator[None]:
    """Hold the machine's lock, so that it can't be started meanwhile. Raises Conflict while it runs."""
    lock = files.take_lock(directory.lock)
    if lock is None:
        raise Conflict("the disk can't be changed while the machine runs", hint="power it off first")
    try:
        yield
    finally:
        os.close(lock)


def _ensure_empty(path: Path, backing: str, size: int) -> None:
    """Made once, by whoever is first, for all who ask for it in the same moment."""
    if not path.exists():
        with _MAKING:
            if not path.exists():
                _make_empty(path, backing, size)


def _make_empty(path: Path, backing: str, size: int) -> None:
    """An overlay that names its backing file relative to a machine's directory, so that all can copy it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    run.run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, temporary, str(size)])
    os.replace(temporary, path)


@dataclass(frozen=True)
class Header:
    """What we want to know of a qcow2 file's header (QEMU's docs/interop/qcow2.txt)."""

    size: int  # bytes that the guest sees
    backing: bool  # stands on another file
    data_file: bool  # keeps its data in another file

    @property
    def other_files(self) -> bool:
        return self.backing or self.data_file


def header(path: Path) -> Header:
    """The header of a qcow2 file, version 2 or 3. Raises Refused when it is none."""
    fd = files.open_regular(path)
    try:
        head = os.pread(fd, 80, 0)
    finally:
        os.close(fd)
    if len(head) < 80 or head[:4] != b"QFI\xfb":
        raise Refused(f"{path} is not a qcow2 disk", hint="remove the machine and make it again")
    version, backing, _, _, size = struct.unpack_from(">IQIIQ", head, 4)
    (incompatible,) = struct.unpack_from(">Q", head, 72)
    return Header(size, bool(backing), version >= 3 and bool(incompatible & _DATA_FILE))


def virtual_size(path: Path) -> int:
    """Bytes that the guest sees of a qcow2 file. Raises Refused when it is none."""
    return header(path).size


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
