"""Starting a child of a fork: it goes on where its parent stood at the moment of the fork, and is somebody of its own
before its network card has a link. There is no other way for it to begin: what fails here leaves it off."""

import logging
import os
from pathlib import Path

from paddock.base import clock
from paddock.base.errors import PaddockError, Refused
from paddock.hypervisor.qemu import cmdline, disks, files, memory
from paddock.hypervisor.qemu.fork import guest
from paddock.hypervisor.qemu.fork import point as points
from paddock.hypervisor.qemu.fork.point import Point
from paddock.hypervisor.qemu.layout import Layout, MachineDir
from paddock.hypervisor.qemu.live import Live
from paddock.hypervisor.qemu.memory import Unusable
from paddock.machine.spec import Machine, UserNetwork
from paddock.machine.state import Accelerator

GUEST_ADDRESS = 15  # the last byte of the address that a guest has from QEMU
LOOK_EVERY = 0.005  # seconds

log = logging.getLogger(__name__)


def find(layout: Layout, machine: Machine, directory: MachineDir, qemu: str, accelerator: Accelerator) -> Point:
    """What a new machine begins from. Raises Refused when it can't."""
    assert machine.fork
    found = points.read(layout, machine.fork)
    if found is None:
        raise Refused(
            "the memory that it was to begin from is not there any more", hint="delete it, and fork the server again"
        )
    if found.accelerator != accelerator or found.qemu != qemu:
        raise Refused(
            f"its memory was written under {found.accelerator} by QEMU {found.qemu}, "
            f"and this is {accelerator} with QEMU {qemu}",
            hint="delete it, and fork the server again",
        )
    if different := [name for name in _ALIKE if getattr(machine, name) != getattr(found.machine, name)]:
        raise Refused(f"it is to have another {different[0]} than the server that it is a fork of")
    if machine.volumes or machine.iso or machine.rescue:
        raise Refused("a fork begins without volumes, CD and rescue system", hint="attach them when it runs")
    if machine.system_disk.size < found.disk:
        raise Refused(f"its disk is smaller than the {found.disk} bytes of the server that it is a fork of")
    if files.size_of(directory.seed) > found.seed:
        raise Refused("what it is told by its seed is larger than what the server was told that it is a fork of")
    return found


_ALIKE = (
    "cpus", "memory_mib", "machine_type", "cpu_model", "layout", "max_cpus", "max_memory_mib", "image", "firmware",
    "kernel_args", "nested", "dedicated_cpus", "huge_pages",
)  # fmt: skip


def note(directory: MachineDir) -> Path:
    """There while a machine begins, and is not somebody of its own yet."""
    return directory.root / "beginning"


def stand_on(layout: Layout, found: Point, directory: MachineDir, size: int) -> None:
    """Give the child a disk of its own over the point's. Raises DiskFull, Conflict while it runs."""
    disks.stand_on_warm(layout, directory, points.name_of(found.point), size)


def reaching(words: list[str], network: UserNetwork, depth: int) -> list[str]:
    """The command line of a QEMU whose memory is `depth` forks away from a boot.

    QEMU's network remembers, in that memory, which address it gave to which card: the parents' have the first ones. So
    that a child gets the same address as they had, the addresses begin so many earlier.
    """
    if not depth:
        return words
    first = f"dhcpstart=10.0.2.{GUEST_ADDRESS - depth}"
    rule = cmdline.forwarded(network).replace("-:22", f"-10.0.2.{GUEST_ADDRESS}:22")
    at = next(n for n, word in enumerate(words) if words[n - 1] == "-netdev" and word.startswith("user,id=net0,"))
    return [*words[:at], f"user,id=net0,{first},hostfwd={rule}", *words[at + 1 :]]


def restore(live: Live, layout: Layout, found: Point) -> None:
    """Its guest is where the parent's stood, with its CPUs stopped yet, and its network card without a link. Raises
    Unusable."""
    path = points.directory(layout, found.point).root / points.MEMORY
    if files.size_of(path) != found.memory:
        raise Unusable("the file of its memory has another size than was written")
    memory.load(live, lambda: _give(live, path), LOOK_EVERY)
    live.execute("set_link", {"name": "net0", "up": False})


def _give(live: Live, path: Path) -> None:
    fd = files.open_regular(path)
    try:
        live.give(memory.FD, fd)
        live.execute("migrate-incoming", {"uri": memory.URI})
    finally:
        os.close(fd)


def wake(live: Live, machine: Machine, found: Point, user: str) -> None:
    """Let it go on, have it become somebody of its own, and only then let it be reached. Raises Refused."""
    begun = clock.monotonic()
    live.execute("cont")
    live.refresh()
    try:
        guest.tell(live.agent, found.point, guest.identity(machine, found.machine, user))
    except PaddockError as e:
        raise Refused(f"it could not be given an identity of its own: {e.message}", hint=e.hint) from e
    live.execute("set_link", {"name": "net0", "up": True})
    log.info("machine %s took its identity in %.0f ms", machine.uuid, (clock.monotonic() - begun) * 1000)
