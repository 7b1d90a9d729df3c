"""Warm images of the QEMU driver, as far as no guest is needed: what is refused, and what was chosen for the node."""

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.base import clock
from paddock.base.errors import Conflict, DiskFull, NotFound, Refused, Unavailable
from paddock.hypervisor.qemu import files, process
from paddock.hypervisor.qemu.binary import find_binary
from paddock.hypervisor.qemu.cmdline import Warm, command_line
from paddock.hypervisor.qemu.disks import is_fresh, make_over, use, warm_of
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.hypervisor.qemu.record import Run, write_run
from paddock.hypervisor.qemu.warm.key import key_of
from paddock.hypervisor.qemu.warm.store import SEEN_SECONDS, Record
from paddock.hypervisor.qemu.warm.ways import COPIED, IGNORE_SHARED, MAPPED_RAM, SHARED, way_of
from paddock.machine.image import ImageManifest
from paddock.machine.spec import MIB, Machine, Rescue
from paddock.machine.state import Accelerator, Phase
from paddock.machine.warm import why_not
from tests.hypervisor.qemu.machines import bring, make_image, make_machine

ABLE = {"guest_agent": True, "cloud_init": True}
KEYS = "#cloud-config\nssh_keys: {ed25519_private: x}\n"


@pytest.fixture
def manifest(tmp_path: Path) -> ImageManifest:
    return make_image(tmp_path / "source").model_copy(update=ABLE)


def wanted(manifest: ImageManifest, **more: object) -> Machine:
    return make_machine(manifest).model_copy(update={"warm": "public", **more})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"warm": ""}, "it was not asked for"),
        ({"warm": "", "firmware": "uefi"}, "it was not asked for"),
        ({"rescue": Rescue(image="0" * 64)}, "it boots its rescue system"),
        ({"iso": "0" * 64}, "it boots from a CD"),
        ({"iso": "0" * 64, "iso_first": False}, ""),
        ({"firmware": "uefi"}, "it boots by UEFI"),
        ({"huge_pages": True}, "its memory is in huge pages"),
    ],
)
def test_why_a_machine_boots(manifest: ImageManifest, change: dict[str, object], why: str) -> None:
    assert why_not(wanted(manifest, **change), manifest) == why


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"guest_agent": False}, "image empty has no guest agent"),
        ({"cloud_init": False}, "image empty has no cloud-init"),
        ({"cloud_init": False, "direct_boot": True}, ""),
    ],
)
def test_why_an_image_is_never_warm(manifest: ImageManifest, change: dict[str, object], why: str) -> None:
    image = manifest.model_copy(update=change)
    assert why_not(wanted(image), image) == why


def test_whoever_brings_host_keys_waits_for_cloud_init(manifest: ImageManifest) -> None:
    machine = wanted(manifest)
    with_keys = machine.model_copy(update={"seed": machine.seed.model_copy(update={"user_data": KEYS})})
    assert why_not(with_keys, manifest) == "its user data says what host keys it has"
    assert why_not(machine, manifest, paused=True) == "its guest's CPUs were to stand still"


def test_what_can_not_be_made_is_refused_at_once(host: QemuHypervisor, image: ImageManifest) -> None:
    with pytest.raises(Refused, match="image empty can't be warm: image empty has no guest agent"):
        host.warm.make_warm(wanted(image))
    with pytest.raises(NotFound):
        host.warm.make_warm(wanted(image, image="0" * 64))
    host.warm.remove_warm("0" * 32)
    assert host.warm.warm_images() == ()


def test_a_node_keeps_to_what_was_chosen_for_it(tmp_path: Path) -> None:
    host = QemuHypervisor(tmp_path / "state", "tcg", warm="never", warm_budget=3 * MIB)
    try:
        assert (host.warm.policy, host.warm.store.budget) == ("never", 3 * MIB)
    finally:
        host.close()


def kept(host: QemuHypervisor, image: ImageManifest, minutes: int = 0, **more: object) -> Record:
    """What a node would keep, without a guest in it, made so many minutes ago."""
    key = key_of(wanted(image, **more), image, find_binary(), Accelerator.TCG)
    made = clock.now() - timedelta(minutes=minutes)
    record = Record(id=f"{key.id}-1", key=key, name=image.name, made=made)
    directory = host.warm.store._layout.warm_image(record.id)
    directory.root.mkdir()
    make_over(directory, f"../../images/{image.sha256}/disk", image.disk_size)
    directory.record.write_text(record.model_dump_json())
    return record


def test_what_an_earlier_process_was_making_is_removed(tmp_path: Path) -> None:
    QemuHypervisor(tmp_path / "state", "tcg").close()
    rest = tmp_path / "state/warm/.abc-1"
    rest.mkdir()
    (rest / "ram").write_bytes(bytes(MIB))
    note, old = (tmp_path / f"state/warm/.seen-{name}" for name in ("abc", "def"))
    for path in (note, old):
        path.touch()
    long_ago = clock.now().timestamp() - SEEN_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    QemuHypervisor(tmp_path / "state", "tcg").close()
    assert not rest.exists()
    assert note.exists()
    assert not old.exists()


def test_a_use_long_ago_is_none(host: QemuHypervisor, image: ImageManifest) -> None:
    store, key = host.warm.store, key_of(wanted(image), image, find_binary(), Accelerator.TCG)
    assert not store.seen(key)
    assert store.seen(key)
    long_ago = clock.now().timestamp() - SEEN_SECONDS - 60
    os.utime(store._layout.warm / f".seen-{key.id}", (long_ago, long_ago))
    assert not store.seen(key)


def sized(host: QemuHypervisor, record: Record, size: int) -> Record:
    """With memory of that size."""
    host.warm.store._layout.warm_image(record.id).ram.write_bytes(b"\1" * size)
    return record


def test_the_least_recently_used_make_room(host: QemuHypervisor, image: ImageManifest) -> None:
    store = host.warm.store
    old, used, new = (sized(host, kept(host, image, minutes, cpus=n), MIB) for n, minutes in enumerate((30, 20, 10), 1))
    store.note_use(used.id)
    each = max(image.size for image in store.images())
    store.budget = 3 * each
    store.make_room(0)
    assert len(store.images()) == 3
    store.make_room(each)
    assert {image.id for image in store.images()} == {used.id, new.id}  # a new one is not the first to go
    store.budget = each
    store.make_room(0, keep=new.id)
    assert [image.id for image in store.images()] == [new.id]
    with pytest.raises(DiskFull, match="raise warm_budget_gib"):
        store.make_room(each + 1)
    assert not store._layout.warm_image(old.id).root.exists()


def test_a_disk_that_can_not_be_put_in_place_is_as_it_was(host: QemuHypervisor, image: ImageManifest) -> None:
    record, machine = kept(host, image), wanted(image)
    host.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
    host.machines.ensure(machine, 1)
    directory = host.machines.directory(machine.uuid)
    before = directory.system_disk.read_bytes()
    lock = files.take_lock(directory.lock)
    assert lock is not None
    try:
        with pytest.raises(Conflict):
            host.warm.store.stand_on(record, directory, image.disk_size)
    finally:
        os.close(lock)
    assert warm_of(directory.root) == ""
    assert directory.system_disk.read_bytes() == before


@pytest.mark.parametrize("same_boot", [True, False])
def test_who_was_nobody_yet_when_the_node_agent_ended(tmp_path: Path, same_boot: bool) -> None:
    """It begins anew; but after a restart of the host its record may be older than its disk."""
    host = QemuHypervisor(tmp_path / "state", "tcg")
    image = make_image(tmp_path / "source")
    assert bring(host, image, tmp_path / "source").done
    machine = make_machine(image)
    host.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
    host.machines.ensure(machine, 1)
    directory = host.machines.directory(machine.uuid)
    use(directory)
    boot = process.boot_id() if same_boot else "another"
    write_run(directory, Run(phase=Phase.RUNNING, pid=1, boot_id=boot, warm="x-1", unborn=True))
    host.close()
    host = QemuHypervisor(tmp_path / "state", "tcg")
    try:
        state = host.machines.state(machine.uuid)
        assert is_fresh(directory) is same_boot
        assert (state.phase, state.host_restarted) == (Phase.OFF if same_boot else Phase.CRASHED, not same_boot)
    finally:
        host.close()


def test_of_two_ways_the_one_that_shares_is_taken(image: ImageManifest) -> None:
    binary = find_binary()
    assert way_of(binary) is SHARED
    both = replace(binary, migration=frozenset({IGNORE_SHARED, MAPPED_RAM}))
    assert way_of(both) is SHARED
    only = replace(binary, migration=frozenset({MAPPED_RAM}))
    assert way_of(only) is COPIED
    keys = [key_of(wanted(image), image, one, Accelerator.TCG) for one in (both, only)]
    assert keys[0].id != keys[1].id
    with pytest.raises(Refused, match="has neither x-ignore-shared nor mapped-ram"):
        key_of(wanted(image), image, replace(binary, migration=frozenset()), Accelerator.TCG)


def test_what_its_memory_is(image: ImageManifest) -> None:
    """Shared, a file; copied, its own from the start. By the same name, so that one reads what the other wrote."""

    def memory(warm: Warm) -> str:
        words = command_line(make_machine(image), image, find_binary(), Accelerator.TCG, True, warm)
        return next(word for word in words if word.startswith("memory-backend-"))

    assert memory(SHARED.template()) == "memory-backend-file,id=warm0,size=64M,mem-path=ram,share=on"
    assert memory(SHARED.heir("x-1")).startswith(
        "memory-backend-file,id=warm0,size=64M,mem-path=../../warm/x-1/ram,share=off"
    )
    for warm in (COPIED.template(), COPIED.heir("x-1")):
        assert memory(warm) == "memory-backend-ram,id=warm0,size=64M"


@pytest.mark.parametrize(("warm", "cache"), [
    (None, 256), (SHARED.template(), 256), (COPIED.template(), 256), (SHARED.heir("x"), 128), (COPIED.heir("x"), 128),
])  # fmt: skip
def test_whose_guest_has_booted_keeps_less_translated(image: ImageManifest, warm: Warm | None, cache: int) -> None:
    words = command_line(make_machine(image), image, find_binary(), Accelerator.TCG, paused=True, warm=warm)
    assert words[words.index("-accel") + 1] == f"tcg,tb-size={cache}"


def test_a_disk_stays_as_long_as_a_machine_stands_on_it(host: QemuHypervisor, image: ImageManifest) -> None:
    record, machine, late = kept(host, image), wanted(image), wanted(image)
    for one in (machine, late):
        host.disks.ensure_disk(one.uuid, one.system_disk, 1)
        host.machines.ensure(one, 1)
    store, place = host.warm.store, host.machines.directory
    store.stand_on(record, place(machine.uuid), image.disk_size)
    store.remove(record.id)
    assert warm_of(place(machine.uuid).root) == record.id
    assert store._layout.warm_image(record.id).system_disk.exists()
    with pytest.raises(Unavailable, match="removed in this moment"):
        store.stand_on(record, place(late.uuid), image.disk_size)
    assert warm_of(place(late.uuid).root) == ""
    host.machines.remove(machine.uuid, 2)
    assert not store._layout.warm_image(record.id).root.exists()
