"""QEMU's command line, against golden files and against what must never pass."""

import re
from typing import Any
from uuid import UUID, uuid4

import pytest

from paddock.base.errors import Invalid, Refused
from paddock.hypervisor.qemu import devices
from paddock.hypervisor.qemu.binary import version_of
from paddock.hypervisor.qemu.cmdline import Binary, command_line, pretty
from paddock.hypervisor.qemu.scope import scope_command
from paddock.machine.image import ImageFile, ImageManifest, Role
from paddock.machine.spec import Attached, Machine, Rescue
from paddock.machine.state import Accelerator
from tests.hypervisor.qemu.golden import same_as_golden
from tests.hypervisor.qemu.machines import UUID_1, make_machine

BINARY = Binary(
    "/usr/bin/qemu-system-x86_64", "7.2.22", sandbox=True, user_network=True, uefi_code="/usr/share/OVMF/CODE.fd"
)
DISK = ImageFile(role=Role.DISK, sha256="d" * 64, size=1)
KERNEL = ImageFile(role=Role.KERNEL, sha256="a" * 64, size=1)
INITRD = ImageFile(role=Role.INITRD, sha256="b" * 64, size=1)
PLAIN = ImageManifest(name="debian-12", disk_size=512, files=(DISK,))
DIRECT = ImageManifest(
    name="tiny", disk_size=512, files=(DISK, KERNEL, INITRD), direct_boot=True, cmdline="console=ttyS0 root=LABEL=r"
)

ISO = "c" * 64
VOLUMES = (
    Attached(volume=UUID("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"), serial="4711"),
    Attached(volume=UUID("00000000-0000-4000-8000-000000000000"), serial="4712"),
)
ROOM: dict[str, Any] = {"layout": 2, "memory_mib": 256, "max_cpus": 8, "max_memory_mib": 1024}


def words(
    image: ImageManifest = PLAIN, accelerator: Accelerator = Accelerator.TCG, paused: bool = False, **changes: object
) -> list[str]:
    machine = make_machine(image, uuid=UUID_1).model_copy(update=changes)
    return command_line(machine, image, BINARY, accelerator, paused)


@pytest.mark.parametrize(
    ("name", "image", "accelerator", "paused"),
    [
        ("tcg-disk.txt", PLAIN, Accelerator.TCG, False),
        ("kvm-direct-boot.txt", DIRECT, Accelerator.KVM, False),
        ("tcg-paused.txt", PLAIN, Accelerator.TCG, True),
    ],
)
def test_golden(name: str, image: ImageManifest, accelerator: Accelerator, paused: bool) -> None:
    same_as_golden(name, pretty(words(image, accelerator, paused)))


@pytest.mark.parametrize(
    ("name", "image", "changes"),
    [
        ("layout-2.txt", PLAIN, ROOM),
        ("layout-2-all.txt", PLAIN, {**ROOM, "iso": ISO, "volumes": VOLUMES}),
        ("layout-2-direct-boot-iso.txt", DIRECT, {"layout": 2, "iso": ISO}),
        ("layout-1-iso.txt", PLAIN, {"iso": ISO}),
        ("huge-pages-dedicated.txt", PLAIN, {**ROOM, "huge_pages": True, "dedicated_cpus": True}),
        ("uefi.txt", PLAIN, {**ROOM, "firmware": "uefi", "iso": ISO}),
        ("rescue.txt", DIRECT, {**ROOM, "iso": ISO, "volumes": VOLUMES, "rescue": Rescue(image=DIRECT.sha256)}),
    ],
)
def test_golden_of_layout_2(name: str, image: ImageManifest, changes: dict[str, Any]) -> None:
    same_as_golden(name, pretty(words(image, **changes)))


def test_only_who_may_runs_virtual_machines_itself() -> None:
    assert "host" in words(accelerator=Accelerator.KVM, nested=True)
    assert "host,vmx=off,svm=off" in words(accelerator=Accelerator.KVM)


def test_layout_1_has_no_room_whatever_is_said() -> None:
    assert words(**{**ROOM, "layout": 1}) == words(memory_mib=256)


def test_a_small_machine_keeps_its_memory_for_itself() -> None:
    """A guest of 128 MiB does not even boot when Linux sets 64 MiB of it aside."""
    assert "size=255M" in words(**{**ROOM, "memory_mib": 255})
    assert "size=256M,slots=16,maxmem=1024M" in words(**ROOM)


@pytest.mark.parametrize("least", [0, 1, 2])
def test_less_room_than_there_is_already_is_none(least: int) -> None:
    given = words(layout=2, max_cpus=least, max_memory_mib=least)
    assert "cpus=2,sockets=1,cores=2,threads=1" in given
    assert "size=64M" in given


def test_a_rescue_system_is_booted_with_its_kernel_and_seed() -> None:
    rescue = DIRECT.model_copy(update={"direct_boot": False})
    given = words(rescue, rescue=Rescue(image=rescue.sha256))
    assert f"../../images/{rescue.sha256}/kernel" in given
    assert any("filename=rescue.iso" in word for word in given)
    assert not any("filename=seed.iso" in word for word in given)


def test_every_volume_has_a_name_that_qemu_takes() -> None:
    names = {devices.node_name(uuid4()) for _ in range(1000)}
    assert len(names) == 1000
    assert all(re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name) for name in names)


def test_a_direct_boot_without_initrd_and_cmdline_has_neither() -> None:
    image = DIRECT.model_copy(update={"files": (DISK, KERNEL), "cmdline": ""})
    given = words(image)
    assert "-kernel" in given
    assert "-initrd" not in given
    assert "-append" not in given


def test_kernel_arguments_come_after_those_of_the_image() -> None:
    given = words(DIRECT, kernel_args="quiet init=/bin/sh")
    assert given[given.index("-append") + 1] == "console=ttyS0 root=LABEL=r quiet init=/bin/sh"
    given = words(DIRECT.model_copy(update={"cmdline": ""}), kernel_args="quiet")
    assert given[given.index("-append") + 1] == "quiet"
    given = words(DIRECT, kernel_args="quiet", rescue=Rescue(image=DIRECT.sha256))
    assert given[given.index("-append") + 1] == DIRECT.cmdline
    with pytest.raises(Invalid, match="a kernel of its own"):
        words(kernel_args="quiet")


def test_a_cd_is_booted_before_the_disk_or_after_it() -> None:
    def place(**changes: Any) -> str:
        word = next(w for w in words(iso=ISO, **changes) if w.startswith("scsi-cd,id=iso0"))
        return word.partition(",bootindex=")[2]

    assert (place(), place(iso_first=False), place(image=DIRECT)) == ("0", "2", "")


def test_where_there_is_no_uefi_that_is_said() -> None:
    machine = make_machine(PLAIN)
    bare = Binary(BINARY.program, BINARY.version, sandbox=True, user_network=True)
    assert "pflash" not in " ".join(command_line(machine, PLAIN, bare, Accelerator.TCG, False))
    with pytest.raises(Refused, match="no UEFI firmware") as raised:
        command_line(machine.model_copy(update={"firmware": "uefi"}), PLAIN, bare, Accelerator.TCG, False)
    assert "apt-get install ovmf" in raised.value.hint


def test_without_seccomp_there_is_no_sandbox_option() -> None:
    machine = make_machine(PLAIN)
    bare = Binary(BINARY.program, BINARY.version, sandbox=False, user_network=True)
    assert "-sandbox" not in command_line(machine, PLAIN, bare, Accelerator.TCG, False)


@pytest.mark.parametrize(
    ("field", "update"),
    [
        ("mac", {"mac": "52:54:00:12:34:56,romfile=/etc/shadow"}),
        ("ssh_address", {"ssh_address": "127.0.0.1,guestfwd=tcp:10.0.2.1:1-cmd:id"}),
        ("ssh_address", {"ssh_address": "::1"}),
    ],
)
def test_a_value_can_not_become_an_option(field: str, update: dict[str, str]) -> None:
    machine = make_machine(PLAIN)
    with pytest.raises(Invalid) as raised:
        words(network=machine.network.model_copy(update=update))
    assert raised.value.field == field


def test_a_machine_type_can_not_become_an_option() -> None:
    with pytest.raises(Invalid):
        words(machine_type="q35,firmware=/etc/shadow")


def test_a_comma_in_a_name_is_doubled() -> None:
    machine: Machine = make_machine(PLAIN)
    named = machine.model_copy(update={"name": "a,process=evil"})
    assert "guest=a,,process=evil,debug-threads=on" in command_line(named, PLAIN, BINARY, Accelerator.TCG, False)


def test_scope_golden() -> None:
    same_as_golden("systemd-scope.txt", "\n".join(scope_command(UUID_1, "web-1", 4711, user=False)) + "\n")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg)", "7.2.22"),
        ("QEMU emulator version 10.0.2\nCopyright", "10.0.2"),
        ("QEMU emulator version 9.1", "9.1"),
    ],
)
def test_versions(text: str, version: str) -> None:
    assert version_of(text) == version


@pytest.mark.parametrize("text", ["QEMU emulator version 5.2.0", "QEMU emulator version 7.1.99", "hello", ""])
def test_old_or_strange_versions_are_refused(text: str) -> None:
    with pytest.raises(Refused) as raised:
        version_of(text)
    assert "install" in raised.value.hint
