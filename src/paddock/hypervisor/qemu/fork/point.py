"""Fork points: a machine's memory, devices and disk of one instant, on their way into other machines.

One lies beside the warm images, in a directory like theirs. Its memory is gone as soon as it is dropped; its disk stays
for as long as machines' disks stand on it, as a warm image's does.
"""

import os
import shutil
from datetime import datetime
from uuid import UUID

from pydantic import ValidationError

from paddock.hypervisor.qemu import files
from paddock.hypervisor.qemu.layout import Layout, WarmDir
from paddock.machine.spec import Frozen, Machine
from paddock.machine.state import Accelerator

MEMORY = "memory"


class Point(Frozen):
    """`fork.json`"""

    point: UUID
    parent: UUID
    machine: Machine  # as the parent's QEMU was started, without secrets
    accelerator: Accelerator
    qemu: str  # its version
    warm: str = ""  # the warm image that the parent's run began from: its devices lie elsewhere then
    depth: int  # how many forks lie between a child's memory and a boot
    disk: int  # bytes that the guest sees
    seed: int  # bytes of the CD that the guest was told by
    memory: int  # bytes of the file
    paused_ms: float  # how long the parent stood still for it
    made: datetime


def name_of(point: UUID) -> str:
    """What the mark of a disk that stands on it says."""
    return f"fork-{point}"


def directory(layout: Layout, point: UUID) -> WarmDir:
    """Where it lies when it is whole."""
    return layout.warm_image(name_of(point))


def scratch(layout: Layout, point: UUID) -> WarmDir:
    """Where it is made. What is there when a node agent starts is removed."""
    return WarmDir(layout.warm / f".{name_of(point)}")


def read(layout: Layout, point: UUID) -> Point | None:
    """None when there is none, or none any more."""
    try:
        found = Point.model_validate_json(directory(layout, point).fork_record.read_bytes())
    except (OSError, ValidationError):
        return None
    return found if found.point == point else None


def keep(layout: Layout, made: Point) -> None:
    """Give it its name: it is whole, and its disk is safe from a power cut."""
    root = scratch(layout, made.point).root
    fd = files.open_regular(scratch(layout, made.point).system_disk)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    files.write_whole(scratch(layout, made.point).fork_record, made.model_dump_json(indent=1).encode())
    os.rename(root, directory(layout, made.point).root)


def drop(layout: Layout, point: UUID) -> None:
    """Nobody begins from it any more. Its disk is left to whoever sweeps."""
    shutil.rmtree(scratch(layout, point).root, ignore_errors=True)
    directory(layout, point).fork_record.unlink(missing_ok=True)
    (directory(layout, point).root / MEMORY).unlink(missing_ok=True)
