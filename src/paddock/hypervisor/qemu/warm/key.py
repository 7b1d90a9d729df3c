"""What a warm image depends on: change any of it, and it is another warm image."""

import functools
import hashlib
import json
from pathlib import Path

from paddock.hypervisor.qemu.cmdline import Binary
from paddock.hypervisor.qemu.warm.guest import script
from paddock.hypervisor.qemu.warm.ways import WayName, way_of
from paddock.machine.image import ImageManifest
from paddock.machine.spec import Frozen, Machine
from paddock.machine.state import Accelerator

_CPU_FACTS = ("vendor_id", "model name", "stepping", "microcode", "flags")


class Key(Frozen):
    """All of it. The guest's memory knows each of these."""

    script: str  # what is done in its guest
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
    way: WayName  # in which its memory is kept

    @property
    def id(self) -> str:
        """Its hash, which the warm image is called by."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def key_of(machine: Machine, manifest: ImageManifest, binary: Binary, accelerator: Accelerator) -> Key:
    """Of the warm image that this machine could start from. Raises Refused where this QEMU can't have any."""
    model = f"{machine.cpu_model}{' nested' if machine.nested else ''}"
    return Key(
        script=hashlib.sha256(script().encode()).hexdigest(),
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
        way=way_of(binary).name,
    )


@functools.cache
def _host_cpu() -> str:
    """What guests see of the host's processor, and what may make a difference to them."""
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    facts = [line for line in first.splitlines() if line.partition("\t")[0].rstrip(": ") in _CPU_FACTS]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()
