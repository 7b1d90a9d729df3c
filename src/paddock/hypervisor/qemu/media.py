"""Volumes and CDs of a running QEMU: plugged, pulled and changed by QMP.

Whatever is asked, QEMU is looked at first and not a memory of ours, so that each of these may be done again after a
crash between any two commands.
"""

from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

from paddock.base import clock
from paddock.base.errors import Refused, Unavailable
from paddock.hypervisor.qemu import start
from paddock.hypervisor.qemu.devices import (
    CD,
    ISO_NODE,
    VOLUME_DEVICE,
    VOLUME_NODE,
    cd_place,
    device_id,
    node_name,
    volume_device,
    volume_node,
)
from paddock.hypervisor.qemu.layout import image_file
from paddock.hypervisor.qemu.live import Live
from paddock.machine.image import Role
from paddock.machine.spec import Attached, Machine

UNPLUG_WAIT = 5.0  # seconds that QEMU has to let go of a disk: it finishes what is being written
_RETRY = 0.01
NEVER = -1  # as a place in the order of boot


def has_volume(live: Live, volume: UUID) -> bool:
    """Whether this QEMU has it open."""
    return node_name(volume) in live.block_nodes()


def resize_volume(live: Live, volume: UUID, size: int) -> None:
    """Grow it while the guest uses it, which is told. `size` in bytes."""
    live.execute("block_resize", {"node-name": node_name(volume), "size": size})


def bring_volumes(live: Live, wanted: Iterable[Attached]) -> None:
    """Pull what the machine shall not have, plug what it shall. Raises Conflict when another machine has it,
    Unavailable when QEMU does not let go."""
    by_device = {device_id(a.volume): a for a in wanted}
    for device in _plugged(live) - by_device.keys():
        live.execute("device_del", {"id": device})
    _until(lambda: _disks(live) <= _plugged(live), "QEMU does not let go of a volume that was unplugged")
    plugged = _plugged(live)
    used = {node_name(by_device[device].volume) for device in plugged}
    for node in live.block_nodes() - used:
        if node.startswith(VOLUME_NODE):  # one without its disk too: it may have grown since
            _drop_node(live, node)
    for device, attached in by_device.items():
        if device not in plugged:
            _plug(live, attached)


def bring_iso(live: Live, machine: Machine) -> tuple[str, ...]:
    """Put the machine's ISO into its CD drive, or take out what is in it. Returns what has to wait for a start."""
    drive = next((d for d in live.execute("query-block") if d.get("qdev") == CD), None)
    wanted = image_file(machine.iso, Role.ISO) if machine.iso else ""
    if drive is None:
        return ("the ISO needs a new start: this machine was started without a CD drive",) if wanted else ()
    _bring_medium(live, drive, wanted)
    _boot_cd(live, cd_place(machine.iso_first) if wanted else NEVER)
    if ISO_NODE in live.block_nodes() and not _inserted(live, ISO_NODE):
        _drop_node(live, ISO_NODE)
    return ()


def iso_of(live: Live) -> str | None:
    """The image whose ISO is in its drive."""
    drive: dict[str, Any] = next((d for d in live.execute("query-block") if d.get("qdev") == CD), {})
    file = PurePosixPath(drive.get("inserted", {}).get("file", ""))
    return file.parent.name if file.name == Role.ISO else None


def places(live: Live) -> dict[str, int]:
    """Where on the SCSI bus its volumes are, by device."""
    return {
        device: int(live.execute("qom-get", {"path": f"/machine/peripheral/{device}", "property": "scsi-id"}))
        for device in _plugged(live)
    }


def _bring_medium(live: Live, drive: dict[str, Any], file: str) -> None:
    """Whether or not the guest has locked its drive: it sees a medium that was changed by hand."""
    here = drive.get("inserted", {}).get("file", "")
    if file and here != file:
        medium = {"id": CD, "filename": file, "format": "raw", "read-only-mode": "read-only", "force": True}
        live.execute("blockdev-change-medium", medium)
    if here and not file:
        live.execute("eject", {"id": CD, "force": True})
    if not file and (here or drive["tray_open"]):
        live.execute("blockdev-close-tray", {"id": CD})


def _boot_cd(live: Live, index: int) -> None:
    """The BIOS looks at this at each reset. A kernel that QEMU loads itself has that place already."""
    if "-kernel" in live.process.words():
        return
    path = f"/machine/peripheral/{CD}"
    if live.execute("qom-get", {"path": path, "property": "bootindex"}) != index:
        live.execute("qom-set", {"path": path, "property": "bootindex", "value": index})


def _plug(live: Live, attached: Attached) -> None:
    live.execute("blockdev-add", volume_node(attached.volume))
    try:
        live.execute("device_add", volume_device(attached))
    except Refused as e:
        _drop_node(live, node_name(attached.volume))
        raise start.volume_in_use(str(attached.volume)) if start.LOCKED in e.message else e from e


def _drop_node(live: Live, node: str) -> None:
    """A disk's node is free only when QEMU has finished with the disk."""
    deadline = clock.monotonic() + UNPLUG_WAIT
    while True:
        try:
            live.execute("blockdev-del", {"node-name": node})
            return
        except Refused as e:
            if "in use" not in e.message:
                raise
            if clock.monotonic() > deadline:
                raise Unavailable(f"QEMU does not let go of {node}: {e.message}", hint="it may soon") from e
        clock.sleep(_RETRY)


def _until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = clock.monotonic() + UNPLUG_WAIT
    while not condition():
        if clock.monotonic() > deadline:
            raise Unavailable(f"{otherwise} within {UNPLUG_WAIT:g} s", hint="it may be writing to slow storage")
        clock.sleep(_RETRY)


def _plugged(live: Live) -> set[str]:
    """The volumes' devices that are there and are not about to go."""
    found = live.execute("qom-list", {"path": "/machine/peripheral"})
    return {d["name"] for d in found if d["name"].startswith(VOLUME_DEVICE)}


def _disks(live: Live) -> set[str]:
    """The volumes' devices whose disk QEMU still has."""
    return {d["qdev"] for d in live.execute("query-block") if d.get("qdev", "").startswith(VOLUME_DEVICE)}


def _inserted(live: Live, node: str) -> bool:
    return any(d.get("inserted", {}).get("node-name") == node for d in live.execute("query-block"))
