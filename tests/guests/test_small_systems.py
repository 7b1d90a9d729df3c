"""Our small systems on the real driver: what is plugged in while `tiny` runs, and a server repaired from `rescue`."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from paddock.base import clock, run
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.hypervisor.qemu.readiness import ssh_banner
from paddock.machine.spec import GIB, MIB, Attached, Machine, Power, Rescue, Volume
from tests.guests.stack import OPTIONS, until
from tests.hypervisor.qemu.machines import bring, free_port, make_machine
from tests.support_images import built_image

pytestmark = [pytest.mark.guest, pytest.mark.slow]


class Node:
    """A driver, a key, and a machine of `tiny`."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="pk-small-"))
        self.root.chmod(0o755)
        self.host = QemuHypervisor(self.root / "state", "tcg")
        self.key = self.root / "key"
        run.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tester", "-f", self.key])
        self.public_key = self.key.with_suffix(".pub").read_text().strip()
        self.tiny, self.rescue = built_image("tiny"), built_image("rescue")
        for image in (self.tiny, self.rescue):
            assert bring(self.host, image.manifest, image.directory).done
        made = make_machine(self.tiny.manifest, port=free_port())
        seed = made.seed.model_copy(update={"ssh_keys": (self.public_key,)})
        self.machine: Machine = made.model_copy(
            update={"cpus": 1, "memory_mib": 256, "layout": 2, "max_cpus": 2, "max_memory_mib": 512, "seed": seed}
        )
        self.uuid = self.machine.uuid
        self.host.disks.ensure_disk(self.uuid, self.machine.system_disk, 1)
        self.define()

    def define(self, **changes: object) -> None:
        self.machine = self.machine.model_copy(update=changes)
        self.host.machines.ensure(self.machine, 1)

    def start(self, words: str) -> float:
        """Until its console says these words: the seconds that took."""
        began = clock.monotonic()
        self.host.machines.power(self.uuid, Power.ON, 1)
        until(lambda: words in self.host.machines.running(self.uuid).serial(1 << 20), 120, self.console)
        took = clock.monotonic() - began
        until(lambda: ssh_banner("127.0.0.1", self.machine.network.ssh_port, 2), 60, self.console)
        return took

    def console(self) -> str:
        return self.host.streams.console_log(self.uuid, 3000)

    def ssh(self, command: str, seconds: float = 60) -> str:
        options = [word for option in OPTIONS for word in ("-o", option)]
        port = str(self.machine.network.ssh_port)
        argv = ["ssh", *options, "-i", str(self.key), "-p", port, "root@127.0.0.1", command]
        done = subprocess.run(argv, timeout=seconds, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def ask(self, command: str, arguments: dict[str, object] | None = None) -> object:
        return self.host.machines.running(self.uuid).agent.call(command, arguments, 10)

    def close(self) -> None:
        try:
            self.host.machines.remove(self.uuid, 99)
            self.host.close()
        finally:
            shutil.rmtree(self.root)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


LINK = "/dev/disk/by-id/scsi-0HC_Volume_4711"


def test_volumes_have_their_names_as_long_as_they_are_plugged(node: Node) -> None:
    first, second = uuid4(), uuid4()
    node.host.volumes.ensure_volume(Volume(uuid=first, size=GIB, format="ext4"), 1)
    node.host.volumes.ensure_volume(Volume(uuid=second, size=GIB), 1)
    node.define(volumes=(Attached(volume=first, serial="4711"),))
    took = node.start("paddock-tiny: ready")
    print(f"tiny was ready after {took:.1f} s")
    disk = node.ssh(f"readlink -f {LINK}")  # which of them is sda depends on which answers first
    assert node.ssh(f"cat /sys/block/{disk.removeprefix('/dev/')}/size") == str(GIB // 512)
    node.ssh(f"mount {LINK} /mnt && echo kept > /mnt/file && umount /mnt")
    node.define(volumes=(Attached(volume=first, serial="4711"), Attached(volume=second, serial="4712")))
    node.host.machines.adapt(node.uuid, 1)
    until(lambda: "4712" in node.ssh("ls /dev/disk/by-id"), 10)
    other = LINK.replace("4711", "4712")
    node.ssh(f"mkfs.ext4 -q {other} && mount {other} /mnt && df /mnt && umount /mnt")
    node.ssh(f"e2fsck -f -p {other} && resize2fs {other}")
    node.define(volumes=(Attached(volume=second, serial="4712"),))
    node.host.machines.adapt(node.uuid, 1)
    until(lambda: node.ssh("ls /dev/disk/by-id") == "scsi-0HC_Volume_4712", 10)
    node.define(volumes=())
    node.host.machines.adapt(node.uuid, 1)
    until(lambda: node.ssh("ls /dev/disk/by-id") == "", 10)


def test_cpus_and_memory_are_put_to_use(node: Node) -> None:
    before = int(node.ssh("awk '/MemTotal/ {print $2}' /proc/meminfo"))
    node.define(cpus=2, memory_mib=512)
    print(node.host.machines.adapt(node.uuid, 1))
    until(lambda: node.ssh("nproc") == "2", 20)
    until(lambda: int(node.ssh("awk '/MemTotal/ {print $2}' /proc/meminfo")) > before + 200 * 1024, 20)


def test_what_the_guest_agent_of_tiny_can_do(node: Node) -> None:
    cards = node.ask("guest-network-get-interfaces")
    assert isinstance(cards, list)
    eth0 = next(c for c in cards if c["name"] == "eth0")
    assert eth0["statistics"]["rx-bytes"] > 0
    assert any(a["ip-address"] == "10.0.2.15" for a in eth0["ip-addresses"])
    cpus = node.ask("guest-get-vcpus")
    assert isinstance(cpus, list)
    node.ask("guest-set-vcpus", {"vcpus": [{"logical-id": 1, "online": False}]})
    assert node.ssh("nproc") == "1"
    node.ask("guest-set-vcpus", {"vcpus": [{"logical-id": 1, "online": True}]})
    assert node.ssh("nproc") == "2"
    blocks = node.ask("guest-get-memory-blocks")
    assert isinstance(blocks, list)
    assert all(b["online"] for b in blocks)
    last = max(b["phys-index"] for b in blocks)
    answer = node.ask("guest-set-memory-blocks", {"mem-blks": [{"phys-index": last, "online": True}]})
    assert isinstance(answer, list)
    assert answer[0]["response"] == "success"
    assert node.ask("guest-fsfreeze-status") == "thawed"


def test_a_server_is_repaired_from_the_rescue_system(node: Node) -> None:
    node.ssh("echo mine > /root/file; sync")
    node.host.machines.power(node.uuid, Power.OFF, 1)
    password = run.run(["openssl", "passwd", "-6", "-stdin"], input="correct horse").stdout.strip()
    image = node.rescue.manifest.sha256
    node.define(rescue=Rescue(image=image, ssh_keys=(node.public_key,), password_hash=password), memory_mib=256)
    took = node.start("paddock-rescue: ready")
    print(f"rescue was ready after {took:.1f} s")
    assert node.ssh("hostname") == "rescue"
    assert node.ssh("cut -d: -f2 /etc/shadow | head -n 1") == password
    assert "sda" in node.ssh("lsblk --noheadings --output NAME")
    assert node.ssh("findmnt --noheadings --list --output SOURCE | grep -c ^/dev/sd || true") == "0"
    assert node.ssh("e2fsck -f -p /dev/sda > /dev/null; echo $?") in ("0", "1")
    assert node.ssh("mount /dev/sda /mnt && chroot /mnt /bin/cat /root/file") == "mine"
    node.ssh("echo repaired > /mnt/root/file; umount /mnt")
    for program in ("fdisk -l", "sfdisk -l", "parted -s /dev/sda print || true", "blkid", "xfs_repair -V", "wipefs -V"):
        node.ssh(program)
    node.ssh("truncate -s 400M /tmp/x && mkfs.xfs -q /tmp/x && mount -o loop /tmp/x /mnt && umount /mnt")
    assert "rescue system" in node.ssh("cat /etc/motd")
    assert node.ask("guest-ping") == {}
    print(node.ssh("free -m"))
    node.host.machines.power(node.uuid, Power.OFF, 1)
    node.define(rescue=None)
    node.start("paddock-tiny: ready")
    assert node.ssh("cat /root/file") == "repaired"


def test_the_rescue_system_needs_little_memory(node: Node) -> None:
    node.host.machines.power(node.uuid, Power.OFF, 1)
    rescue = Rescue(image=node.rescue.manifest.sha256, ssh_keys=(node.public_key,))
    node.define(rescue=rescue, memory_mib=128, layout=1, cpus=1, max_cpus=0, max_memory_mib=0)
    node.start("paddock-rescue: ready")
    assert int(node.ssh("awk '/MemAvailable/ {print $2}' /proc/meminfo")) * 1024 > 8 * MIB
