"""UEFI: the firmware of this host (OVMF), and each machine's own variables, in which it remembers what to boot.

The code is the host's and is only read. The variables are a qcow2 file beside the system disk; they live and end with
that disk: a rebuilt machine begins with those of its image, which has some if it was made of a server, or with none.
Secure boot is off: that needs a firmware with System Management Mode and enrolled keys, which this one has not.
"""

import errno
import os
from pathlib import Path

from paddock.base import ovmf, run
from paddock.base.errors import DiskFull, Refused
from paddock.hypervisor.qemu import files, identity
from paddock.hypervisor.qemu.layout import MachineDir
from paddock.machine.spec import MIB

VARIABLES_NAME = "efivars.qcow2"
_MOST = 16 * MIB  # bytes of that file; OVMF's have half a MiB, and a firmware with more of them 4


def missing() -> Refused:
    """What a node without one says."""
    return Refused("this node has no UEFI firmware", hint="install OVMF on it: apt-get install ovmf")


def keep_variables(directory: MachineDir, generation: int, of_image: Path | None) -> None:
    """Make a machine's variables, unless those of this disk are there: copies of its image's, or empty ones. Raises
    Refused where there are none to begin with."""
    if directory.efi_variables.exists() and _generation(directory) == generation:
        return
    uefi = ovmf.find()
    if uefi is None:
        raise missing()
    temporary = directory.root / f".{VARIABLES_NAME}.new"
    temporary.unlink(missing_ok=True)
    source, format = (of_image, "qcow2") if of_image else (uefi.variables, "raw")
    # Allocated as a whole: what is written later changes no structure, so that a copy of it is good at any moment.
    words: list[str | Path] = [
        "convert",
        "-f",
        format,
        "-O",
        "qcow2",
        "-o",
        "preallocation=falloc",
        "-S",
        "0",
        source,
        temporary.name,
    ]
    run.run(["qemu-img", *words], cwd=directory.root, identity=identity.vm_identity())  # root follows no link there
    made = files.open_regular(temporary)
    try:
        os.fsync(made)
    finally:
        os.close(made)
    os.replace(temporary, directory.efi_variables)
    identity.give(directory.efi_variables, writable=True)
    files.write_whole(_generation_file(directory), str(generation).encode())


def copy_variables(directory: MachineDir, target: Path) -> None:
    """Put a copy of a machine's variables at `target`, if it has any, whether or not it runs. Only bytes are copied:
    what its QEMU made of that file, its header too, is not looked at here. Raises Refused, DiskFull."""
    if not directory.efi_variables.exists():
        return
    with os.fdopen(files.open_regular(directory.efi_variables), "rb") as source:
        data = source.read(_MOST + 1)
    if len(data) > _MOST:
        raise Refused(f"{directory.efi_variables} has more than {_MOST} bytes", hint="somebody changed it: look who")
    try:
        files.write_whole(target, data)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no room for {len(data)} bytes in {target.parent}", hint="make room there") from e
        raise Refused(f"the variables of its UEFI can't be put at {target}: {e.strerror}") from e


def forget_variables(directory: MachineDir) -> None:
    """A machine that boots by its BIOS has none."""
    directory.efi_variables.unlink(missing_ok=True)
    _generation_file(directory).unlink(missing_ok=True)


def _generation(directory: MachineDir) -> int:
    """Of which disk the variables are; -1: half made."""
    try:
        return int(files.read_tail(_generation_file(directory), 20) or -1)
    except ValueError:
        return -1


def _generation_file(directory: MachineDir) -> Path:
    return directory.root / "efivars.generation"


def words(code: str) -> list[str]:
    """The words of QEMU for it: code that is only read, and the machine's variables."""
    return [
        "-blockdev", f"driver=file,node-name=uefi-code-file,filename={code},read-only=on",
        "-blockdev", "driver=raw,node-name=uefi-code,file=uefi-code-file,read-only=on",
        "-blockdev", f"driver=file,node-name=uefi-vars-file,filename={VARIABLES_NAME}",
        "-blockdev", "driver=qcow2,node-name=uefi-vars,file=uefi-vars-file",
    ]  # fmt: skip


MACHINE_OPTIONS = ",pflash0=uefi-code,pflash1=uefi-vars"
