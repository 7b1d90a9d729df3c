"""The fake's warm images beyond the contract: policies, faults on demand, room, guests that are ready at once."""

from pathlib import Path
from uuid import UUID, uuid4

import pytest

from paddock.base import clock
from paddock.base.errors import DiskFull, Refused, Unavailable
from paddock.hypervisor.fake import FakeHypervisor
from paddock.hypervisor.faults import FaultOrder
from paddock.machine.spec import GIB, MIB, Machine, Power
from paddock.machine.state import Phase
from paddock.machine.warm import Start, WarmImage
from tests.contract.specs import make_image, make_machine


@pytest.fixture
def fake() -> FakeHypervisor:
    return FakeHypervisor()


def warmable(fake: FakeHypervisor, directory: Path, name: str = "warm") -> Machine:
    """A machine that is not there yet, of an image that can be warm."""
    can = {"guest_agent": True, "cloud_init": True}
    manifest = make_image(directory / name, name, qcow2=False).model_copy(update=can)
    assert fake.disks.ensure_image(manifest, str(directory / name)).done
    return make_machine(manifest.sha256).model_copy(update={"warm": "public"})


def turned_on(fake: FakeHypervisor, like: Machine) -> UUID:
    machine = make_machine(like.image).model_copy(update={"warm": like.warm, "memory_mib": like.memory_mib})
    fake.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
    fake.machines.ensure(machine, 1)
    fake.machines.power(machine.uuid, Power.ON, 1)
    return machine.uuid


def made_warm(fake: FakeHypervisor, machine: Machine) -> WarmImage:
    """Ask for it until it is there."""
    while not fake.warm.make_warm(machine).done:
        clock.sleep(0.02)
    return next(w for w in fake.warm.warm_images() if (w.image, w.memory_mib) == (machine.image, machine.memory_mib))


def test_a_warm_guest_is_ready_at_once_until_it_boots(tmp_path: Path) -> None:
    fake = FakeHypervisor(ready_after=0.4)
    wanted = warmable(fake, tmp_path)
    assert not fake.machines.readiness(turned_on(fake, wanted)).ready
    made_warm(fake, wanted)
    machine = turned_on(fake, wanted)
    assert fake.machines.readiness(machine).ready
    assert fake.guest.exec(machine, ("true",), "", 0.05).exit_code == 0
    fake.machines.power(machine, Power.RESET, 1)
    assert not fake.machines.readiness(machine).ready
    assert fake.machines.state(machine).began == Start(warm=True)


def test_when_warm_images_are_made_unasked(fake: FakeHypervisor, tmp_path: Path) -> None:
    wanted = warmable(fake, tmp_path)
    fake.warm.policy = "never"
    for _ in range(3):
        assert "being made" not in fake.machines.state(turned_on(fake, wanted)).began.why
    assert fake.warm.warm_images() == ()
    fake.warm.policy = "second-use"  # those were uses, too
    assert fake.machines.state(turned_on(fake, wanted)).began.why.endswith("yet: it is being made")
    assert [w.making for w in fake.warm.warm_images()] == [True]
    fake.warm.policy = "always"
    other = warmable(fake, tmp_path, "other")
    assert fake.machines.state(turned_on(fake, other)).began.why.endswith("yet: it is being made")


def test_making_takes_as_long_as_ordered(fake: FakeHypervisor, tmp_path: Path) -> None:
    wanted = warmable(fake, tmp_path)
    fake.inject(FaultOrder(copy_seconds=600))
    assert not fake.warm.make_warm(wanted).done
    clock.sleep(0.15)
    assert not fake.warm.make_warm(wanted).done
    assert "being made" in fake.machines.state(turned_on(fake, wanted)).began.why
    fake.inject(FaultOrder(copy_seconds=0))
    assert fake.machines.state(turned_on(fake, wanted)).began == Start(warm=True)


def test_an_image_that_can_not_be_warm_is_not_tried_again(fake: FakeHypervisor, tmp_path: Path) -> None:
    wanted = warmable(fake, tmp_path)
    fake.inject(FaultOrder(warm_error="its guests draw the same numbers"))
    with pytest.raises(Refused, match="image warm can't be warm: its guests draw the same numbers"):
        made_warm(fake, wanted)
    fake.inject(FaultOrder(clear=True))
    (note,) = fake.warm.warm_images()
    assert (note.unusable, note.size) == ("its guests draw the same numbers", 0)
    assert fake.machines.state(turned_on(fake, wanted)).began.why == "its guests draw the same numbers"
    fake.warm.remove_warm(note.id)
    assert made_warm(fake, wanted).unusable == ""


def test_warm_images_want_room_and_memory(tmp_path: Path) -> None:
    fake = FakeHypervisor(memory_mib=128, disk=GIB)
    wanted = warmable(fake, tmp_path)
    first = turned_on(fake, wanted)
    second = turned_on(fake, wanted)
    with pytest.raises(Unavailable, match="0 MiB of memory free"):
        made_warm(fake, wanted)
    fake.machines.power(first, Power.OFF, 1)
    fake.inject(FaultOrder(disk_full=True))
    with pytest.raises(DiskFull):
        made_warm(fake, wanted)
    fake.inject(FaultOrder(clear=True))
    free, machines = fake.machines.facts().disk_free, fake.machines.facts().use.machines
    assert made_warm(fake, wanted).size == 64 * MIB
    assert (fake.machines.facts().disk_free, fake.machines.facts().use.machines) == (free - 64 * MIB, machines)
    assert fake.machines.state(second).phase is Phase.RUNNING


def test_the_least_used_warm_images_make_room(tmp_path: Path) -> None:
    fake = FakeHypervisor(tmp_path / "state", warm_budget=200 * MIB)
    small = warmable(fake, tmp_path)
    large, huge = (small.model_copy(update={"memory_mib": mib}) for mib in (128, 201))
    first, second = made_warm(fake, small), made_warm(fake, large)
    assert fake.machines.state(turned_on(fake, small)).began.warm
    third = made_warm(fake, small.model_copy(update={"memory_mib": 96}))
    assert {w.id for w in fake.warm.warm_images()} == {first.id, third.id}, second
    with pytest.raises(DiskFull, match="warm_budget_gib"):
        made_warm(fake, huge)
    again = FakeHypervisor(tmp_path / "state")
    assert again.warm.warm_images() == fake.warm.warm_images()
    assert again.machines.facts().disk_free == fake.machines.facts().disk_free


def test_a_disk_with_a_password_on_it_is_no_new_one(fake: FakeHypervisor, tmp_path: Path) -> None:
    wanted = warmable(fake, tmp_path)
    made_warm(fake, wanted)
    machine = wanted.model_copy(update={"uuid": uuid4()})
    fake.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
    fake.machines.ensure(machine, 1)
    assert fake.disks.set_password(machine.uuid, "root", "$6$x", wanted.image, 1).done
    fake.machines.power(machine.uuid, Power.ON, 1)
    assert fake.machines.state(machine.uuid).began == Start()
    assert fake.fakes[machine.uuid].saved.passwords == {"root": "$6$x"}
