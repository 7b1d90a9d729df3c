"""Forks of `debian-12`: systemd, cloud-init and OpenSSH go on in each, as somebody else."""

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from paddock.machine.spec import GIB, Machine, Power, Seed
from tests.guests.qemu_node import until
from tests.guests.stack import OPTIONS
from tests.guests.test_fork import Forks

pytestmark = [pytest.mark.guest, pytest.mark.slow]

MINUTES = 900  # seconds that a boot of Debian may take on a busy machine without KVM
OWN = """
cat /etc/machine-id /proc/sys/kernel/random/boot_id /sys/class/dmi/id/product_uuid /proc/sys/kernel/random/uuid
cat /etc/hostname; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub /etc/ssh/ssh_host_ecdsa_key.pub
head -c 64 /dev/urandom | sha256sum | cut -d' ' -f1; cat /sys/class/net/e*/address; cat /var/lib/cloud/data/instance-id
"""
LINES = 10
SCRIPT = "#!/bin/sh\necho ran >> /root/ran\n"


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    forks = Forks("debian-12")
    try:
        yield forks
    finally:
        forks.node.close()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=30)
    return path


@pytest.fixture(scope="module")
def parent(forks: Forks, key: Path) -> Machine:
    """Its boot is over, cloud-init's part of it included."""
    uuid = uuid4()
    seed = Seed(
        instance_id=str(uuid), hostname="parent", ssh_keys=(key.with_suffix(".pub").read_text().strip(),),
        user_data=SCRIPT,
    )  # fmt: skip
    disk = forks.node.define(forks.image).system_disk.model_copy(update={"size": 4 * GIB})
    about = {"uuid": uuid, "seed": seed, "cpus": 1, "memory_mib": 512, "layout": 2, "max_cpus": 4, "system_disk": disk}
    machine = forks.node.define(forks.image, **about)
    forks.node.host.machines.power(machine.uuid, Power.ON, 1)
    until(lambda: "cloud-init" in forks.node.host.machines.readiness(machine.uuid).by, MINUTES)
    until(lambda: logged_in(machine, key, "echo in") == "in", MINUTES)
    return machine


def logged_in(machine: Machine, key: Path, command: str) -> str:
    """What SSH says."""
    options = [w for o in OPTIONS for w in ("-o", o)]
    to = ["-i", str(key), "-p", str(machine.network.ssh_port), f"root@{machine.network.ssh_address}", command]
    said = subprocess.run(["ssh", *options, *to], capture_output=True, text=True, timeout=60, check=False)
    return said.stdout.strip()


def test_two_of_one(forks: Forks, parent: Machine, key: Path) -> None:
    forks.sh(parent, "systemd-run --unit counter sh -c 'while :; do echo x >> /tmp/count; sleep 0.2; done'")
    forks.sh(parent, "systemd-run --unit idle sleep 6000; systemctl show -p MainPID --value idle > /tmp/stopped")
    forks.sh(parent, "kill -STOP $(cat /tmp/stopped)")
    point, fork = forks.fork(parent)
    assert 0 < fork.paused_ms < 1000
    children = [forks.define(parent, point, f"child-{n}") for n in range(2)]
    for child in children:
        assert forks.node.host.machines.power(child.uuid, Power.ON, 1).began.fork
    forks.drop(point)
    everybody = [parent, *children]
    said = [forks.sh(machine, OWN).split() for machine in everybody]
    assert {len(words) for words in said} == {LINES}
    for one, other in itertools.combinations(said, 2):
        assert not set(one) & set(other)
    for machine in children:
        until(lambda machine=machine: logged_in(machine, key, "hostname") == machine.seed.hostname, 120)  # type: ignore[misc]
        assert forks.sh(machine, "systemctl is-active counter ssh systemd-journald") == "active\nactive\nactive"
        before = forks.sh(machine, "wc -c < /tmp/count")
        until(lambda m=machine, n=before: forks.sh(m, "wc -c < /tmp/count") != n, 30)  # type: ignore[misc]
        assert forks.sh(machine, "cut -d' ' -f3 /proc/$(cat /tmp/stopped)/stat") == "T", "who was stopped stays so"
        assert forks.sh(machine, "systemctl --failed --no-legend --no-pager") == ""
        assert forks.sh(machine, "cat /root/ran") == "ran", "user data is not run again"
        assert machine.seed.hostname in forks.sh(machine, "cat /etc/hosts; hostnamectl --static")
        assert forks.sh(machine, "ip -4 -o addr show scope global | grep -c 10.0.2.15") == "1"
        assert forks.sh(machine, "journalctl -n 1 --no-pager -q | wc -l") == "1"


def test_its_next_boot_finds_all_done(forks: Forks, parent: Machine, key: Path) -> None:
    """cloud-init neither runs user data again, nor makes the host keys anew that clients have seen."""
    point, _ = forks.fork(parent)
    child = forks.define(parent, point, "boots")
    forks.node.host.machines.power(child.uuid, Power.ON, 1)
    forks.drop(point)
    until(lambda: logged_in(child, key, "hostname") == "boots", 120)
    own = "cat /etc/ssh/ssh_host_*.pub /etc/machine-id /root/ran; hostname; cloud-init query instance_id"
    before = forks.sh(child, f"sync; {own}")
    forks.off(child)
    forks.node.host.machines.power(child.uuid, Power.ON, 1)
    until(lambda: "cloud-init" in forks.node.host.machines.readiness(child.uuid).by, MINUTES)
    assert forks.sh(child, own) == before
    assert forks.sh(child, "systemctl --failed --no-legend --no-pager") == ""
    assert logged_in(child, key, "hostname") == "boots"
