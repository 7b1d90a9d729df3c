"""The two ways in which a warm image keeps its guest's memory, and whoever begins from it gets it.

Shared: the memory is a file. QEMU leaves it alone when it writes the rest (`x-ignore-shared`), and whoever begins has
that file as its memory, its own from the first write on. Copied: QEMU writes all into one file, each page at a place of
its own (`mapped-ram`, 9.0 and later), and whoever begins reads it. That takes longer and shares nothing, and is for
QEMUs that have not the first, which is experimental by name.
"""

import os
from dataclasses import dataclass
from typing import Literal

from paddock.base.errors import Refused
from paddock.hypervisor.qemu import disks, files, memory
from paddock.hypervisor.qemu.cmdline import Binary, Warm
from paddock.hypervisor.qemu.layout import WarmDir, warm_file
from paddock.hypervisor.qemu.live import Live

IGNORE_SHARED = "x-ignore-shared"
MAPPED_RAM = "mapped-ram"
LOOK_EVERY = 0.002  # seconds

WayName = Literal["shared", "copied"]

_SET = 1  # QEMU's number for the set that our descriptor is in
_FAST = 2**40  # bytes per second


@dataclass(frozen=True)
class Way:
    """One of them. `state`: the file that QEMU writes and reads."""

    name: WayName
    capability: str
    state: str
    parts: tuple[str, ...]  # the files of a warm image
    shared: bool

    def template(self) -> Warm:
        """The memory of the guest that a warm image is made of."""
        return Warm(file="ram" if self.shared else "", shared=self.shared, alone=True)

    def heir(self, id: str) -> Warm:
        """The memory of a machine that begins from a warm image."""
        return Warm(file=warm_file(id, "ram") if self.shared else "", card=False)

    def begin_writing(self, live: Live, directory: WarmDir) -> None:
        """Have QEMU write what its guest, which stands still, knows. Raises Refused, Unavailable."""
        _switch(live, self.capability, True)
        live.execute("migrate-set-parameters", {"max-bandwidth": _FAST})
        fd = files.create(directory.root / self.state)
        try:
            live.execute("migrate", {"uri": self._hand_over(live, fd)})
        finally:
            os.close(fd)

    def read(self, live: Live, directory: WarmDir) -> None:
        """A guest goes on where the warm image's stood still, with its CPUs stopped yet. Raises memory.Unusable."""
        _switch(live, self.capability, True)
        memory.load(live, lambda: self._begin_reading(live, directory), LOOK_EVERY)
        _switch(live, self.capability, False)  # when it is hibernated, all of its memory is written, one after another
        if not self.shared:
            live.execute("remove-fd", {"fdset-id": _SET})

    def _begin_reading(self, live: Live, directory: WarmDir) -> None:
        try:
            fd = files.open_regular(directory.root / self.state)
        except OSError as e:
            raise memory.Unusable(f"its memory can't be read: {e.strerror}") from e
        try:
            live.execute("migrate-incoming", {"uri": self._hand_over(live, fd)})
        finally:
            os.close(fd)

    def _hand_over(self, live: Live, fd: int) -> str:
        """QEMU finds places in a file only where that has a name, which descriptors in a set have."""
        if self.shared:
            live.give(memory.FD, fd)
            return memory.URI
        live.give_set(_SET, fd)
        return f"file:/dev/fdset/{_SET}"


SHARED = Way("shared", IGNORE_SHARED, "devices", ("ram", "devices", disks.WARM_DISK), shared=True)
COPIED = Way("copied", MAPPED_RAM, "ram", ("ram", disks.WARM_DISK), shared=False)
WAYS: dict[WayName, Way] = {way.name: way for way in (SHARED, COPIED)}


def way_of(binary: Binary) -> Way:
    """The better one of those that this QEMU has. Raises Refused when it has none."""
    for way in WAYS.values():
        if way.capability in binary.migration:
            return way
    raise Refused(
        f"QEMU {binary.version} can't keep a guest's memory apart: it has neither {IGNORE_SHARED} nor {MAPPED_RAM}",
        hint="servers boot all the same",
    )


def _switch(live: Live, capability: str, state: bool) -> None:
    live.execute("migrate-set-capabilities", {"capabilities": [{"capability": capability, "state": state}]})
