"""Warm starts of `debian-12`: systemd, cloud-init and OpenSSH, begun from one booted guest of nobody."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from paddock.base import clock
from paddock.machine.spec import GIB, Machine, Seed
from paddock.machine.warm import Start
from tests.guests.qemu_node import Node, until
from tests.guests.stack import OPTIONS
from tests.guests.test_warm import Warm
from tests.support_images import built_image

pytestmark = [pytest.mark.guest, pytest.mark.slow]

MINUTES = 900  # seconds that a boot of Debian may take on a busy machine without KVM
OWN = """
cat /etc/machine-id /proc/sys/kernel/random/boot_id /sys/class/dmi/id/product_uuid /proc/sys/kernel/random/uuid
cat /run/paddock-warm/sample; hostname; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub; lsblk -dno SERIAL /dev/sda
"""
LINES = 8
# What root's user data asks for; each line of it is there once.
SCRIPT = "#!/bin/sh\necho ran >> /root/ran\n"
WORDS = {"cpus": 1, "memory_mib": 512, "layout": 2, "max_cpus": 4, "max_memory_mib": 1024}


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    node = Node()
    try:
        built = built_image("debian-12")
        warm = Warm(node, built.manifest, built.directory)
        machine = warm.define("first", **WORDS)
        deadline = clock.monotonic() + MINUTES
        while not node.host.warm.make_warm(machine).done:
            assert clock.monotonic() < deadline, "it is not made in time"
            clock.sleep(0.5)
        yield warm
    finally:
        node.close()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=30)
    return path


def begun(warm: Warm, name: str, key: Path, **changes: object) -> Machine:
    """A server with a larger disk than its image, whose user data is a script."""
    uuid = uuid4()
    public = key.with_suffix(".pub").read_text().strip()
    seed = Seed(instance_id=str(uuid), hostname=name, ssh_keys=(public,), user_data=SCRIPT)
    disk = warm.define("other").system_disk
    about = {"uuid": uuid, "seed": seed, "system_disk": disk.model_copy(update={"size": 4 * GIB}), **WORDS, **changes}
    machine = warm.define(name, **about)
    assert warm.start(machine) == Start(warm=True)
    return machine


def logged_in(machine: Machine, key: Path, user: str, command: str) -> str:
    """What SSH says, whose host key is noted at the first time."""
    options = [w for o in OPTIONS for w in ("-o", o)]
    to = ["-i", str(key), "-p", str(machine.network.ssh_port), f"{user}@{machine.network.ssh_address}", command]
    said = subprocess.run(["ssh", *options, *to], capture_output=True, text=True, timeout=60, check=False)
    return said.stdout.strip()


def test_two_of_them(warm: Warm, key: Path) -> None:
    machines = [begun(warm, f"deb-{n}", key) for n in range(2)]
    for n, machine in enumerate(machines):
        until(lambda machine=machine: logged_in(machine, key, "root", "echo in") == "in", MINUTES)  # type: ignore[misc]
        assert logged_in(machine, key, "root", "hostname") == f"deb-{n}"
    first, second = (warm.sh(machine, OWN).split() for machine in machines)
    assert len(first) == len(second) == LINES
    assert not set(first) & set(second)

    machine = machines[0]
    before = warm.sh(machine, "cat /etc/ssh/ssh_host_ed25519_key.pub")
    until(lambda: "status: done" in warm.sh(machine, "cloud-init status || true"), MINUTES)
    assert warm.sh(machine, "cat /root/ran") == "ran"
    assert warm.sh(machine, "cat /etc/ssh/ssh_host_ed25519_key.pub") == before, "who logged in finds it again"
    assert int(warm.sh(machine, "df --output=size -BM / | tail -1 | tr -d M")) > 3500
    assert warm.sh(machine, "cloud-init query instance_id") == str(machine.uuid)
    assert warm.sh(machine, "systemctl --failed --no-legend --no-pager") == ""
    assert logged_in(machine, key, "debian", "id -un") in ("debian", "")
    assert warm.sh(machine, "ls /var/log/journal /run/log/journal 2>/dev/null | grep -c ^[0-9a-f]") == "1"
