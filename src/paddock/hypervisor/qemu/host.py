"""Facts of this host: processors, memory, room on disk."""

import os
import platform
import shutil
from pathlib import Path

import paddock
from paddock.base.errors import Refused
from paddock.hypervisor.qemu import process
from paddock.hypervisor.qemu.accel import Finding
from paddock.hypervisor.qemu.binary import find_binary
from paddock.machine.state import HostFacts


def facts(state_dir: Path, finding: Finding) -> HostFacts:
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
        boot_id=process.boot_id(),
    )


def parse_meminfo(text: str) -> dict[str, int]:
    """MiB by name, of /proc/meminfo, which counts in KiB."""
    lines = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) // 1024 for words in lines if len(words) >= 2}


def _hypervisor() -> str:
    try:
        return f"qemu {find_binary().version}"
    except Refused as e:
        return f"no qemu: {e}"
