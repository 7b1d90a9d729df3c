"""Raw QEMU: the same command line, files and user as Paddock's, with nothing around it but the shortest Python."""

import json
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddock.base import clock, run
from paddock.hypervisor.qemu.binary import find_binary
from paddock.hypervisor.qemu.cmdline import command_line
from paddock.hypervisor.qemu.identity import make_directory, make_machine_directory, vm_identity
from paddock.hypervisor.qemu.layout import MachineDir
from paddock.hypervisor.qemu.process import Process
from paddock.hypervisor.qemu.record import read_run, read_spec
from paddock.machine.image import ImageManifest
from paddock.machine.state import Accelerator

RETRY = 0.001  # seconds


@dataclass(frozen=True)
class Model:
    """A machine of Paddock's to start again and again without it. `root` gets copies of its files."""

    source: MachineDir
    root: Path
    manifest: ImageManifest

    @classmethod
    def of(cls, node: Path, uuid: str, root: Path) -> "Model":
        """The machine of that uuid; it must have been started and be paused, so that its disk is at rest."""
        source = MachineDir(node / "machines" / uuid)
        spec = read_spec(source)
        assert spec
        text = (node / "images" / spec.machine.image / "manifest.json").read_bytes()
        make_directory(root)
        make_directory(root / "machines")
        copy = root / "model"
        shutil.copytree(source.root, copy, ignore=shutil.ignore_patterns("*.sock"))
        (root / "images").symlink_to(node / "images")
        return cls(MachineDir(copy), root, ImageManifest.model_validate_json(text))

    def prepare(self, number: int) -> MachineDir:
        """A directory with fresh files, ready to be started in: not part of what is measured."""
        directory = MachineDir(self.root / "machines" / str(number))
        shutil.rmtree(directory.root, ignore_errors=True)
        make_machine_directory(directory.root)
        identity = vm_identity()
        for path in (self.source.system_disk, self.source.seed):
            target = directory.root / path.name
            shutil.copyfile(path, target)
            if identity:
                os.chown(target, identity.uid, identity.gid)
        directory.serial_log.touch()
        if identity:
            os.chown(directory.serial_log, identity.uid, identity.gid)
        return directory

    def words(self, port: int, *, paused: bool) -> list[str]:
        """What Paddock's own maker says, with another SSH port."""
        spec, run_ = read_spec(self.source), read_run(self.source)
        assert spec
        network = spec.machine.network.model_copy(update={"ssh_port": port})
        machine = spec.machine.model_copy(update={"network": network})
        return command_line(machine, self.manifest, find_binary(), run_.accelerator or Accelerator.TCG, paused)


class Raw:
    """One raw QEMU, from its spawn until `quit`."""

    def __init__(self, words: list[str], directory: MachineDir, pass_fds: tuple[int, ...] = ()) -> None:
        """Start it, and return when QMP answers. `began` and `answered` are wall-clock seconds."""
        self.began = clock.now().timestamp()
        child = run.spawn(
            words, output=directory.qemu_log, cwd=directory.root, identity=vm_identity(), pass_fds=pass_fds
        )
        child.returncode = 0  # reaped by its pidfd
        self.process = Process(child.pid, os.pidfd_open(child.pid))
        self._socket = self._connect(directory)
        self._file = self._socket.makefile("rw", encoding="utf-8")
        self._read()
        self.ask("qmp_capabilities")
        self.ask("query-status")
        self.answered = clock.now().timestamp()

    @property
    def seconds(self) -> float:
        return self.answered - self.began

    def ask(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """A QMP command and its answer."""
        print(json.dumps({"execute": command, "arguments": arguments or {}}), file=self._file, flush=True)
        while "return" not in (answer := self._read()):
            assert "error" not in answer, answer
        return answer["return"]

    def quit(self) -> float:
        """End it; the seconds that took."""
        began = clock.monotonic()
        self.ask("quit")
        assert self.process.gone(10)
        took = clock.monotonic() - began
        self.process.reap()
        self._socket.close()
        return took

    def kill(self) -> None:
        """End it, however."""
        self.process.end()
        self._socket.close()

    def _connect(self, directory: MachineDir) -> socket.socket:
        path = str(directory.root / "qmp.sock")
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(path)
                return sock
            except OSError:
                sock.close()
                assert not self.process.gone(), directory.qemu_log.read_text()
                clock.sleep(RETRY)

    def _read(self) -> Any:
        return json.loads(self._file.readline())
