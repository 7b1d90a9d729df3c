"""A hypervisor in memory: no guests, the same answers. The whole cloud runs on it, for development and for tests.

Given a directory, its machines outlive the process like QEMU's do. It does wrong whatever it is told to (`inject`).
It keeps no epochs: `fence.Fenced` does that for every driver.
"""

from pathlib import Path

from paddock.hypervisor.fake_disks import FakeDisks
from paddock.hypervisor.fake_guest import FakeGuest, FakeStreams
from paddock.hypervisor.fake_host import FakeHost
from paddock.hypervisor.fake_machines import FakeMachines
from paddock.hypervisor.fake_volumes import FakeVolumes
from paddock.hypervisor.fake_warm import FakeWarm
from paddock.machine.spec import GIB
from paddock.machine.warm import WARM_BUDGET, Policy


class FakeHypervisor(FakeHost):
    """A host that pretends. `memory_mib` in MiB, `disk` in bytes, `delay` and `ready_after` in seconds.
    `warm` says when it makes warm images unasked, which take up to `warm_budget` bytes."""

    def __init__(
        self,
        state_dir: Path | None = None,
        cpus: int = 64,
        memory_mib: int = 256 * 1024,
        disk: int = 16 * 1024 * GIB,
        delay: float = 0.0,
        ready_after: float = 0.0,
        warm: Policy = "second-use",
        warm_budget: int = WARM_BUDGET,
    ) -> None:
        super().__init__(state_dir, cpus, memory_mib, disk, delay, ready_after)
        self.warm = FakeWarm(self, warm, warm_budget)
        self.machines = FakeMachines(self, self.warm)
        self.disks = FakeDisks(self)
        self.volumes = FakeVolumes(self)
        self.guest = FakeGuest(self)
        self.streams = FakeStreams(self)
