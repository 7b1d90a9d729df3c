"""A node with the rescue system, and a machine with a small system on its disk that no one has to boot."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from paddock.base import clock, run
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import MIB
from paddock.machine.state import Progress
from tests.hypervisor.qemu.machines import bring, described, free_port, make_machine
from tests.support_images import built_image

SIZE = 64 * MIB
SHADOW = "root:*:19000:0:99999:7:::\nbob:$6$old$hash:19000:0:99999:7:::\n"
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n",
    "etc/shadow": SHADOW,
    "etc/fstab": "/dev/sda / ext4 defaults 0 1\n",
    "usr/bin/true": "",
    "run/here": "",
}
HASH = "$6$saltsaltsaltsalt$" + "a" * 86


class HelperNode:
    """See above. `files` are added to the system, `make` makes its file system from a directory."""

    def __init__(self, files: dict[str, str] | None = None, make: Callable[[Path, Path], None] | None = None) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="pk-help-"))
        self.root.chmod(0o755)
        self.state = self.root / "state"
        self.host = QemuHypervisor(self.state, "tcg")
        rescue = built_image("rescue")
        assert bring(self.host, rescue.manifest, rescue.directory).done
        self.helper = rescue.manifest.sha256
        image = self._image({**FILES, **(files or {})}, make or make_ext4)
        machine = make_machine(image, port=free_port())
        self.uuid: UUID = machine.uuid
        self.host.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
        self.host.machines.ensure(machine, 1)
        self.directory = self.state / "machines" / str(machine.uuid)

    def _image(self, files: dict[str, str], make: Callable[[Path, Path], None]) -> ImageManifest:
        tree, source, raw = self.root / "tree", self.root / "source", self.root / "raw"
        source.mkdir()
        for name, text in files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text)
        (tree / "etc/shadow").chmod(0o600)
        make(tree, raw)
        run.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, source / "disk"])
        manifest = ImageManifest(name="small", disk_size=raw.stat().st_size, files=(described(source, Role.DISK),))
        assert bring(self.host, manifest, source).done
        return manifest

    def ask(self, user: str = "root", hashed: str = HASH) -> Progress:
        return self.host.disks.set_password(self.uuid, user, hashed, self.helper, 1)

    def finished(self, user: str = "root", hashed: str = HASH, seconds: float = 120) -> Progress:
        """Ask until it is done or failed."""
        deadline = clock.monotonic() + seconds
        while not ((told := self.ask(user, hashed)).done or told.error):
            assert clock.monotonic() < deadline, f"it still is {told}"
        return told

    def restart(self) -> None:
        self.host.close()
        self.host = QemuHypervisor(self.state, "tcg")

    def raw(self, disk: Path | None = None) -> Path:
        """The disk's content, as a file."""
        target = self.root / "content"
        target.unlink(missing_ok=True)
        run.run(["qemu-img", "convert", "-U", "-O", "raw", disk or self.directory / "system.qcow2", target])
        return target

    def content(self) -> str:
        """The hash of the disk's content."""
        return hashlib.sha256(self.raw().read_bytes()).hexdigest()

    def cat(self, path: str, disk: Path | None = None) -> str:
        """A file of the disk's ext4, whose file system is sound."""
        raw = self.raw(disk)
        checked = run.run(["e2fsck", "-f", "-n", raw], check=False)
        assert checked.code == 0, checked
        return run.run(["debugfs", "-R", f"cat {path}", raw]).stdout

    def ls(self, path: str, disk: Path | None = None) -> set[str]:
        said = run.run(["debugfs", "-R", f"ls -p {path}", self.raw(disk)]).stdout
        return {line.split("/")[5] for line in said.splitlines() if line.count("/") > 5} - {".", ".."}

    def left(self) -> set[str]:
        """What edits and copies left beside the disk."""
        known = {
            "lock",
            "system.qcow2",
            "seed.iso",
            "image",
            "spec.json",
            "run.json",
            "serial.log",
            "qemu.log",
            "fresh",
        }
        return {p.name for p in self.directory.iterdir()} - known

    def guests(self) -> list[int]:
        """The helper guests that run on this node."""
        return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and self._is_guest(pid)]

    def _is_guest(self, pid: str) -> bool:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            return b"paddock-helper" in words and os.readlink(f"/proc/{pid}/cwd").startswith(str(self.root))
        except OSError:
            return False

    def close(self) -> None:
        try:
            self.host.machines.remove(self.uuid, 99)
            self.host.close()
        finally:
            shutil.rmtree(self.root)


def make_ext4(tree: Path, raw: Path) -> None:
    run.run(["mke2fs", "-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d", tree, raw, f"{SIZE // 1024}k"])


def until(look: Callable[[], object], seconds: float = 30) -> None:
    deadline = clock.monotonic() + seconds
    while not look():
        assert clock.monotonic() < deadline, "it did not come in time"
        clock.sleep(0.01)
