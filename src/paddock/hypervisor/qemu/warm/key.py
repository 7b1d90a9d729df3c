"""What a warm image depends on: change any of it, and it is another warm image."""

import functools
import hashlib
import json
from pathlib import Path

from paddock.hypervisor.qemu.cmdline import Binary
from paddock.machine.image import ImageManifest
from paddock.machine.spec import Frozen, Machine
from paddock.machine.state import Accelerator

VERSION = 1  # of what is done in the guest: another number makes all anew
_CPU_FACTS = ("vendor_id", "model name", "stepping", "microcode", "flags")


class Key(Frozen):
    """All of it. The guest's memory knows each of these."""

    version: int = VERSION
    scope: str
    image: str
    cpus: int
    max_cpus: int
    memory_mib: int
    max_memory_mib: int
    layout: int
    machine_type: str
    cpu: str  # the model, and under KVM the host's own processor
    accelerator: Accelerator
    qemu: str  # this very program
    kernel: str  # its arguments, where QEMU loads it

    @property
    def id(self) -> str:
        """Its hash, which the warm image is called by."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def key_of(machine: Machine, manifest: ImageManifest, binary: Binary, accelerator: Accelerator) -> Key:
    """Of the warm image that this machine could start from."""
    model = f"{machine.cpu_model}{' nested' if machine.nested else ''}"
    return Key(
        scope=machine.warm,
        image=machine.image,
        cpus=machine.cpus,
        max_cpus=0 if machine.dedicated_cpus else max(machine.cpus, machine.max_cpus),
        memory_mib=machine.memory_mib,
        max_memory_mib=max(machine.memory_mib, machine.max_memory_mib),
        layout=machine.layout,
        machine_type=machine.machine_type,
        cpu=f"{model} {_host_cpu()}" if accelerator is Accelerator.KVM else model,
        accelerator=accelerator,
        qemu=f"{binary.version} {binary.build}",
        kernel=f"{manifest.cmdline} {machine.kernel_args}" if manifest.direct_boot else "",
    )


def why_not(machine: Machine, manifest: ImageManifest, paused: bool = False) -> str:
    """Why a machine like this boots; empty: it could start from a warm image."""
    reasons = {
        "it was not asked for": not machine.warm,
        "its guest's CPUs were to stand still": paused,
        "it boots its rescue system": machine.rescue is not None,
        "it boots from a CD": machine.iso is not None and machine.iso_first,
        "it boots by UEFI": machine.firmware == "uefi",
        "its memory is in huge pages": machine.huge_pages,
        f"image {manifest.name} has no guest agent": not manifest.guest_agent,
        f"image {manifest.name} has no cloud-init": not (manifest.cloud_init or manifest.direct_boot),
        "its user data says what host keys it has": _names_host_keys(machine.seed.user_data),
    }
    return next((why for why, holds in reasons.items() if holds), "")


def _names_host_keys(user_data: str) -> bool:
    """Then cloud-init must be done before SSH answers."""
    return any(word in user_data for word in ("ssh_keys:", "ssh_deletekeys:", "ssh_genkeytypes:"))


@functools.cache
def _host_cpu() -> str:
    """What guests see of the host's processor, and what may make a difference to them."""
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    facts = [line for line in first.splitlines() if line.partition("\t")[0].rstrip(": ") in _CPU_FACTS]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()
