"""Volumes and the CD drive as QEMU's devices and block nodes: pure, the same at a start and when plugged in later."""

import base64
from typing import Any
from uuid import UUID

from paddock.hypervisor.qemu.layout import image_file, volume_file
from paddock.machine.image import Role
from paddock.machine.spec import Attached

CD = "iso0"  # the CD drive's device
ISO_NODE = "iso"  # its medium's block node, when that was there at the start
VOLUME_DEVICE = "volume-"
VOLUME_NODE = "v-"
_CD_ADDRESS = "bus=scsi0.0,scsi-id=2"


def device_id(volume: UUID) -> str:
    """A volume's device in QEMU."""
    return f"{VOLUME_DEVICE}{volume}"


def node_name(volume: UUID) -> str:
    """A volume's block node in QEMU, which allows 31 characters: the whole uuid in base 32."""
    return VOLUME_NODE + base64.b32encode(volume.bytes).decode().rstrip("=").lower()


def volume_node(volume: UUID) -> dict[str, Any]:
    """The block node of a volume, as blockdev-add takes it."""
    return {
        "driver": "raw",
        "node-name": node_name(volume),
        "discard": "unmap",
        "file": {"driver": "file", "filename": volume_file(volume), "discard": "unmap"},
    }


def volume_device(attached: Attached) -> dict[str, str]:
    """The disk that a guest sees, as device_add takes it: udev makes `scsi-0HC_Volume_<serial>` of it."""
    return {
        "driver": "scsi-hd",
        "id": device_id(attached.volume),
        "bus": "scsi0.0",
        "drive": node_name(attached.volume),
        "serial": attached.serial,
        "vendor": "HC",
        "product": "Volume",
    }


def cd_place(iso_first: bool) -> int:
    """When the firmware tries to boot the CD: before the system disk, whose place is 1, or after it."""
    return 0 if iso_first else 2


def cd_drive(iso: str | None, place: int | None) -> list[str]:
    """The words of the drive, empty or with the ISO of that image; `place`: when the firmware tries to boot it, the
    system disk being tried at 1; None: never."""
    if iso is None:
        return ["-device", f"scsi-cd,id={CD},{_CD_ADDRESS}"]
    file = {"driver": "file", "filename": image_file(iso, Role.ISO), "read-only": "on"}
    node = {"driver": "raw", "node-name": ISO_NODE, "read-only": "on", "file": file}
    boots = "" if place is None else f",bootindex={place}"
    return [
        "-blockdev", dotted(node),
        "-device", f"scsi-cd,id={CD},{_CD_ADDRESS},drive={ISO_NODE}{boots}",
    ]  # fmt: skip


def volume_words(attached: Attached) -> list[str]:
    """The words of a volume that is there at the start."""
    device = volume_device(attached)
    options = dotted({key: value for key, value in device.items() if key != "driver"})
    return ["-blockdev", dotted(volume_node(attached.volume)), "-device", f"{device['driver']},{options}"]


def dotted(options: dict[str, Any], prefix: str = "") -> str:
    """QMP's arguments as QEMU's command line takes them."""
    return ",".join(
        dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else f"{prefix}{key}={value}"
        for key, value in options.items()
    )
