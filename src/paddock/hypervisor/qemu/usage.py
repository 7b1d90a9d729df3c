"""How much of the disk is really taken: by a machine, and on the whole node. What is sparse or shared counts as it lies
there; nothing is opened, and links are not followed."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from paddock.base import clock
from paddock.hypervisor.qemu.layout import Layout, MachineDir
from paddock.machine.state import NodeUse, Sizes

KEPT = 3.0  # seconds that a look at the whole node is good for, at least
_SHARE = 50  # times as long as a look took it is good for: a node may have ten thousand machines
_BLOCK = 512  # bytes of what stat counts in


def sizes(directory: MachineDir) -> Sizes:
    """What a machine takes, in bytes."""
    found = {"disk": 0, "logs": 0, "memory": 0, "other": 0}
    for entry, taken in _files(directory.root):
        found[_kind(directory, entry)] += taken
    return Sizes(**found)


def _kind(directory: MachineDir, name: str) -> str:
    if name == directory.system_disk.name:
        return "disk"
    if name == directory.memory.name:
        return "memory"
    logs = (directory.serial_log.name, directory.qemu_log.name)
    return "logs" if name.startswith(logs) else "other"


class NodeMeter:
    """What the node's machines, images and volumes take, looked at again when that is old."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._use, self._good_until = NodeUse(), float("-inf")

    def look(self) -> NodeUse:
        """As of now, or of some seconds ago."""
        with self._lock:
            if (began := clock.monotonic()) > self._good_until:
                self._use, ended = self._measured(), clock.monotonic()
                self._good_until = ended + max(KEPT, _SHARE * (ended - began))
            return self._use

    def _measured(self) -> NodeUse:
        layout = self._layout
        images = [d for d in _directories(layout.images) if len(d.name) == 64]
        return NodeUse(
            machines=_total(layout.machines),
            images=_total(layout.images),
            volumes=_total(layout.volumes),
            image_count=len(images),
        )


def _total(root: Path) -> int:
    return sum(taken for directory in _directories(root) for _, taken in _files(directory))


def _directories(root: Path) -> list[Path]:
    try:
        with os.scandir(root) as entries:
            return [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _files(directory: Path) -> Iterator[tuple[str, int]]:
    """Names and bytes taken. What goes away meanwhile takes nothing."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    yield entry.name, entry.stat(follow_symlinks=False).st_blocks * _BLOCK
    except OSError:
        return
