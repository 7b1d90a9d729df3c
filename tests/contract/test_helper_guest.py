"""The disk of a machine that is off, changed in a helper guest. The real drivers' helper here is one that does nothing:
what helper guests do to real disks is in tests/guests."""

from pathlib import Path
from uuid import uuid4

import pytest

from paddock.base import clock
from paddock.base.errors import Conflict, Invalid, NotFound, Refused
from paddock.machine.cleaning import Cleaning, Trace
from paddock.machine.image import ImageManifest
from paddock.machine.spec import Power
from paddock.machine.state import Phase, Progress
from tests.contract.conftest import Made
from tests.contract.harness import Harness, until
from tests.contract.specs import make_rescue, system_disk

HASH = "$6$saltsaltsaltsalt$" + "a" * 86


def helper_on(harness: Harness, directory: Path) -> ImageManifest:
    image = make_rescue(directory)
    assert harness.copy(image, directory).done
    return image


@pytest.mark.parametrize("power", [Power.ON, Power.ON_PAUSED])
def test_refused_while_the_machine_is_on(harness: Harness, made: Made, tmp_path: Path, power: Power) -> None:
    machine, image = made.new(), helper_on(harness, tmp_path)
    harness.hypervisor.machines.power(machine.uuid, power, 1)
    with pytest.raises(Conflict):
        harness.hypervisor.disks.set_password(machine.uuid, "root", HASH, image.sha256, 1)


def test_machine_or_helper_that_is_not_here(harness: Harness, made: Made, tmp_path: Path) -> None:
    image, disks = helper_on(harness, tmp_path), harness.hypervisor.disks
    machine = made.new().uuid
    with pytest.raises(NotFound):
        disks.set_password(uuid4(), "root", HASH, image.sha256, 1)
    with pytest.raises(NotFound):
        disks.set_password(machine, "root", HASH, "0" * 64, 1)
    with pytest.raises(NotFound):
        disks.snapshot(machine, uuid4(), str(tmp_path / "x"), 1, Cleaning(helper="0" * 64))


@pytest.mark.on("agent")  # whose door looks at what comes in
@pytest.mark.parametrize(("user", "hashed"), [("root", "x:0:0"), ("root", "$6$a\nroot:b"), ("a:b", HASH)])
def test_what_would_break_the_file_is_not_let_through(
    harness: Harness, made: Made, tmp_path: Path, user: str, hashed: str
) -> None:
    image = helper_on(harness, tmp_path)
    with pytest.raises((Invalid, Refused)):
        harness.hypervisor.disks.set_password(made.new().uuid, user, hashed, image.sha256, 1)


@pytest.mark.on("fake")  # tests/guests/test_helper_guest.py has real systems
def test_done_and_done_again(harness: Harness, made: Made, tmp_path: Path) -> None:
    machine, image, disks = made.new(), helper_on(harness, tmp_path), harness.hypervisor.disks
    for _ in range(2):
        assert disks.set_password(machine.uuid, "root", HASH, image.sha256, 1) == Progress(done=True)
    assert harness.hypervisor.machines.state(machine.uuid).phase is Phase.DEFINED


def test_a_removal_ends_it(harness: Harness, made: Made, tmp_path: Path) -> None:
    machine, image, hypervisor = made.new(), helper_on(harness, tmp_path), harness.hypervisor
    hypervisor.disks.set_password(machine.uuid, "root", HASH, image.sha256, 1)
    began = clock.monotonic()
    hypervisor.machines.remove(machine.uuid, 1)
    assert clock.monotonic() - began < 8
    with pytest.raises(NotFound):
        hypervisor.machines.state(machine.uuid)


def test_the_disk_is_as_it_was_when_the_host_process_is_killed(harness: Harness, made: Made, tmp_path: Path) -> None:
    machine, image = made.new(), helper_on(harness, tmp_path)
    harness.hypervisor.disks.set_password(machine.uuid, "root", HASH, image.sha256, 1)
    harness.restart()
    until(lambda: _started(harness, machine.uuid), bool)
    assert harness.hypervisor.machines.state(machine.uuid).phase is Phase.RUNNING


def _started(harness: Harness, machine: object) -> bool:
    try:
        harness.hypervisor.machines.power(machine, Power.ON, 1)  # type: ignore[arg-type]
    except Conflict:  # the helper guest is just dying
        return False
    return True


@pytest.mark.on("fake")  # tests/guests/test_helper_guest.py has real systems
def test_a_copy_says_what_was_removed_and_what_is_shared(harness: Harness, made: Made, tmp_path: Path) -> None:
    machine, image, snapshot = made.new(), helper_on(harness, tmp_path / "helper"), uuid4()
    target, disks = str(tmp_path / "copy"), harness.hypervisor.disks
    taken = until(
        lambda: disks.snapshot(machine.uuid, snapshot, target, 1, Cleaning(helper=image.sha256, keep=(Trace.LOGS,))),
        lambda s: s.done,
    )
    assert taken.shared == ("logs: 1",)
    assert "host-keys: 1" in taken.cleaned
    assert not [c for c in taken.cleaned if c.startswith("logs")]


def test_an_ordinary_snapshot_is_not_cleaned(harness: Harness, made: Made, tmp_path: Path) -> None:
    taken = harness.snapshot(made.new().uuid, uuid4(), tmp_path / "snapshot")
    assert (taken.done, taken.cleaned, taken.shared) == (True, (), ())


@pytest.mark.on("fake")  # a real helper that does nothing has the disk until its time is over
def test_a_disk_may_grow_after_it(harness: Harness, made: Made, tmp_path: Path) -> None:
    machine, image, disks = made.new(), helper_on(harness, tmp_path), harness.hypervisor.disks
    disks.set_password(machine.uuid, "root", HASH, image.sha256, 1)
    disks.ensure_disk(machine.uuid, system_disk(machine.image, 2 * machine.system_disk.size), 1)


def test_a_machine_that_was_never_defined(harness: Harness, made: Made, tmp_path: Path) -> None:
    image, uuid = helper_on(harness, tmp_path), made.disk_only()
    with pytest.raises(NotFound):
        harness.hypervisor.disks.set_password(uuid, "root", HASH, image.sha256, 1)
