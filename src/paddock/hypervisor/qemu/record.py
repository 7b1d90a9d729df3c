"""What a machine's directory says of it: its last accepted definition, and the process that runs or ran it."""

from datetime import datetime

from pydantic import ValidationError

from paddock.hypervisor.qemu import files
from paddock.hypervisor.qemu.layout import MachineDir
from paddock.machine.spec import Frozen, Machine
from paddock.machine.state import Accelerator, Phase

SPEC_VERSION = 1


class Spec(Frozen):
    """`spec.json`"""

    spec_version: int = SPEC_VERSION
    epoch: int
    machine: Machine


class Run(Frozen):
    """`run.json`. `ending` says why it will end, as soon as somebody asked for that."""

    phase: Phase = Phase.DEFINED
    pid: int | None = None
    boot_id: str = ""
    accelerator: Accelerator | None = None
    since: datetime | None = None
    reason: str = ""
    ending: str = ""
    serial_from: int = 0  # where this boot's output begins in serial.log
    log_from: int = 0  # and in qemu.log


def read_spec(directory: MachineDir) -> Spec | None:
    """None when there is none, or none that this version understands."""
    try:
        spec = Spec.model_validate_json(directory.spec.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    return spec if spec.spec_version == SPEC_VERSION else None


def write_spec(directory: MachineDir, spec: Spec) -> None:
    files.write_whole(directory.spec, spec.model_dump_json(indent=1).encode())


def read_run(directory: MachineDir) -> Run:
    """What is not readable counts as never run: the lock and QMP tell about a process that is there."""
    try:
        return Run.model_validate_json(directory.run.read_bytes())
    except (FileNotFoundError, ValidationError):
        return Run()


def write_run(directory: MachineDir, run: Run) -> None:
    files.write_whole(directory.run, run.model_dump_json(exclude_defaults=True).encode(), sync=False)
