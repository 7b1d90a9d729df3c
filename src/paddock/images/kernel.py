"""What comes beside a disk: a kernel with its initrd, which QEMU loads itself, or what a server's UEFI remembered.

Source of the kernel's header: Linux, Documentation/arch/x86/boot.rst.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from paddock.base.errors import Invalid, NotFound
from paddock.images.store import file_sha256
from paddock.machine.image import Role
from paddock.machine.spec import MIB

ROLES = (Role.KERNEL, Role.INITRD)
MOST = {Role.KERNEL: 256 * MIB, Role.INITRD: 1024 * MIB, Role.VARIABLES: 16 * MIB}  # bytes; a guest has them in memory
_BOOT_FLAG, _HEADER, _VERSION = 0x1FE, 0x202, 0x206  # in the first sectors of a bzImage
_OLDEST = 0x0206  # of the boot protocol: the first whose kernels say how long their arguments may be (Linux 2.6.22)


@dataclass(frozen=True)
class Boot:
    """Files by role; what their sha256 must be, where that is known; and the kernel's arguments, if there is one."""

    files: Mapping[Role, Path]
    cmdline: str = ""
    sha256: Mapping[Role, str] = field(default_factory=dict)

    def about(self) -> dict[str, object]:
        """What the manifest says of it."""
        return {"direct_boot": True, "cmdline": self.cmdline} if Role.KERNEL in self.files else {}

    def check(self) -> None:
        """Raises NotFound for a file that is missing, Invalid (field `kernel` or `initrd`) for one that is wrong."""
        for role, path in self.files.items():
            check_file(role, path, self.sha256.get(role, ""))


def check_file(role: Role, path: Path, sha256: str = "") -> None:
    """Look at a kernel or an initrd; `sha256` is what it must have, if known. Raises NotFound, Invalid (field: its
    role)."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise NotFound(f"there is no {role.value} at {path}", hint="send it again", field=role.value) from None
    if not 0 < size <= MOST[role]:
        most = MOST[role] // MIB
        raise Invalid(f"the {role.value} has {size} bytes; 1 byte to {most} MiB are taken", field=role.value)
    if sha256 and (found := file_sha256(path)) != sha256:
        raise Invalid(f"the {role.value}'s sha256 is {found}, not {sha256}", hint="send it again", field=role.value)
    if role == Role.KERNEL:
        _check_kernel(path)


def _check_kernel(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(_VERSION + 2).ljust(_VERSION + 2, b"\0")
    (version,) = struct.unpack_from("<H", head, _VERSION)
    if head[_BOOT_FLAG : _BOOT_FLAG + 2] != b"\x55\xaa" or head[_HEADER : _HEADER + 4] != b"HdrS" or version < _OLDEST:
        hint = "a bzImage for x86 is wanted, as /boot/vmlinuz-... of most distributions is; were two files exchanged?"
        raise Invalid("the kernel is no Linux kernel that QEMU can load", hint=hint, field=Role.KERNEL.value)
