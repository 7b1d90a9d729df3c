"""Volumes, ISOs, CPUs and memory that come and go while a real guest runs, and the rescue system, with `tiny`."""

import io
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pycdlib
import pytest

from paddock.base import clock
from paddock.hypervisor.qemu import cmdline
from paddock.hypervisor.qemu.live import GUEST_SHUTDOWN, RESCUE_LEFT
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import MIB, Attached, Machine, Power, Rescue, Volume
from paddock.machine.state import Adapted, Phase
from tests.guests.qemu_node import Node, until
from tests.hypervisor.qemu.machines import bring, described
from tests.support_images import built_image

pytestmark = [pytest.mark.guest, pytest.mark.slow]

BOOTED = b"the CD was booted\r\n\0"
# Sixteen-bit code that writes what follows it to the first serial port, and halts.
BOOT_CODE = bytes.fromhex("fc31c08ed8be167cbaf803ac84c07403eeebf8f4ebfd") + BOOTED


class Running:
    """A `tiny` guest that runs, with room for more."""

    def __init__(self, node: Node, **changes: object) -> None:
        self.node = node
        built = built_image("tiny")
        assert bring(node.host, built.manifest, built.directory).done
        room = {"layout": 2, "max_cpus": 4, "max_memory_mib": 1024, "cpus": 1, "memory_mib": 256}
        self.machine = node.define(built.manifest, **{**room, **changes})
        self.on()

    def on(self) -> None:
        self.power(Power.ON)
        self.wait()

    def wait(self) -> None:
        until(lambda: "agent" in self.node.host.machines.readiness(self.machine.uuid).by, 90)

    def power(self, power: Power) -> None:
        self.node.host.machines.power(self.machine.uuid, power, 1)

    def define(self, **changes: object) -> None:
        self.machine = self.machine.model_copy(update=changes)
        self.node.host.machines.ensure(self.machine, 1)

    def become(self, **changes: object) -> Adapted:
        self.define(**changes)
        return self.node.host.machines.adapt(self.machine.uuid, 1)

    def sh(self, script: str) -> str:
        result = self.node.host.guest.exec(self.machine.uuid, ("/bin/sh", "-c", script), "", 30)
        assert result.exit_code == 0, (script, result)
        return result.stdout.strip()

    def disk(self, serial: str) -> str:
        """The guest's name of the volume with that serial; empty when it sees none."""
        look = (
            'for d in /sys/block/sd*; do [ "$(cat $d/device/vendor $d/device/model | tr -d " \\n")" = HCVolume ]'
            ' && tail -c +5 $d/device/vpd_pg80 | grep -q "^%s$" && echo ${d##*/}; done; true'
        )
        return self.sh(look % serial)

    def settle(self) -> None:
        self.node.host.machines.power(self.machine.uuid, Power.OFF, 1)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


@pytest.fixture(scope="module")
def shared(node: Node) -> Running:
    return Running(node)


@pytest.fixture
def guest(shared: Running) -> Running:
    """Booted once for all of these, and started anew after one that switched it off."""
    if shared.node.host.machines.state(shared.machine.uuid).phase != Phase.RUNNING:
        shared.define(rescue=None, iso=None, volumes=())
        shared.on()
    return shared


def made_volume(node: Node, size: int = 64 * MIB, **changes: object) -> Volume:
    volume = Volume.model_validate({"uuid": uuid4(), "size": size, **changes})
    node.host.volumes.ensure_volume(volume, 1)
    return volume


def made_iso(node: Node, name: str, code: bytes = b"") -> ImageManifest:
    """An ISO with a file that says its name, and that boots when there is code for that."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident=name.upper(), rock_ridge="1.09")
    iso.add_fp(io.BytesIO(name.encode()), len(name), "/NAME.;1", rr_name="name")
    if code:
        iso.add_fp(io.BytesIO(code.ljust(2048, b"\0")), 2048, "/BOOT.;1", rr_name="boot")
        iso.add_eltorito("/BOOT.;1", bootcatfile="/BOOT.CAT;1", rr_bootcatname="boot.cat")
    source = node.root / f"source-{name}"
    source.mkdir()
    iso.write(str(source / Role.ISO))
    iso.close()
    manifest = ImageManifest(name=name, disk_size=0, files=(described(source, Role.ISO),))
    assert bring(node.host, manifest, source).done
    return manifest


def test_a_volume_goes_from_one_guest_to_another_with_its_data(guest: Running) -> None:
    volume = made_volume(guest.node, format="ext4")
    attached = Attached(volume=volume.uuid, serial="4711")
    assert guest.become(volumes=(attached,)) == Adapted()
    until(lambda: guest.disk("4711") != "")
    guest.sh(f"mount -t ext4 /dev/{guest.disk('4711')} /mnt && echo precious > /mnt/it && umount /mnt")
    assert guest.become(volumes=()) == Adapted()
    until(lambda: guest.disk("4711") == "")
    other = Running(guest.node, volumes=(attached,))  # this one has it from its start on
    try:
        until(lambda: other.disk("4711") != "")
        assert other.sh(f"mount -t ext4 /dev/{other.disk('4711')} /mnt && cat /mnt/it && umount /mnt") == "precious"
        other.become(volumes=())
        guest.become(volumes=(attached,))
        until(lambda: guest.disk("4711") != "")
        assert guest.sh(f"mount -t ext4 /dev/{guest.disk('4711')} /mnt && cat /mnt/it && umount /mnt") == "precious"
    finally:
        guest.become(volumes=())
        guest.node.host.machines.remove(other.machine.uuid, 1)
    guest.node.host.volumes.remove_volume(volume.uuid, 1)


def test_a_volume_grows_under_a_mounted_file_system(guest: Running) -> None:
    volume = made_volume(guest.node, format="ext4")
    guest.become(volumes=(Attached(volume=volume.uuid, serial="9"),))
    until(lambda: guest.disk("9") != "")
    disk = guest.disk("9")
    guest.sh(f"mount -t ext4 /dev/{disk} /mnt && echo precious > /mnt/it && sync")
    guest.node.host.volumes.ensure_volume(volume.model_copy(update={"size": 128 * MIB}), 1)
    until(lambda: guest.sh(f"cat /sys/block/{disk}/size") == str(128 * MIB // 512))
    guest.sh(f"resize2fs /dev/{disk} > /tmp/grown 2>&1")
    assert int(guest.sh("df -m /mnt | tail -1 | awk '{ print $2 }'")) > 100
    assert guest.sh("cat /mnt/it && umount /mnt") == "precious"
    guest.become(volumes=())


def test_a_cd_comes_and_goes(guest: Running) -> None:
    first, second = made_iso(guest.node, "first"), made_iso(guest.node, "second")

    def seen() -> str:
        return guest.sh(
            "for d in /dev/sr*; do mount -r -t iso9660 $d /mnt && cat /mnt/name; umount /mnt; done 2> /dev/null; true"
        )

    assert guest.become(iso=first.sha256) == Adapted()
    until(lambda: seen() == "first")
    guest.sh("mount -r -t iso9660 /dev/sr0 /mnt || mount -r -t iso9660 /dev/sr1 /mnt")  # and locked, as mounted CDs are
    assert guest.become(iso=second.sha256) == Adapted()
    guest.sh("umount /mnt")
    until(lambda: seen() == "second")
    assert guest.become(iso=None) == Adapted()
    until(lambda: seen() == "")


def test_cpus_come_online(guest: Running) -> None:
    online = "cat /sys/devices/system/cpu/online"
    assert guest.sh(online) == "0"
    assert guest.become(cpus=3) == Adapted()
    assert guest.sh(online) == "0-2"
    assert guest.become(cpus=2).pending == ("it has 3 CPUs, and 2 from its next start on",)
    assert guest.become(cpus=3) == Adapted()
    assert guest.become(cpus=9).pending[0] == "it has 4 CPUs, and 9 from its next start on"
    guest.define(cpus=4)


def test_memory_comes_online(guest: Running) -> None:
    total = "awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo"
    before = int(guest.sh(total))
    assert guest.become(memory_mib=512) == Adapted()
    assert int(guest.sh(total)) >= before + 250
    assert guest.become(memory_mib=640) == Adapted()  # a second time
    assert int(guest.sh(total)) >= before + 375
    pending = guest.become(memory_mib=700).pending
    assert pending == ("it has 640 MiB of memory, and 700 from its next start on",)
    pending = guest.become(memory_mib=2048).pending
    assert pending[0].startswith("it has 640 MiB of memory, and 2048 from its next start on (")
    assert guest.become(memory_mib=256).pending == ("it has 640 MiB of memory, and 256 from its next start on",)


def rescued(guest: Running) -> None:
    """Switched off, if it is on, and on again into a rescue system: `tiny` too, with a word in its command line."""
    tiny = built_image("tiny")
    files = tuple(f for f in tiny.manifest.files if f.role in (Role.KERNEL, Role.INITRD))
    rescue = tiny.manifest.model_copy(
        update={"name": "rescue", "disk_size": 0, "files": files, "cmdline": f"{tiny.manifest.cmdline} rescued"}
    )
    assert bring(guest.node.host, rescue, tiny.directory).done
    guest.settle()
    guest.define(iso=None, volumes=(), rescue=Rescue(image=rescue.sha256, ssh_keys=("ssh-ed25519 AAAAC3Nza rescuer",)))
    guest.on()
    assert "rescued" in guest.sh("cat /proc/cmdline")
    assert guest.sh("hostname") == "rescue"
    assert "rescuer" in guest.sh("cat /root/.ssh/authorized_keys")
    pending = guest.become(rescue=None).pending
    assert "it is in its rescue system still" in pending


def is_out(guest: Running) -> bool:
    return guest.node.host.machines.state(guest.machine.uuid).phase == Phase.OFF


def test_the_rescue_system_and_back(shared: Running) -> None:
    guest = shared
    rescued(guest)
    guest.power(Power.REBOOT)
    until(lambda: is_out(guest), 40)
    for _ in range(2):  # and after a restart of ours too
        state = guest.node.host.machines.state(guest.machine.uuid)
        assert (state.rebooting, state.reason) == (True, RESCUE_LEFT)
        guest.node.restart()
    guest.on()
    assert not guest.node.host.machines.state(guest.machine.uuid).rebooting
    assert "rescued" not in guest.sh("cat /proc/cmdline")
    assert guest.sh("hostname") == "web-1"
    assert cmdline.RESET_ENDS not in guest.node.host.machines.running(guest.machine.uuid).process.words()


@pytest.mark.parametrize(("command", "rebooting"), [("reboot", True), ("poweroff", False)])
def test_how_a_rescue_system_ended_while_nobody_listened(shared: Running, command: str, rebooting: bool) -> None:
    guest = shared
    rescued(guest)
    log = guest.node.directory(guest.machine) / "serial.log"
    before = log.stat().st_size
    guest.sh(f"(sleep 1; {command}) > /dev/null 2>&1 &")
    guest.node.host.close()
    last_words = b"reboot: Restarting system" if rebooting else b"reboot: Power down"
    until(lambda: last_words in log.read_bytes()[before:], 60)
    clock.sleep(1)
    guest.node.restart()
    until(lambda: is_out(guest), 30)
    state = guest.node.host.machines.state(guest.machine.uuid)
    assert (state.rebooting, state.reason) == (rebooting, RESCUE_LEFT if rebooting else GUEST_SHUTDOWN)
    guest.power(Power.OFF)
    assert not guest.node.host.machines.state(guest.machine.uuid).rebooting


def test_the_reset_button_leads_out_of_the_rescue_system(shared: Running) -> None:
    guest = shared
    rescued(guest)
    guest.power(Power.RESET)
    until(lambda: is_out(guest))
    assert guest.node.host.machines.state(guest.machine.uuid).rebooting


def _log(node: Node, machine: Machine) -> bytes:
    return (node.directory(machine) / "serial.log").read_bytes()


def test_the_bios_boots_a_cd_before_the_disk(node: Node) -> None:
    iso = made_iso(node, "boots", BOOT_CODE)
    there = node.define(layout=2, iso=iso.sha256)
    node.host.machines.power(there.uuid, Power.ON, 1)
    until(lambda: BOOTED[:-1] in _log(node, there), 30)
    node.host.machines.remove(there.uuid, 1)
    later = node.define(layout=2)
    node.host.machines.power(later.uuid, Power.ON, 1)
    clock.sleep(2)
    assert BOOTED[:-1] not in _log(node, later)
    node.host.machines.ensure(later.model_copy(update={"iso": iso.sha256}), 1)
    node.host.machines.adapt(later.uuid, 1)
    node.host.machines.power(later.uuid, Power.RESET, 1)
    until(lambda: _log(node, later).count(BOOTED[:-1]) == 1, 30)
    node.host.machines.ensure(later, 1)
    node.host.machines.adapt(later.uuid, 1)
    node.host.machines.power(later.uuid, Power.RESET, 1)
    clock.sleep(3)
    assert _log(node, later).count(BOOTED[:-1]) == 1


def test_a_kernel_of_its_own_comes_before_a_cd(guest: Running) -> None:
    iso = made_iso(guest.node, "ignored", BOOT_CODE)
    guest.settle()
    guest.define(iso=iso.sha256)
    guest.on()
    guest.become(iso=None)


def test_files_are_not_left_behind(node: Node) -> None:
    assert not [p for p in Path(node.state / "volumes").iterdir() if p.name.startswith(".")]
