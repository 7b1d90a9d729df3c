"""What a start makes of what it finds: planted files, taken ports, QEMU's last words."""

import os
import socket
import struct
from pathlib import Path

import pytest

from paddock.base.errors import PortTaken, Refused
from paddock.hypervisor.qemu import files, identity, process, start
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.hypervisor.qemu.layout import MachineDir
from paddock.machine.image import ImageManifest
from tests.hypervisor.qemu.machines import free_port, make_machine

FORWARDING = "qemu-system-x86_64: -netdev user: Could not set up host forwarding rule 'tcp:127.0.0.1:{}-:22'"


@pytest.fixture
def directory(host: QemuHypervisor, image: ImageManifest, tmp_path: Path) -> MachineDir:
    machine = make_machine(image)
    host.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
    host.machines.ensure(machine, 1)
    return host.machines.directory(machine.uuid)


def test_a_port_is_taken_only_when_it_is(image: ImageManifest) -> None:
    machine = make_machine(image, port=free_port())
    said = FORWARDING.format(machine.network.ssh_port)
    error = start.why_it_died(machine, said, "")
    assert type(error) is Refused
    assert "Could not set up host forwarding rule" in error.message
    assert "below 1024" in error.hint
    with socket.socket() as other:
        other.bind(("127.0.0.1", machine.network.ssh_port))
        other.listen()
        assert isinstance(start.why_it_died(machine, said, ""), PortTaken)


@pytest.mark.parametrize("name", ["serial.log", "qemu.log"])
@pytest.mark.parametrize("what", ["fifo", "link", "second name", "directory"])
def test_a_planted_log_is_refused_at_once(directory: MachineDir, tmp_path: Path, name: str, what: str) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    owner, planted = mine.stat().st_uid, directory.root / name
    match what:
        case "fifo":
            os.mkfifo(planted)
        case "link":
            planted.symlink_to(mine)
        case "second name":
            os.link(mine, planted)
        case "directory":
            planted.mkdir()
    with pytest.raises(Refused, match="not a plain file"):
        start.launch(["sleep", "0"], directory)
    assert (mine.stat().st_uid, mine.read_text()) == (owner, "mine")
    assert not files.is_locked(directory.lock)


@pytest.mark.skipif(identity.vm_identity() is None, reason="takes root and a user paddock-vm")
@pytest.mark.parametrize("writable", [True, False])
def test_no_other_file_is_given_away(tmp_path: Path, writable: bool) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    os.link(mine, tmp_path / "second")
    with pytest.raises(Refused):
        identity.give(tmp_path / "second", writable=writable)
    assert (mine.stat().st_uid, mine.stat().st_gid) == (0, 0)


def test_a_new_file_is_ours_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when QEMU's user puts a link there after we removed what was there."""
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "new").symlink_to(mine)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(Refused):
        files.create(tmp_path / "new")
    assert mine.read_text() == "mine"


def test_a_disk_is_not_written_through_a_link(
    host: QemuHypervisor, image: ImageManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for a disk that is just made: the link comes back whenever it is removed."""
    mine = tmp_path / "mine"
    mine.write_text("mine")
    machine = make_machine(image)
    root = host.machines._layout.machine(machine.uuid).root
    root.mkdir()
    unlink = Path.unlink

    def replanted(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        if path.name == ".system.new":
            path.symlink_to(mine)

    monkeypatch.setattr(Path, "unlink", replanted)
    with pytest.raises(Refused):
        host.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
    assert mine.read_text() == "mine"


def test_only_its_own_process_is_spoken_to(directory: MachineDir) -> None:
    pid = os.getpid()
    ours, other = (process.Process(p, os.pidfd_open(p)) for p in (pid, os.getppid()))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{(fd := os.open(directory.root, os.O_PATH))}/serial.sock")
        os.close(fd)
        listener.listen()
        process.connect(directory, ours, "serial.sock", 1).close()
        with pytest.raises(Refused, match=f"process {pid} of user"):
            process.connect(directory, other, "serial.sock", 1)


def test_a_listener_of_another_pid_namespace_counts_by_its_user(directory: MachineDir) -> None:
    """Such a one has pid 0 here; only its user can be looked at."""

    class Peer(socket.socket):
        uid = 0

        def getsockopt(self, *_: object) -> bytes:  # type: ignore[override]
            return struct.pack("3i", 0, self.uid, 0)

    mine = process.Process(os.getpid(), os.pidfd_open(os.getpid()))
    user = identity.vm_identity()
    with Peer(socket.AF_UNIX) as peer:
        peer.uid = user.uid if user else os.geteuid()
        process.check_peer(peer, mine, directory.root)
        peer.uid += 1
        with pytest.raises(Refused):
            process.check_peer(peer, mine, directory.root)
