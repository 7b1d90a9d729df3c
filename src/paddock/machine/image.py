"""What an image is: a manifest that names its files by their sha256. The manifest's own hash is the image's id."""

import hashlib
import json
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from paddock.machine.spec import Frozen, Sha256


class Role(StrEnum):
    """What a file of an image is for."""

    DISK = "disk"  # qcow2 without backing file: the system disk's read-only base
    KERNEL = "kernel"
    INITRD = "initrd"
    ISO = "iso"  # a CD image
    VARIABLES = "efivars"  # qcow2: what the UEFI of the server that it was made of remembered, the order of boot first


class ImageFile(Frozen):
    """A file of an image, stored beside its manifest under the name of its role."""

    role: Role
    sha256: Sha256
    size: Annotated[int, Field(gt=0, description="bytes of the file")]


class ImageManifest(Frozen):
    """An image. With a kernel and `direct_boot` QEMU loads kernel and initrd itself (kvm-cloud's templates, K9);
    a kernel without `direct_boot` only serves to probe the accelerator."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
    description: str = ""
    os_flavor: str = "unknown"
    os_version: str = ""
    disk_size: Annotated[int, Field(ge=0, description="bytes that the guest sees; 0 without a disk")]
    files: tuple[ImageFile, ...]
    direct_boot: bool = False
    cmdline: str = ""
    firmware: str = "bios"  # or uefi: what its disk boots by
    default_user: str = "root"
    cloud_init: bool = False
    guest_agent: bool = False

    def file(self, role: Role) -> ImageFile | None:
        """The file of that role, if the image has one."""
        return next((f for f in self.files if f.role == role), None)

    @property
    def sha256(self) -> str:
        """The image's id: the hash of its manifest as canonical JSON, files included by their hashes."""
        fields = self.model_dump(mode="json")
        if fields["firmware"] == "bios":  # younger than the first images, whose ids must stay
            del fields["firmware"]
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
