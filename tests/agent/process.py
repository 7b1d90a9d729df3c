"""A real node agent in a process of its own, that tests start, kill and start again."""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from subprocess import Popen

from paddock.base import clock
from paddock.base.errors import PaddockError
from paddock.base.run import spawn
from paddock.hypervisor.remote import RemoteHypervisor

START_SECONDS = 60.0  # an accelerator probe included


class AgentProcess:
    """`python -m paddock.agent` over a directory of its own. Paths are short: a socket's has 107 bytes. `warm`: when it
    makes warm images unasked; with QEMU, those are guests that run beside the test's."""

    def __init__(self, driver: str = "fake", name: str = "n1", warm: str = "never") -> None:
        self.root = Path(tempfile.mkdtemp(prefix="pk-", dir="/tmp"))
        self.root.chmod(0o755)  # QEMU's own user must pass
        self.socket = self.root / "a.sock"
        self.state_dir = self.root / "state"
        self.log = self.root / "log"
        self.driver, self.name, self.warm = driver, name, warm
        self.process: Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def argv(self) -> list[str]:
        return [
            sys.executable, "-m", "paddock.agent", "--name", self.name, "--socket", str(self.socket),
            "--state-dir", str(self.state_dir), "--driver", self.driver, "--accelerator", "tcg",
            "--warm", self.warm,
        ]  # fmt: skip

    def start(self) -> None:
        """Start it, and return when it answers."""
        self.process = spawn(self.argv(), output=self.log)
        client = RemoteHypervisor(self.url)
        end = clock.monotonic() + START_SECONDS
        try:
            while True:
                try:
                    client.machines.facts()
                    return
                except PaddockError:
                    assert self.process.poll() is None, f"the agent died: {self.log.read_text()}"
                    assert clock.monotonic() < end, f"the agent does not answer: {self.log.read_text()}"
                    clock.sleep(0.02)
        finally:
            client.close()

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Signal it, and return the seconds until it was gone."""
        assert self.process
        start = clock.monotonic()
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        self.process.wait(timeout=20)
        return clock.monotonic() - start

    def close(self) -> None:
        """Remove its machines, end it, and remove its directory."""
        try:
            if self.process:
                self._remove_machines()
                self.stop(signal.SIGKILL)
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    def _remove_machines(self) -> None:
        assert self.process
        if self.driver == "fake":
            return
        if self.process.poll() is not None:
            self.start()
        client = RemoteHypervisor(self.url)
        try:
            for state in client.machines.changes(0, 0).machines:
                client.machines.remove(state.uuid, 2**40)
        finally:
            client.close()
