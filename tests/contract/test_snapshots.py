"""Snapshots: a whole disk file of one moment, and nothing left elsewhere."""

from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from paddock.base.errors import NotFound, PaddockError
from paddock.base.run import run
from paddock.hypervisor.base import Hypervisor
from paddock.images.inspect import Format, Found, inspect
from paddock.machine.spec import Power
from paddock.machine.state import Phase
from tests.contract.conftest import Made
from tests.contract.harness import Harness
from tests.contract.specs import IMAGE_SIZE, boot_sector, system_disk


def check_file(harness: Harness, target: Path) -> None:
    """It can be imported, and is the disk."""
    assert inspect(target) == Found(Format.QCOW2, IMAGE_SIZE)
    if harness.real:
        raw = target.with_name("raw")
        run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", target, raw])
        assert raw.read_bytes()[:512] == boot_sector()


@pytest.mark.parametrize("power", [None, Power.ON, Power.ON_PAUSED])
def test_taken_in_any_state(harness: Harness, made: Made, tmp_path: Path, power: Power | None) -> None:
    machine, snapshot, target = made.new(), uuid4(), tmp_path / "snapshot"
    if power:
        harness.hypervisor.machines.power(machine.uuid, power, 1)
    before = harness.hypervisor.machines.state(machine.uuid).phase
    taken = harness.snapshot(machine.uuid, snapshot, target)
    assert not taken.error
    assert taken.frozen != bool(taken.not_frozen)
    assert taken.bytes_done == taken.bytes_total > 0
    assert harness.hypervisor.machines.state(machine.uuid).phase is before
    check_file(harness, target)
    assert target.stat().st_mode & 0o077 == 0
    harness.hypervisor.disks.drop_snapshot(machine.uuid, snapshot, 1)
    assert target.exists()


def test_asked_again_it_is_the_same_one(harness: Harness, made: Made, tmp_path: Path) -> None:
    machine, snapshot, target = made.new(), uuid4(), tmp_path / "snapshot"
    first = harness.snapshot(machine.uuid, snapshot, target)
    before = target.stat()
    assert harness.snapshot(machine.uuid, snapshot, target) == first
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_two_of_one_machine(harness: Harness, made: Made, tmp_path: Path) -> None:
    machine = made.new()
    harness.hypervisor.machines.power(machine.uuid, Power.ON, 1)
    for name in ("one", "two"):
        snapshot = uuid4()
        assert harness.snapshot(machine.uuid, snapshot, tmp_path / name).done
        harness.hypervisor.disks.drop_snapshot(machine.uuid, snapshot, 1)
        check_file(harness, tmp_path / name)
    assert harness.hypervisor.machines.state(machine.uuid).phase is Phase.RUNNING


def test_the_machine_goes_on_after_it(harness: Harness, made: Made, tmp_path: Path) -> None:
    machine, snapshot = made.new(), uuid4()
    machines, disks = harness.hypervisor.machines, harness.hypervisor.disks
    machines.power(machine.uuid, Power.ON, 1)
    assert harness.snapshot(machine.uuid, snapshot, tmp_path / "snapshot").done
    disks.drop_snapshot(machine.uuid, snapshot, 1)
    machines.power(machine.uuid, Power.OFF, 1)
    disks.ensure_disk(machine.uuid, system_disk(machine.image, 2 * IMAGE_SIZE), 1)
    machines.power(machine.uuid, Power.ON, 1)
    assert machines.state(machine.uuid).phase is Phase.RUNNING


def test_dropping_what_is_not_there_succeeds(hypervisor: Hypervisor, made: Made) -> None:
    for _ in range(2):
        hypervisor.disks.drop_snapshot(made.new().uuid, uuid4(), 1)


def test_dropped_in_the_middle(harness: Harness, made: Made, tmp_path: Path) -> None:
    machine, snapshot, disks = made.new(), uuid4(), harness.hypervisor.disks
    disks.snapshot(machine.uuid, snapshot, str(tmp_path / "one"), 1)
    disks.drop_snapshot(machine.uuid, snapshot, 1)
    assert harness.snapshot(machine.uuid, uuid4(), tmp_path / "two").done
    check_file(harness, tmp_path / "two")


def test_machine_removed_in_the_middle(harness: Harness, made: Made, tmp_path: Path) -> None:
    machine, snapshot, disks = made.new(), uuid4(), harness.hypervisor.disks
    disks.snapshot(machine.uuid, snapshot, str(tmp_path / "snapshot"), 1)
    harness.hypervisor.machines.remove(machine.uuid, 1)
    with pytest.raises(NotFound):
        harness.hypervisor.machines.state(machine.uuid)
    if (tmp_path / "snapshot").exists():  # it was there before the removal, whole
        check_file(harness, tmp_path / "snapshot")


def test_host_process_killed_in_the_middle(harness: Harness, made: Made, tmp_path: Path) -> None:
    machine, snapshot, target = made.new(), uuid4(), tmp_path / "snapshot"
    harness.hypervisor.machines.power(machine.uuid, Power.ON, 1)
    harness.hypervisor.disks.snapshot(machine.uuid, snapshot, str(target), 1)
    harness.restart()
    copied = harness.snapshot(machine.uuid, snapshot, target)
    assert copied.done, copied
    check_file(harness, target)
    assert harness.hypervisor.machines.state(machine.uuid).phase is Phase.RUNNING


def test_link_at_the_target_is_not_followed(harness: Harness, made: Made, tmp_path: Path) -> None:
    target, victim = tmp_path / "snapshot", tmp_path / "victim"
    victim.write_text("precious")
    target.symlink_to(victim)
    with suppress(PaddockError):
        harness.snapshot(made.new().uuid, uuid4(), target)
    assert victim.read_text() == "precious"


def test_nowhere_to_write(harness: Harness, made: Made, tmp_path: Path) -> None:
    machine, target = made.new(), tmp_path / "missing" / "snapshot"
    try:
        error = harness.snapshot(machine.uuid, uuid4(), target).error
    except PaddockError as e:
        error = str(e)
    assert "missing" in error


def test_machine_that_is_not_there(hypervisor: Hypervisor, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        hypervisor.disks.snapshot(uuid4(), uuid4(), str(tmp_path / "snapshot"), 1)
