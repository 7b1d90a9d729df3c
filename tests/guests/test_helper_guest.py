"""Helper guests on real disks: a password is there or not, whoever dies when; an image has nothing of its server."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from paddock.base import clock, run
from paddock.base.errors import Conflict, PaddockError
from paddock.hypervisor.qemu import disks
from paddock.hypervisor.qemu.layout import MachineDir
from paddock.machine.cleaning import Cleaning, Trace
from paddock.machine.spec import Power
from paddock.machine.state import Phase, Snapshot
from tests.guests.helper_node import HASH, SHADOW, HelperNode, until

pytestmark = [pytest.mark.guest, pytest.mark.slow]


@pytest.fixture
def node() -> Iterator[HelperNode]:
    node = HelperNode()
    yield node
    node.close()


def test_a_password_on_the_disk(node: HelperNode) -> None:
    assert node.finished().done
    root, bob = node.cat("/etc/shadow").splitlines()
    assert root.split(":")[:2] == ["root", HASH]
    assert root.split(":")[3:] == ["0", "99999", "7", "", "", ""]
    assert bob == SHADOW.splitlines()[1]
    assert node.left() == set()
    assert not disks.is_fresh(MachineDir(node.directory)), "an empty one in its place would have the old password"
    assert node.guests() == []
    run.run(["qemu-img", "check", node.directory / "system.qcow2"])
    stat = run.run(["debugfs", "-R", "stat /etc/shadow", node.raw()]).stdout
    assert "Mode:  0600" in stat
    assert "no user alice" in node.finished("alice").error
    node.host.machines.power(node.uuid, Power.ON_PAUSED, 1)
    with pytest.raises(Conflict):
        node.ask()


def no_system(_tree: Path, raw: Path) -> None:
    """An encrypted partition, as far as its header goes, and a swap file system."""
    raw.write_bytes(b"LUKS\xba\xbe\x00\x01".ljust(592, b"\0") + b"\0" * (16 * 2**20 - 592))


def test_a_disk_without_a_system_that_we_know() -> None:
    node = HelperNode(make=no_system)
    try:
        before = node.content()
        told = node.finished()
        assert "the system on the disk is encrypted: /dev/sda (crypto_LUKS): without its passphrase" in told.error
        assert node.content() == before
        assert node.left() == set()
    finally:
        node.close()


def make_xfs(tree: Path, raw: Path) -> None:
    proto = raw.with_name("proto")
    lines = ["/stage1/boot", "0 0", "d--755 0 0"]
    for directory in sorted(d for d in tree.iterdir() if d.is_dir()):
        lines.append(f"{directory.name} d--755 0 0")
        lines += [f"{f.name} ---600 0 0 {f}" for f in sorted(directory.iterdir()) if f.is_file()]
        lines.append("$")
    proto.write_text("\n".join([*lines, "$"]) + "\n")
    with raw.open("wb") as file:
        file.truncate(400 * 2**20)
    run.run(["mkfs.xfs", "-q", "-p", proto, raw])


def test_xfs() -> None:
    node = HelperNode(make=make_xfs)
    try:
        told = node.finished()
        assert (told.done, told.error) == (True, "")
        assert f"root:{HASH}:".encode() in node.raw().read_bytes()
    finally:
        node.close()


@pytest.mark.parametrize("moment", ["at its start", "changing", "writing"])
def test_a_helper_that_dies_leaves_the_disk_as_it_was(node: HelperNode, moment: str) -> None:
    before = node.content()

    def reached() -> bool:
        nonlocal before
        told = node.ask()
        if told.done:  # it was quicker than we look: the next begins with what this one left
            before = node.content()
        return told.doing.startswith(moment)

    node.ask()
    until(node.guests if moment == "at its start" else reached)
    os.kill(node.guests()[0], signal.SIGKILL)
    told = node.finished()
    if not told.done:  # it had said that it was done, and ended just then
        assert "helper guest" in told.error
        assert node.content() == before
        assert node.finished().done
    assert f"root:{HASH}:" in node.cat("/etc/shadow")
    assert node.left() == set()


DIES = """
import os, sys, threading
from pathlib import Path
from uuid import UUID
from paddock.base import clock, run
from paddock.hypervisor.qemu import edit, files, helper_guest
from paddock.hypervisor.qemu.driver import QemuHypervisor

moment = sys.argv[5]
die = lambda *_: os._exit(9)
write, work, real_run = files.write_whole, helper_guest.work, run.run
if moment == "when its guest has done the job":
    helper_guest.work = lambda *a: (work(*a), die())
elif moment == "after the mark":
    edit._commit = die
elif moment.startswith("in the commit"):
    after = float(moment.rsplit(" ", 1)[1])
    def committing(words, **more):
        if "commit" in words:
            threading.Timer(after, die).start()
            real_run(words, **more)
            die()  # at the latest, where the commit was quicker
        return real_run(words, **more)
    run.run = committing
elif moment == "before it removes the mark":
    edit.Edit.remove = lambda self: die() if self.mark.exists() else None

host = QemuHypervisor(Path(sys.argv[1]), "tcg")
while True:
    told = host.disks.set_password(UUID(sys.argv[2]), "root", sys.argv[3], sys.argv[4], 1)
    if told.done or told.error:
        sys.exit(str(told))
    if moment == "in its guest" and told.doing.startswith("looking"):
        die()
"""
BEFORE = ("in its guest", "when its guest has done the job")
AFTER = ("after the mark", "in the commit 0.005", "in the commit 0.03", "before it removes the mark")


@pytest.mark.parametrize("moment", [*BEFORE, *AFTER])
def test_a_node_agent_that_dies(node: HelperNode, moment: str) -> None:
    before = node.content()
    node.host.close()
    words = [str(node.state), str(node.uuid), HASH, node.helper, moment]
    dead = subprocess.run([sys.executable, "-c", DIES, *words], timeout=120, capture_output=True, text=True)
    assert dead.returncode == 9, dead.stderr
    until(lambda: not node.guests(), 5)  # none outlives it
    node.restart()
    if moment in BEFORE:
        assert node.content() == before
    else:
        assert f"root:{HASH}:" in node.cat("/etc/shadow")
    node.host.machines.power(node.uuid, Power.ON_PAUSED, 1)
    assert node.host.machines.state(node.uuid).phase is Phase.PAUSED
    assert node.left() - {"vnc.sock", "qmp.sock", "qmp2.sock", "agent.sock", "serial.sock"} == set()


def test_what_could_not_be_committed_keeps_the_machine_off(node: HelperNode, monkeypatch: pytest.MonkeyPatch) -> None:
    real_run = run.run

    def full(words: list[str], **more: object) -> run.Completed:
        if "commit" in words:
            words = ["sh", "-c", "echo No space left on device >&2; exit 1"]
        return real_run(words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "run", full)
    assert "no room" in node.finished().error
    with pytest.raises(PaddockError, match="no room"):
        node.host.machines.power(node.uuid, Power.ON, 1)
    assert node.host.machines.state(node.uuid).phase is Phase.DEFINED
    monkeypatch.setattr(run, "run", real_run)
    node.host.machines.power(node.uuid, Power.ON_PAUSED, 1)
    node.host.machines.power(node.uuid, Power.OFF, 1)
    assert f"root:{HASH}:" in node.cat("/etc/shadow")


def test_nobody_starts_it_meanwhile_and_a_removal_ends_it(node: HelperNode) -> None:
    node.ask()
    until(node.guests)
    with pytest.raises(Conflict, match="helper guest"):
        node.host.machines.power(node.uuid, Power.ON, 1)
    began = clock.monotonic()
    node.host.machines.remove(node.uuid, 1)
    assert clock.monotonic() - began < 10
    assert node.guests() == []
    assert not node.directory.exists()


OWN = {
    "etc/ssh/ssh_host_rsa_key": "secret", "etc/ssh/ssh_host_rsa_key.pub": "public",
    "etc/ssh/sshd_config": "UsePAM yes\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n", "etc/hostname": "web\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 web web\n",
    "var/lib/dbus/machine-id": "0123456789abcdef0123456789abcdef\n",
    "var/lib/dhcp/dhclient.eth0.leases": "lease {}\n", "var/lib/systemd/network/lease-2": "ADDRESS=10.0.2.15\n",
    "etc/netplan/50-cloud-init.yaml": "network: {}\n", "etc/netplan/01-mine.yaml": "network: {}\n",
    "root/.ssh/authorized_keys": "ssh-ed25519 AAAA me\n", "home/bob/.ssh/authorized_keys": "ssh-ed25519 AAAA bob\n",
    "home/bob/.ssh/id_ed25519": "bob's key", "home/bob/.ssh/known_hosts": "github.com",
    "home/bob/.ssh/config": "Host *\n",
    "var/lib/cloud/instance-id": "i-1", "var/lib/cloud/instances/i-1/sem/done": "x", "var/lib/cloud/seed/x": "kept",
    "var/log/syslog": "said", "var/log/syslog.1": "said before", "var/log/a b\nc.log": "an odd name",
    "var/log/journal/0123/system.journal": "LPKSHHRH",
    "root/.bash_history": "ls\n", "home/bob/.python_history": "1\n", "var/lib/systemd/random-seed": "random",
    "tmp/x/y": "t", "var/tmp/.hidden": "t", "etc/ssl/private/web.key": "PRIVATE",
}  # fmt: skip


@pytest.fixture(scope="module")
def lived_in() -> Iterator[HelperNode]:
    """A system that has been used."""
    node = HelperNode(OWN)
    yield node
    node.close()


def cleaned(node: HelperNode, *keep: Trace) -> Snapshot:
    snapshot, target, deadline = uuid4(), node.root / "copy", clock.monotonic() + 120
    cleaning = Cleaning(helper=node.helper, keep=keep)
    while True:
        told = node.host.disks.snapshot(node.uuid, snapshot, str(target), 1, cleaning)
        if told.done or told.error:
            node.host.disks.drop_snapshot(node.uuid, snapshot, 1)
            return told
        assert clock.monotonic() < deadline, told


def test_an_image_has_nothing_of_its_server(lived_in: HelperNode) -> None:
    before = lived_in.content()
    told = cleaned(lived_in)
    assert (told.done, told.error) == (True, "")
    assert {c.split(":")[0] for c in told.cleaned} == set(Trace)
    assert told.shared == ("secrets: 1, say /etc/ssl/private/web.key",)
    copy = lived_in.root / "copy"
    assert lived_in.ls("/etc/ssh", copy) == {"sshd_config"}
    assert lived_in.cat("/etc/machine-id", copy) == ""
    assert lived_in.cat("/etc/hosts", copy) == "127.0.0.1 localhost\n"
    assert lived_in.ls("/etc/netplan", copy) == {"01-mine.yaml"}
    assert lived_in.ls("/home/bob/.ssh", copy) == {"config"}
    assert lived_in.ls("/var/lib/cloud", copy) == {"seed"}
    assert lived_in.ls("/var/log/journal", copy) == set(), "a directory is called by the machine id"
    assert lived_in.cat("/var/log/syslog", copy) == ""
    assert lived_in.cat("/etc/shadow", copy) == SHADOW.replace("$6$old$hash", "*")
    for place in ("/tmp", "/var/tmp", "/var/lib/dhcp", "/root/.ssh"):
        assert lived_in.ls(place, copy) == set(), place
    assert lived_in.content() == before
    assert not [name for name in lived_in.left() if name.startswith("snapshot")]


def test_what_is_kept_is_named(lived_in: HelperNode) -> None:
    told = cleaned(lived_in, Trace.AUTHORIZED_KEYS, Trace.PASSWORDS, Trace.LOGS)
    assert told.done
    assert told.shared[:2] == ("authorized-keys: 2, say /home/bob/.ssh/authorized_keys", "passwords: 1, say bob")
    assert told.shared[2].startswith("logs: 4, say /var/log/")
    copy = lived_in.root / "copy"
    assert lived_in.cat("/etc/shadow", copy) == SHADOW
    assert lived_in.cat("/root/.ssh/authorized_keys", copy) == "ssh-ed25519 AAAA me\n"
    assert lived_in.ls("/etc/ssh", copy) == {"sshd_config"}


def test_a_helper_that_dies_makes_no_image(lived_in: HelperNode) -> None:
    snapshot, target = uuid4(), lived_in.root / "never"
    cleaning = Cleaning(helper=lived_in.helper)

    def ask() -> Snapshot:
        return lived_in.host.disks.snapshot(lived_in.uuid, snapshot, str(target), 1, cleaning)

    ask()
    until(lambda: "looking" in ask().doing, 60)
    os.kill(lived_in.guests()[0], signal.SIGKILL)
    until(lambda: "helper guest died" in ask().error)
    assert not target.exists()
    assert not [name for name in lived_in.left() if name.startswith("snapshot")]
