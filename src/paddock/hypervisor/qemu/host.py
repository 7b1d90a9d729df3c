"""Facts of this host: processors, memory, room on disk."""

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import paddock
from paddock.base.errors import Refused
from paddock.hypervisor.qemu import process
from paddock.hypervisor.qemu.accel import Finding
from paddock.hypervisor.qemu.binary import find_binary
from paddock.machine.spec import Machine
from paddock.machine.state import Accelerator, HostFacts, NodeUse


def facts(state_dir: Path, finding: Finding, use: NodeUse) -> HostFacts:
    """This host, as of now."""
    memory = parse_meminfo(Path("/proc/meminfo").read_text())
    disk = shutil.disk_usage(state_dir)
    return HostFacts(
        version=paddock.__version__,
        hostname=platform.node(),
        cpus=len(os.sched_getaffinity(0)),
        memory_mib=memory["MemTotal"],
        memory_free_mib=memory["MemAvailable"],
        disk=disk.total,
        disk_free=disk.free,
        accelerator=finding.accelerator,
        accelerator_reason="; ".join(filter(None, (finding.reason, finding.hint))),
        hypervisor=_hypervisor(),
        load=os.getloadavg()[0],
        use=use,
        boot_id=process.boot_id(),
        no_nested=no_nested(finding.accelerator),
        huge_pages_mib=huge_pages().total,
        dedicated_cpus=max(0, len(os.sched_getaffinity(0)) - 1),
    )


def no_nested(accelerator: Accelerator, modules: Path = Path("/sys/module")) -> str:
    """Why guests can't run virtual machines themselves; empty: they can."""
    if accelerator is not Accelerator.KVM:
        return f"guests run under {accelerator} here, not under KVM"
    for module in ("kvm_intel", "kvm_amd"):
        path = modules / module / "parameters/nested"
        if path.exists():
            return "" if path.read_text().strip() in ("1", "Y") else f"{module} was loaded with nested=0"
    return "this host's KVM does not say that it can nest"


@dataclass(frozen=True)
class HugePages:
    """Of the host's usual size, in MiB."""

    size: int
    total: int
    free: int


def huge_pages(text: str | None = None) -> HugePages:
    """What /proc/meminfo says of them."""
    lines = (line.split() for line in (text or Path("/proc/meminfo").read_text()).splitlines())
    said = {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) >= 2}
    size = said.get("Hugepagesize", 0) // 1024
    return HugePages(size, said.get("HugePages_Total", 0) * size, said.get("HugePages_Free", 0) * size)


def refuse_unable(machine: Machine, accelerator: Accelerator, pages: HugePages | None = None) -> None:
    """Raises Refused for what a machine shall have and this host has not."""
    if machine.nested and (why := no_nested(accelerator)):
        raise Refused(f"this node can't run virtual machines in virtual machines: {why}", hint="use another node")
    if not machine.huge_pages:
        return
    pages = pages or huge_pages()
    if pages.free < machine.memory_mib:
        raise Refused(
            f"{machine.memory_mib} MiB in huge pages are asked for, {pages.free} of the node's {pages.total} are free",
            hint="set vm.nr_hugepages on the node",
        )
    if machine.memory_mib % pages.size:
        raise Refused(f"{machine.memory_mib} MiB are not whole huge pages of {pages.size} MiB")


def parse_meminfo(text: str) -> dict[str, int]:
    """MiB by name, of /proc/meminfo, which counts in KiB."""
    lines = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) // 1024 for words in lines if len(words) >= 2}


def _hypervisor() -> str:
    try:
        return f"qemu {find_binary().version}"
    except Refused as e:
        return f"no qemu: {e}"
