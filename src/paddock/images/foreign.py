"""Disks of other hypervisors: VMDK, VHDX, VHD, VDI. Looked at by us before QEMU opens them, as far as they could make
it open something else: a VMDK names its extents and its parent as text, and those may be any file of the host.

Formats: VMware's "Virtual Disk Format 5.0", Microsoft's "Virtual Hard Disk Image Format Specification", for VDI QEMU's
block/vdi.c. What a VHDX or VDI stands on is named by an id only, and QEMU refuses it.
"""

import os
import re
import struct
from typing import BinaryIO

from paddock.base.errors import Invalid

_SECTOR = 512
_DESCRIPTOR_AT, _DESCRIPTOR_MAX = (
    _SECTOR,
    20 * _SECTOR,
)  # where QEMU looks for a VMDK's parent, whatever its header says
_WHOLE = ("monolithicsparse", "streamoptimized")  # kinds of VMDK that are one file
_EXTENT = re.compile(r"^\s*(RW|RDONLY|NOACCESS)\s+(\d+)\s+(\w+)", re.MULTILINE)
_FIXED, _DYNAMIC = 2, 3
_ONE_FILE = "convert it with `qemu-img convert -O qcow2`, which makes one file of all"


def vmdk_size(file: BinaryIO) -> int:
    """The bytes of a VMDK's disk. Raises Invalid for one that is not whole in this one file."""
    head = _at(file, 0, _SECTOR)
    version, _, capacity, _, at, sectors = struct.unpack_from("<IIQQQQ", head, 4)
    if not 1 <= version <= 3 or not capacity:
        raise _invalid(f"the VMDK has version {version} and {capacity} sectors", _ONE_FILE)
    looked_at = [_at(file, _DESCRIPTOR_AT, _DESCRIPTOR_MAX)]
    if at and sectors:
        looked_at.append(_at(file, at * _SECTOR, min(sectors * _SECTOR, 1 << 20)))
    for raw in looked_at:
        _check_descriptor(raw.partition(b"\0")[0].decode("utf-8", "replace"))
    if any(b"parentFileNameHint" in raw for raw in looked_at):
        raise _invalid("the VMDK stands on another one", _ONE_FILE)
    return int(capacity) * _SECTOR


def _check_descriptor(text: str) -> None:
    """Its text may name no other file than the one that it is in."""
    if "Disk DescriptorFile" not in text:
        return
    fields = dict(re.findall(r"^\s*(\w+)\s*=\s*\"?([^\"\n\r]*)", text, re.MULTILINE))
    kind, parent = fields.get("createType", ""), fields.get("parentCID", "ffffffff").strip()
    if kind.lower() not in _WHOLE:
        raise _invalid(f"the VMDK is of the kind '{kind[:40]}', which is more than one file", _ONE_FILE)
    if parent.lower() != "ffffffff":
        raise _invalid("the VMDK stands on another one", _ONE_FILE)
    extents = _EXTENT.findall(text)
    if [kind for _, _, kind in extents] != ["SPARSE"]:
        raise _invalid(f"the VMDK names {len(extents)} extents", _ONE_FILE)


def vhd_size(file: BinaryIO) -> int:
    """The bytes of a VHD's disk. Raises Invalid for one that stands on another, or was cut short."""
    size = os.fstat(file.fileno()).st_size
    footer = _at(file, max(size - _SECTOR, 0), _SECTOR)
    if not footer.startswith(b"conectix") or len(footer) < _SECTOR:
        raise _invalid("the VHD has no footer", "was the upload cut short?")
    (disk_size,) = struct.unpack_from(">Q", footer, 48)
    (kind,) = struct.unpack_from(">I", footer, 60)
    if kind not in (_FIXED, _DYNAMIC):
        raise _invalid("the VHD stands on another one", _ONE_FILE)
    if kind == _FIXED and disk_size + _SECTOR > size:
        raise _invalid(f"the VHD has {size} bytes of the {disk_size} it says", "was the upload cut short?")
    return int(disk_size)


def vdi_size(file: BinaryIO) -> int:
    """The bytes of a VDI's disk. Raises Invalid for one that was cut short."""
    head = _at(file, 0, _SECTOR).ljust(_SECTOR, b"\0")
    (data_at,) = struct.unpack_from("<I", head, 0x158)
    disk_size, block, _, _, allocated = struct.unpack_from("<QIIII", head, 0x170)
    size, said = os.fstat(file.fileno()).st_size, data_at + block * allocated
    if said > size:
        raise _invalid(f"the VDI has {size} bytes of the {said} it says", "was the upload cut short?")
    return int(disk_size)


def _at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def _invalid(message: str, hint: str) -> Invalid:
    return Invalid(message, hint=hint, field="content")
