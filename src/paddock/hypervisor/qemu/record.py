"""What a machine's directory says of it: its last accepted definition, and the process that runs or ran it."""

import hashlib
from datetime import datetime

from pydantic import ValidationError

from paddock.hypervisor.qemu import files
from paddock.hypervisor.qemu.layout import MachineDir
from paddock.machine.spec import Frozen, Machine, Rescue, Seed, UserNetwork
from paddock.machine.state import Accelerator, Phase

SPEC_VERSION = 1


class Spec(Frozen):
    """`spec.json`"""

    spec_version: int = SPEC_VERSION
    epoch: int
    machine: Machine


class Given(Frozen):
    """What of its definition a QEMU was started with, as far as QEMU itself can't be asked for it later."""

    name: str
    image: str
    rescue: str = ""  # the image of the rescue system, when that was booted
    machine_type: str
    layout: int
    max_cpus: int = 0
    max_memory_mib: int = 0
    network: UserNetwork
    seed: str  # a hash
    kernel_args: str = ""
    nested: bool = False
    dedicated_cpus: bool = False
    huge_pages: bool = False
    firmware: str = "bios"

    @classmethod
    def of(cls, machine: Machine) -> "Given":
        """As a start of this machine would be now."""
        return cls(
            name=machine.name,
            image=machine.image,
            rescue=machine.rescue.image if machine.rescue else "",
            machine_type=machine.machine_type,
            layout=machine.layout,
            max_cpus=machine.max_cpus,
            max_memory_mib=machine.max_memory_mib,
            network=machine.network,
            seed=hashlib.sha256(machine.seed.model_dump_json().encode()).hexdigest(),
            kernel_args=machine.kernel_args,
            nested=machine.nested,
            dedicated_cpus=machine.dedicated_cpus,
            huge_pages=machine.huge_pages,
            firmware=machine.firmware,
        )


def without_secrets(machine: Machine) -> Machine:
    """The machine as its command line knows it."""
    seed = Seed(instance_id=machine.seed.instance_id, hostname=machine.seed.hostname)
    rescue = Rescue(image=machine.rescue.image) if machine.rescue else None
    return machine.model_copy(update={"seed": seed, "rescue": rescue})


class Run(Frozen):
    """`run.json`. `ending` says why it will end, as soon as somebody asked for that."""

    phase: Phase = Phase.DEFINED
    pid: int | None = None
    boot_id: str = ""
    accelerator: Accelerator | None = None
    since: datetime | None = None
    reason: str = ""
    ending: str = ""
    host_restarted: bool = False
    hibernated: bool = False  # it ends because its memory is written
    cold_start: str = ""  # why it did not go on with its memory
    warm: str = ""  # the warm image that this run, or what was hibernated of it, began from
    pooled: bool = False  # and that was held ready
    unborn: bool = False  # its guest, of a warm image, is nobody yet
    answered: datetime | None = None  # when the guest agent of one that began warm said its first word
    fork: str = ""  # the fork point that this run, or what was hibernated of it, began from
    depth: int = 0  # how many forks lie between its memory and a boot
    not_warm: str = ""  # why its first start was no warm one, where that was asked for
    cpus: tuple[int, ...] = ()  # of the host, that are its alone
    started: Machine | None = None  # what QEMU was started with, without secrets
    rebooting: bool = False  # it ended so that it can be started anew
    given: Given | None = None
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


def images_of(directory: MachineDir) -> set[str]:
    """The images that a machine needs besides its system disk's: in its CD drive, and those it boots from."""
    spec, run = read_spec(directory), read_run(directory)
    machine = spec.machine if spec else None
    named = [machine.iso, machine.rescue.image if machine.rescue else None] if machine else []
    booted = [run.given.rescue] if run.given and run.phase in (Phase.RUNNING, Phase.PAUSED) else []
    return {image for image in (*named, *booted) if image}
