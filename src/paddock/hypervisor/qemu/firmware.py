"""UEFI: the firmware of this host (OVMF), and each machine's own variables, in which it remembers what to boot.

The code is the host's and is only read. The variables are a qcow2 file beside the system disk; they live and end with
that disk: a rebuilt machine begins with those of its image, or with none. Secure boot is off: that needs a firmware
with System Management Mode and enrolled keys, which this one has not.
"""

import os
from pathlib import Path

from paddock.base import ovmf, run
from paddock.base.errors import Refused
from paddock.hypervisor.qemu import files, identity
from paddock.hypervisor.qemu.layout import MachineDir

VARIABLES_NAME = "efivars.qcow2"


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
