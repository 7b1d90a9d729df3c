"""Warm starts with real guests of `tiny`: whoever begins from a warm image is somebody of its own, and a machine like
any other from then on."""

import contextlib
import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from paddock.base import clock
from paddock.base.errors import Refused
from paddock.hypervisor.qemu import disks
from paddock.hypervisor.qemu.layout import MachineDir, WarmDir
from paddock.hypervisor.qemu.readiness import ssh_banner
from paddock.hypervisor.qemu.warm import guest as warm_guest
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import MIB, Attached, Machine, Power, Seed, Volume
from paddock.machine.state import Phase
from paddock.machine.warm import Start, WarmImage
from tests.guests.qemu_node import Node, until
from tests.hypervisor.qemu.machines import bring, described
from tests.support_images import built_image

pytestmark = [pytest.mark.guest, pytest.mark.slow]

CLONES = 20
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKtVMfR5ofkFVrhbOXvLLp0xZT4oRtoCRsPh3FvKp9vE me@here"
# What nobody may share with anybody, a line each.
OWN = """
for kind in ed25519 ecdsa; do sha256sum < /etc/dropbear/$kind; done
hostname
cat /var/lib/paddock/instance-id /proc/sys/kernel/random/boot_id /sys/class/dmi/id/product_uuid
cat /sys/class/net/eth0/address /run/paddock-warm/sample /proc/sys/kernel/random/uuid
tail -c +5 /sys/class/block/sda/device/vpd_pg80; echo
"""
LINES = 10
# A program that init keeps running, with randomness of its own, seeded once when it begins. It says which process drew.
GENERATOR = """srand; $| = 1; open(my $out, ">>", "/run/drawn");
select($out); $| = 1; while (1) { print "$$ ", int(rand 2**48), "\\n"; select(undef, undef, undef, 0.2) }
"""
DRAWN = 10  # numbers that are compared, at least


def with_generator(directory: Path) -> ImageManifest:
    """`tiny` whose init runs that program besides, in `directory`."""
    built, raw = built_image("tiny"), directory / "raw"
    directory.mkdir()
    (directory / "generator").write_text(GENERATOR)
    run = ["qemu-img", "convert", "-O", "raw", str(built.file(Role.DISK)), str(raw)]
    subprocess.run(run, check=True, timeout=60)
    subprocess.run(["debugfs", "-R", f"dump /etc/inittab {directory}/inittab", str(raw)], check=True, timeout=60)
    with (directory / "inittab").open("a") as inittab:
        inittab.write("::respawn:/usr/bin/perl /etc/generator\n")
    commands = f"rm /etc/inittab\nwrite {directory}/inittab /etc/inittab\nwrite {directory}/generator /etc/generator\n"
    subprocess.run(["debugfs", "-w", "-f", "-", str(raw)], input=commands.encode(), check=True, timeout=60)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(directory / "disk")], check=True, timeout=60)
    for role in (Role.KERNEL, Role.INITRD):
        shutil.copy(built.file(role), directory / role)
    parts = tuple(described(directory, role) for role in (Role.DISK, Role.KERNEL, Role.INITRD))
    return built.manifest.model_copy(update={"name": "tiny-generator", "files": parts})


class Warm:
    """A node with a warm image of `tiny`, and machines that may begin from it."""

    def __init__(self, node: Node, image: ImageManifest, source: Path) -> None:
        self.node, self.image = node, image
        assert bring(node.host, image, source).done

    def define(self, name: str = "web-1", **changes: object) -> Machine:
        uuid = uuid4()
        network = self.node.define().network
        about: dict[str, object] = {
            "uuid": uuid, "name": name, "cpus": 1, "memory_mib": 128, "layout": 2, "max_cpus": 4, "warm": "public",
            "seed": Seed(instance_id=str(uuid), hostname=name, ssh_keys=(KEY,)),
            "network": network.model_copy(update={"mac": f"52:54:00:{uuid.hex[:2]}:{uuid.hex[2:4]}:01"}),
        }  # fmt: skip
        return self.node.define(self.image, **{**about, **changes})

    def start(self, machine: Machine) -> Start:
        self.node.host.machines.power(machine.uuid, Power.ON, 1)
        return self.node.host.machines.state(machine.uuid).began

    def begun(self, name: str = "web-1", **changes: object) -> Machine:
        """A machine that began from the warm image, and can be used."""
        machine = self.define(name, **changes)
        assert self.start(machine) == Start(warm=True)
        self.until_ready(machine)
        return machine

    def until_ready(self, machine: Machine) -> None:
        until(lambda: {"ssh", "agent"} <= set(self.node.host.machines.readiness(machine.uuid).by), 90)

    def answers(self, machine: Machine) -> bool:
        return "agent" in self.node.host.machines.readiness(machine.uuid).by

    def sh(self, machine: Machine, script: str) -> str:
        result = self.node.host.guest.exec(machine.uuid, ("/bin/sh", "-c", script), "", 60)
        assert result.exit_code == 0, (script, result)
        return result.stdout.strip()

    def drawn(self, machine: Machine) -> set[str]:
        """What the process that draws there now has drawn since it began: ten numbers and more. One that was killed has
        no program, and is there until init looks."""
        own = '! [ -e /proc/$process/exe ] || grep "^$process " /run/drawn'
        of_now = f"tail -n 1 /run/drawn | {{ read -r process _; {own}; }}"
        found: list[str] = []

        def enough() -> bool:
            found[:] = [line.split()[1] for line in self.sh(machine, of_now).splitlines()]
            return len(found) >= DRAWN

        until(enough, 60)
        return set(found)

    def off(self, machine: Machine) -> None:
        self.node.host.machines.power(machine.uuid, Power.OFF, 1)

    def chosen(self, machine: Machine) -> tuple[object, str]:
        """What it would begin from, or why not."""
        return self.node.host.warm.choose(machine, MachineDir(self.node.directory(machine)), paused=False)

    def made(self, machine: Machine) -> WarmImage:
        """The warm image that the machine could begin from."""
        deadline = clock.monotonic() + 180
        while not self.node.host.warm.make_warm(machine).done:
            assert clock.monotonic() < deadline, "it is not made in time"
            clock.sleep(0.1)
        return next(w for w in self.images() if w.memory_mib == machine.memory_mib and w.scope == machine.warm)

    def images(self) -> list[WarmImage]:
        return [w for w in self.node.host.warm.warm_images() if w.image == self.image.sha256 and not w.making]

    def directory(self, image: WarmImage) -> WarmDir:
        return WarmDir(self.node.state / "warm" / image.id)


@contextlib.contextmanager
def warm_node(source: Path) -> Iterator[Warm]:
    """A node with a warm image of `tiny` and its generator, which are made in `source`."""
    node = Node()
    try:
        warm = Warm(node, with_generator(source), source)
        warm.made(warm.define("first"))
        yield warm
    finally:
        node.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with warm_node(tmp_path_factory.mktemp("warm") / "source") as warm:
        yield warm


@pytest.fixture
def warm(shared: Warm) -> Iterator[Warm]:
    yield from prepared(shared)


def prepared(shared: Warm) -> Iterator[Warm]:
    """It, with the warm image, looked through if need be; and without machines afterwards."""
    before = shared.define("before")
    shared.made(before)
    until(lambda: bool(shared.chosen(before)[0]), 60)
    yield shared
    for name in [d.name for d in (shared.node.state / "machines").iterdir()]:
        shared.node.host.machines.remove(UUID(name), 99)


def test_twenty_of_them_share_nothing(warm: Warm) -> None:
    machines = [warm.begun(f"web-{n}") for n in range(CLONES)]
    own = [warm.sh(machine, OWN).splitlines() for machine in machines]
    assert [len(lines) for lines in own] == [LINES] * CLONES
    for one, other in itertools.combinations(own, 2):
        assert not set(one) & set(other)
    drawn = [warm.drawn(machine) for machine in machines]
    for numbers, others in itertools.combinations(drawn, 2):
        assert not numbers & others


def test_guests_that_draw_the_same_numbers_are_never_used(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do where the kernel does not use what it is given."""
    script = (files("paddock.hypervisor.qemu.warm") / "settle").read_text()
    deaf = re.sub(r"ioctl\(\$random, [^\n]*\n", "1;\n", script)
    assert deaf.count("ioctl(") == script.count("ioctl(") - 2
    monkeypatch.setattr(warm_guest, "script", lambda: deaf)
    machine = warm.define(memory_mib=160)
    assert warm.start(machine).why.startswith("there is no warm image")
    with pytest.raises(Refused, match="drew the same random numbers"):
        warm.made(machine)
    assert "drew the same random numbers" in warm.start(warm.define(memory_mib=160)).why
    for note in [w.id for w in warm.images() if w.unusable]:
        warm.node.host.warm.remove_warm(note)


def test_it_is_what_it_was_asked_to_be(warm: Warm) -> None:
    volume = Volume(uuid=uuid4(), size=16 * MIB)
    warm.node.host.volumes.ensure_volume(volume, 1)
    script = "#!/bin/sh\necho ran >> /root/ran\n"
    attached = (Attached(volume=volume.uuid, serial="1234"),)
    larger = warm.image.disk_size + 64 * MIB
    machine = warm.begun(
        "web-9", volumes=attached, seed=Seed(instance_id="i-9", hostname="web-9", ssh_keys=(KEY,), user_data=script),
        system_disk=warm.define().system_disk.model_copy(update={"size": larger}),
    )  # fmt: skip
    until(lambda: "paddock-tiny: ready" in warm.node.host.streams.console_log(machine.uuid, 4000), 60)
    assert warm.sh(machine, "hostname; cat /root/ran /root/.ssh/authorized_keys") == f"web-9\nran\n{KEY}"
    assert warm.sh(machine, "cat /sys/class/block/sda/size") == str(larger // 512)
    assert int(warm.sh(machine, "df -k / | tail -1 | awk '{print $2}'")) * 1024 > warm.image.disk_size
    assert warm.sh(machine, "ls /dev/disk/by-id") == "scsi-0HC_Volume_1234"
    assert warm.sh(machine, "ip -4 addr show eth0 | grep -c inet") == "1"
    assert abs(int(warm.sh(machine, "date +%s")) - clock.now().timestamp()) < 10
    assert warm.node.host.machines.adapt(machine.uuid, 1).pending == ()
    warm.sh(machine, "sync")

    warm.off(machine)  # from now on it is like any other
    assert warm.start(machine) == Start()
    warm.until_ready(machine)
    until(lambda: "paddock-tiny: ready" in warm.node.host.streams.console_log(machine.uuid, 4000), 60)
    assert (
        warm.sh(machine, "hostname; cat /root/ran; cat /sys/class/dmi/id/product_uuid") == f"web-9\nran\n{machine.uuid}"
    )


def test_ssh_does_not_answer_before_it_has_keys_of_its_own(warm: Warm) -> None:
    """The warm image's SSH server would, if anything could reach it."""
    machine = warm.define()
    warm.start(machine)
    network = machine.network
    until(lambda: ssh_banner(network.ssh_address, network.ssh_port, 1), 60)
    known = warm.sh(machine, "dropbearkey -y -f /etc/dropbear/ed25519 | grep ^ssh-")
    scan = ["ssh-keyscan", "-t", "ed25519", "-p", str(network.ssh_port), network.ssh_address]
    shown = subprocess.run(scan, capture_output=True, text=True, timeout=60, check=True).stdout
    assert shown.split()[2] == known.split()[1]


def test_it_grows_while_it_runs_and_when_it_is_off(warm: Warm) -> None:
    like: dict[str, Any] = {"memory_mib": 256, "max_memory_mib": 1024}
    image = warm.made(warm.define(**like))
    machine = warm.begun(**like)
    warm.node.host.warm.remove_warm(image.id)  # others count on one
    larger = machine.model_copy(update={"cpus": 2, "memory_mib": 384})
    warm.node.host.machines.ensure(larger, 1)
    assert warm.node.host.machines.adapt(machine.uuid, 1).pending == ()
    before = int(warm.sh(machine, "awk '/MemTotal/ {print $2}' /proc/meminfo"))
    assert before > 256 * 1024
    assert warm.sh(machine, "nproc") == "2"
    warm.off(machine)
    smaller = machine.model_copy(update={"cpus": 3, "memory_mib": 192})
    warm.node.host.machines.ensure(smaller, 1)
    assert warm.start(machine) == Start()
    warm.until_ready(machine)
    assert warm.sh(machine, "nproc") == "3"
    assert int(warm.sh(machine, "awk '/MemTotal/ {print $2}' /proc/meminfo")) < 192 * 1024


def test_asleep_and_awake(warm: Warm) -> None:
    machine = warm.begun()
    boot = warm.sh(machine, "cat /proc/sys/kernel/random/boot_id; echo kept > /run/kept")
    until(lambda: warm.node.host.machines.hibernate(machine.uuid, 1).done, 60)
    assert warm.node.host.machines.state(machine.uuid).phase is Phase.HIBERNATED
    warm.node.restart()
    warm.node.host.machines.power(machine.uuid, Power.ON, 1)
    assert warm.node.host.machines.state(machine.uuid).cold_start == ""
    until(lambda: "agent" in warm.node.host.machines.readiness(machine.uuid).by, 60)
    assert warm.sh(machine, "cat /run/kept /proc/sys/kernel/random/boot_id") == f"kept\n{boot}"


@pytest.mark.parametrize("running", [True, False])
def test_a_snapshot_has_all_of_its_disk(warm: Warm, running: bool, tmp_path: Path) -> None:
    machine = warm.begun()
    warm.sh(machine, "echo written > /root/written; sync")
    if not running:
        warm.off(machine)
    target, snapshot = tmp_path / "snapshot", uuid4()
    until(lambda: warm.node.host.disks.snapshot(machine.uuid, snapshot, str(target), 1).done, 60)
    assert not disks.header(target).other_files
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(target), str(raw)], check=True, timeout=60)
    for path in ("/root/written", "/etc/hostname", "/etc/generator"):
        said = subprocess.run(["debugfs", "-R", f"cat {path}", str(raw)], capture_output=True, timeout=60, check=True)
        assert said.stdout.strip(), path


def test_rebuilt_it_begins_from_the_warm_image_again(warm: Warm) -> None:
    machine = warm.begun()
    warm.sh(machine, "echo mine > /root/mine; sync")
    warm.off(machine)
    again = machine.model_copy(update={"system_disk": machine.system_disk.model_copy(update={"generation": 1})})
    warm.node.host.disks.ensure_disk(again.uuid, again.system_disk, 2)
    warm.node.host.machines.ensure(again, 2)
    assert warm.start(again) == Start(warm=True)
    warm.until_ready(again)
    assert warm.sh(again, "ls /root") == ""


def test_its_warm_image_is_removed_while_it_runs(warm: Warm) -> None:
    machine = warm.begun()
    [image] = warm.images()
    directory = warm.directory(image)
    warm.node.host.warm.remove_warm(image.id)
    assert warm.images() == []
    assert sorted(p.name for p in directory.root.iterdir()) == ["system.qcow2", "used"]
    assert warm.sh(machine, "find / -xdev -type f -exec cat {} + | wc -c")  # all of its memory and disk can be read
    warm.off(machine)
    assert warm.start(machine) == Start()
    warm.until_ready(machine)
    assert warm.start(warm.define("late")).why.startswith("there is no warm image of tiny-generator with 1 CPUs")
    warm.node.host.machines.remove(machine.uuid, 2)
    assert not directory.root.exists()


@pytest.mark.parametrize("part", ["ram", "devices", "system.qcow2"])
def test_a_damaged_one_is_not_used(warm: Warm, part: str) -> None:
    [image] = warm.images()
    path = warm.directory(image).root / part
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"damaged")
    machine = warm.define()
    assert warm.start(machine).why == "its warm image is being checked"
    until(lambda: warm.images() == [])
    warm.until_ready(machine)  # it booted


def test_a_node_that_was_restarted_checks_it_first(warm: Warm) -> None:
    warm.node.restart()
    assert warm.start(warm.define()).why == "its warm image is being checked"
    until(lambda: warm.start(warm.define()).warm, 60)


def test_a_qemu_that_does_not_take_it_boots_instead(warm: Warm) -> None:
    """The warm image is whole, and QEMU can't read it all the same."""
    [image] = warm.images()
    store, directory = warm.node.host.warm.store, warm.directory(image)
    record = store.read(image.id)
    assert record
    (directory.root / record.way.state).write_bytes(b"nothing that QEMU knows" * 1000)
    store.trust(record)
    machine = warm.define()
    began = warm.start(machine)
    assert began.why.startswith("its warm image could not be used: ")
    assert disks.warm_of(MachineDir(warm.node.directory(machine)).root) == ""
    warm.until_ready(machine)
    warm.node.host.warm.remove_warm(image.id)


def test_what_is_another_one(warm: Warm) -> None:
    """CPUs, memory, kernel arguments and whose it is: each is another warm image."""
    for changes in ({"cpus": 2}, {"memory_mib": 192}, {"kernel_args": "quiet"}, {"warm": "project-1"}, {"layout": 1}):
        machine = warm.define(**changes)
        warm.node.host.machines.power(machine.uuid, Power.ON, 1)
        assert warm.node.host.machines.state(machine.uuid).began.why.startswith("there is no warm image"), changes
        warm.off(machine)


def test_why_not(warm: Warm) -> None:
    seed = Seed(instance_id="i", hostname="h")
    for changes, why in (
        ({"warm": ""}, "it was not asked for"),
        ({"huge_pages": True}, "its memory is in huge pages"),
        ({"seed": seed.model_copy(update={"user_data": "#cloud-config\nssh_keys: {}\n"})}, "its user data says"),
        ({"seed": seed.model_copy(update={"user_data": "#" * 300_000})}, "its user data is larger"),
    ):  # fmt: skip
        machine = warm.define(**changes)
        record, said = warm.chosen(machine)
        assert record is None, why
        assert said.startswith(why)
