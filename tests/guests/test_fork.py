"""Forks of real guests of `tiny`: each child goes on where its parent stood, and is somebody of its own."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from paddock.base import clock
from paddock.base.errors import Refused
from paddock.hypervisor.qemu import disks
from paddock.hypervisor.qemu.fork import point as points
from paddock.hypervisor.qemu.layout import Layout
from paddock.machine.image import ImageManifest
from paddock.machine.spec import Machine, Power, Seed
from paddock.machine.state import Fork, Phase
from paddock.machine.warm import Start
from tests.guests.qemu_node import Node, until
from tests.hypervisor.qemu.machines import bring, free_port
from tests.support_images import built_image

pytestmark = [pytest.mark.guest, pytest.mark.slow]

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKtVMfR5ofkFVrhbOXvLLp0xZT4oRtoCRsPh3FvKp9vE me@here"
IDLE_MS = 400.0  # that an idle guest may stand still, on a machine that others use too
# What nobody may share with anybody, a line each.
OWN = """
for kind in ed25519 ecdsa; do sha256sum < /etc/dropbear/$kind; done
hostname
cat /var/lib/paddock/instance-id /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address
head -c 64 /dev/urandom | sha256sum; cat /proc/sys/kernel/random/uuid
"""
LINES = 8
# A process that counts in its own memory, and says on its disk and in memory how far it is.
COUNTER = """
echo "before $(cat /proc/sys/kernel/random/uuid)" | tee /root/told > /tmp/told; sync
(n=0; while :; do n=$((n+1)); echo $n > /tmp/count; echo $n > /root/count; sleep 0.1; done) > /dev/null 2>&1 &
echo $! > /tmp/counter
sleep 6000 > /dev/null 2>&1 &
echo $! > /tmp/stopped
sleep 0.5
kill -STOP $(cat /tmp/stopped)
"""


class Forks:
    """A node, and machines of an image that are forked."""

    def __init__(self, image: str = "tiny") -> None:
        self.node = Node()
        built = built_image(image)
        self.image: ImageManifest = built.manifest
        assert bring(self.node.host, self.image, built.directory).done

    @property
    def layout(self) -> Layout:
        return Layout(self.node.state)

    def parent(self, **changes: object) -> Machine:
        """A machine that runs, with a process that counts."""
        uuid = uuid4()
        about: dict[str, object] = {"name": "parent", "cpus": 1, "memory_mib": 192, "layout": 2, "max_cpus": 4}
        seed = Seed(instance_id=str(uuid), hostname="parent", ssh_keys=(KEY,))
        machine = self.node.define(self.image, **{"uuid": uuid, "seed": seed, **about, **changes})
        self.on(machine)
        self.sh(machine, COUNTER)
        return machine

    def on(self, machine: Machine) -> None:
        self.node.host.machines.power(machine.uuid, Power.ON, 1)
        until(lambda: {"ssh", "agent"} <= set(self.node.host.machines.readiness(machine.uuid).by), 90)

    def off(self, machine: Machine) -> None:
        self.node.host.machines.power(machine.uuid, Power.OFF, 1)

    def remove(self, machine: Machine) -> None:
        self.node.host.machines.remove(machine.uuid, 2)

    def fork(self, machine: Machine, point: UUID | None = None) -> tuple[UUID, Fork]:
        point, deadline = point or uuid4(), clock.monotonic() + 90
        while not (fork := self.node.host.machines.fork(machine.uuid, point, 1)).done:
            if fork.error:
                raise Refused(fork.error)
            assert clock.monotonic() < deadline, fork
        return point, fork

    def define(self, parent: Machine, point: UUID, name: str, **changes: object) -> Machine:
        uuid = uuid4()
        mac = f"52:54:00:{uuid.hex[:2]}:{uuid.hex[2:4]}:02"
        network = parent.network.model_copy(update={"mac": mac, "ssh_port": free_port()})
        seed = Seed(instance_id=str(uuid), hostname=name)
        own = {"uuid": uuid, "name": name, "fork": point, "network": network, "seed": seed, **changes}
        machine = parent.model_copy(update=own)
        self.node.host.disks.ensure_disk(uuid, machine.system_disk, 1)
        self.node.host.machines.ensure(machine, 1)
        return machine

    def child(self, parent: Machine, point: UUID, name: str, **changes: object) -> Machine:
        """One that runs, and can be used."""
        machine = self.define(parent, point, name, **changes)
        state = self.node.host.machines.power(machine.uuid, Power.ON, 1)
        assert state.began == Start(fork=True)
        until(lambda: {"ssh", "agent"} <= set(self.node.host.machines.readiness(machine.uuid).by), 60)
        return machine

    def drop(self, point: UUID) -> None:
        self.node.host.machines.drop_fork(point)

    def snapshot(self, machine: Machine) -> Path:
        """Of its disk, whole and standing on nothing."""
        target, snapshot = self.node.root / f"{uuid4()}.qcow2", uuid4()
        until(lambda: self.node.host.disks.snapshot(machine.uuid, snapshot, str(target), 1).done, 60)
        return target

    def sh(self, machine: Machine, script: str) -> str:
        result = self.node.host.guest.exec(machine.uuid, ("/bin/sh", "-c", script), "", 60)
        assert result.exit_code == 0, (script, result)
        return result.stdout.strip()

    def count(self, machine: Machine) -> int:
        return int(self.sh(machine, "cat /tmp/count") or 0)

    def counts_on(self, machine: Machine) -> bool:
        before = self.count(machine)
        until(lambda: self.count(machine) > before, 20)
        return True

    def phase(self, machine: Machine) -> Phase:
        return self.node.host.machines.state(machine.uuid).phase


def raw_of(disk: Path) -> bytes:
    """All bytes that a guest would see of it."""
    raw = disk.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(disk), str(raw)], check=True, timeout=60)
    return raw.read_bytes()


@pytest.fixture(scope="module")
def shared() -> Iterator[Forks]:
    forks = Forks()
    try:
        yield forks
    finally:
        forks.node.close()


@pytest.fixture
def forks(shared: Forks) -> Iterator[Forks]:
    """It, with nothing left of a test before."""
    yield shared
    for name in os.listdir(shared.layout.machines):
        shared.node.host.machines.remove(UUID(name), 99)
    for path in shared.layout.warm.glob("fork-*"):
        shared.drop(UUID(path.name.removeprefix("fork-")))
    assert not list(shared.layout.warm.glob("*fork-*")), "what nobody needs is removed"
    assert not list(shared.layout.overlays.glob("fork-*"))


def test_three_of_one(forks: Forks) -> None:
    """Their processes go on, with the memory and the disk of one instant; nobody shares what is somebody's own."""
    parent = forks.parent()
    up = float(forks.sh(parent, "cut -d' ' -f1 /proc/uptime"))
    began = clock.monotonic()
    point, fork = forks.fork(parent)
    assert 0 < fork.paused_ms < IDLE_MS
    assert float(forks.sh(parent, "cut -d' ' -f1 /proc/uptime")) - up > (clock.monotonic() - began) * 0.5
    at_most = forks.count(parent)
    children = [forks.child(parent, point, f"child-{n}", **more) for n, more in enumerate(({}, {}, {"max_cpus": 4}))]
    forks.drop(point)
    everybody = [parent, *children]
    said = [forks.sh(machine, OWN).split("\n") for machine in everybody]
    assert {len(lines) for lines in said} == {LINES}
    for one, other in itertools.combinations(said, 2):
        assert not set(one) & set(other)
    for machine in everybody:
        assert forks.counts_on(machine)
        assert forks.sh(machine, "cat /tmp/told") == forks.sh(parent, "cat /root/told")
        assert forks.sh(machine, "kill -0 $(cat /tmp/counter) && hostname") == machine.seed.hostname
        assert forks.sh(machine, "cut -d' ' -f3 /proc/$(cat /tmp/stopped)/stat") == "T", "who was stopped stays so"
        assert forks.sh(machine, "cat /sys/class/net/eth0/address") == machine.network.mac
        assert KEY in forks.sh(machine, "cat /root/.ssh/authorized_keys"), "keys of the parent stay"
        assert forks.sh(machine, "ip -4 addr show eth0 | grep -c 10.0.2.15") == "1"
    assert forks.sh(parent, "ls -d /run/paddock-fork-* 2> /dev/null | wc -l") == "0", "nothing is left in the parent"
    for machine in children:
        # The file on its disk and the one in its memory are of the same moment: never more than one count apart.
        first = forks.sh(machine, "kill -STOP $(cat /tmp/counter); cat /tmp/count /root/count").split()
        assert abs(int(first[0]) - int(first[1])) <= 1
        assert int(forks.sh(machine, "dmesg | grep -c 'EXT4-fs error' || true") or 0) == 0
    assert at_most > 0


def test_a_child_is_a_machine_like_any_other(forks: Forks) -> None:
    """Later stops and starts, hibernation, a fork of the fork, and its parent's end leave it alone."""
    parent = forks.parent()
    point, _ = forks.fork(parent)
    child = forks.child(parent, point, "child")
    forks.drop(point)
    forks.remove(parent)
    assert forks.counts_on(child)
    keys = forks.sh(child, "cat /etc/dropbear/* | sha256sum; cat /var/lib/paddock/instance-id")

    until(lambda: forks.node.host.machines.hibernate(child.uuid, 1).done, 60)
    forks.on(child)
    assert forks.node.host.machines.state(child.uuid).cold_start == ""
    assert forks.counts_on(child), "it goes on after a hibernation"
    assert forks.sh(child, "ip -4 addr show eth0 | grep -c 10.0.2.15") == "1"

    deeper, _ = forks.fork(child)
    grandchild = forks.child(child, deeper, "grandchild")
    forks.drop(deeper)
    assert forks.counts_on(grandchild)
    assert forks.sh(grandchild, "hostname; ip -4 addr show eth0 | grep -c 10.0.2.15").split() == ["grandchild", "1"]
    assert disks.stood_on(forks.node.directory(grandchild)) == [points.name_of(deeper), points.name_of(point)]
    forks.remove(child)

    told = forks.sh(grandchild, "sync; cat /root/told")
    taken = [forks.snapshot(grandchild)]
    forks.off(grandchild)
    taken.append(forks.snapshot(grandchild))
    for file in taken:
        assert told.split()[1].encode() in raw_of(file), "a snapshot has what is beneath its disk too"
    forks.on(grandchild)
    assert forks.node.host.machines.state(grandchild.uuid).began == Start(), "an ordinary start"
    assert forks.sh(grandchild, "cat /root/told; hostname") == f"{told}\ngrandchild"
    assert forks.sh(grandchild, "cat /var/lib/paddock/instance-id") == str(grandchild.uuid)
    assert keys
    forks.remove(grandchild)
    assert not list(forks.layout.warm.glob("fork-*"))
