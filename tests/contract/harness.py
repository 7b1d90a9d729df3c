"""A hypervisor under test, whichever it is, and how its host process is killed and started again."""

import importlib
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import anyio

from paddock.base import clock
from paddock.hypervisor.base import Hypervisor
from paddock.hypervisor.fake import FakeHypervisor
from paddock.hypervisor.fence import Fenced
from paddock.hypervisor.remote import RemoteHypervisor
from paddock.machine.image import ImageManifest
from paddock.machine.spec import Power
from paddock.machine.state import Progress, Snapshot
from tests.agent.process import AgentProcess
from tests.contract.specs import make_image

T = TypeVar("T")


class Harness:
    """One kind of hypervisor, in this process or behind a real agent."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.real = kind.endswith("qemu")
        self.fenced = kind != "fake"
        self.root = Path(tempfile.mkdtemp(prefix="pk-", dir="/tmp"))
        self.root.chmod(0o755)
        driver, warm = ("qemu", "never") if self.real else ("fake", "second-use")
        self.agent = AgentProcess(driver, warm=warm) if kind.startswith("agent") else None
        if self.agent:
            self.agent.start()
        self.hypervisor = self._open()
        self.source = self.root / "source"
        self.image = make_image(self.source, qcow2=self.real)
        assert self.copy(self.image, self.source).done

    def _open(self) -> Hypervisor:
        if self.agent:
            return RemoteHypervisor(self.agent.url)
        driver = self._driver()
        return Fenced(driver, self.root / "fence") if self.fenced else driver

    def _driver(self) -> Hypervisor:
        if not self.real:
            return FakeHypervisor(self.root / "fake")
        module = importlib.import_module("paddock.hypervisor.qemu.driver")
        made: Hypervisor = module.QemuHypervisor(self.root / "qemu", "tcg", warm="never")
        return made

    def restart(self) -> None:
        """The process that serves the hypervisor is killed, and another one starts."""
        self.hypervisor.close()
        if self.agent:
            self.agent.stop(signal.SIGKILL)
            self.agent.start()
        self.hypervisor = self._open()

    def copy(self, manifest: ImageManifest, source: Path) -> Progress:
        """Ask for an image until it is here or failed."""
        return until(
            lambda: self.hypervisor.disks.ensure_image(manifest, str(source)), lambda p: p.done or bool(p.error)
        )

    def snapshot(self, machine: UUID, snapshot: UUID, target: Path, epoch: int = 1) -> Snapshot:
        """Ask for a snapshot until it is done or failed."""
        disks = self.hypervisor.disks
        return until(lambda: disks.snapshot(machine, snapshot, str(target), epoch), lambda s: s.done or bool(s.error))

    def reboot_from_inside(self, machine: UUID) -> None:
        """The guest of a machine in the rescue system reboots: that of QEMU does when something is typed."""
        if self.real:
            anyio.run(self._type, machine)
        else:
            self.hypervisor.machines.power(machine, Power.REBOOT, 1)

    async def _type(self, machine: UUID) -> None:
        async with await self.hypervisor.streams.console(machine) as console:
            await console.send(b"r")

    def close(self) -> None:
        try:
            for state in self.hypervisor.machines.changes(0, 0).machines:
                self.hypervisor.machines.remove(state.uuid, 2**40)
            self.hypervisor.close()
        finally:
            if self.agent:
                self.agent.close()
            shutil.rmtree(self.root, ignore_errors=True)


def until(ask: Callable[[], T], good: Callable[[T], bool], seconds: float = 20) -> T:
    """Ask until the answer is good."""
    end = clock.monotonic() + seconds
    while not good(answer := ask()):
        assert clock.monotonic() < end, f"after {seconds} s it still is {answer}"
        clock.sleep(0.02)
    return answer
