"""A node of QEMU's driver for a test: a state directory, an empty image, and a driver whose process can "die"."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from paddock.base import clock
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.machine.image import ImageManifest
from paddock.machine.spec import Machine, Power
from paddock.machine.warm import Policy
from tests.hypervisor.qemu.machines import bring, free_port, make_image, make_machine


class Node:
    """A state directory and the driver on it, whose process "dies" when `restart` is called."""

    def __init__(self, warm: Policy = "never") -> None:
        self.warm: Policy = warm  # when it makes warm images unasked: guests that run beside the test's
        self.root = Path(tempfile.mkdtemp(prefix="paddock-qemu-"))
        self.root.chmod(0o755)
        self.state = self.root / ("deep-" * 20) / "state"  # far over a unix socket's 107 bytes
        self.state.mkdir(parents=True)
        self.host = QemuHypervisor(self.state, "tcg", self.warm)
        self.image = make_image(self.root / "source")
        assert bring(self.host, self.image, self.root / "source").done

    def restart(self) -> None:
        self.host.close()
        self.host = QemuHypervisor(self.state, "tcg", self.warm)

    def define(self, image: ImageManifest | None = None, **changes: object) -> Machine:
        machine = make_machine(image or self.image, port=free_port()).model_copy(update=changes)
        self.host.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
        self.host.machines.ensure(machine, 1)
        return machine

    def paused(self) -> Machine:
        machine = self.define()
        self.host.machines.power(machine.uuid, Power.ON_PAUSED, 1)
        return machine

    def directory(self, machine: Machine) -> Path:
        return self.state / "machines" / str(machine.uuid)

    def pid(self, machine: Machine) -> int:
        pid = self.host.machines.state(machine.uuid).pid
        assert pid
        return pid

    def close(self) -> None:
        try:
            for name in os.listdir(self.state / "machines"):
                self.host.machines.remove(UUID(name), 99)
            self.host.close()
        finally:
            shutil.rmtree(self.root)


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = clock.monotonic() + seconds
    while not condition():
        assert clock.monotonic() < deadline, "it did not come in time"
        clock.sleep(0.02)


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
