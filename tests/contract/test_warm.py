"""Warm images: made, listed and removed, and machines that start from them or say why not.

The fake keeps the same rules as QEMU does, whose guests take minutes to become warm: tests/guests tries those.
"""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from paddock.base.errors import NotFound, Refused
from paddock.hypervisor.base import Hypervisor
from paddock.machine.image import ImageManifest
from paddock.machine.spec import Disk, Machine, Power, Rescue
from paddock.machine.state import Phase, Progress
from paddock.machine.warm import Start, WarmImage, Wish
from tests.contract.conftest import Made
from tests.contract.harness import Harness, until
from tests.contract.specs import IMAGE_SIZE, make_image, make_machine

pytestmark = pytest.mark.on("fake")
NONE = "there is no warm image of {name} with 1 CPUs and 64 MiB yet"


class Warm:
    """An image that can be warm, and machines of it."""

    def __init__(self, harness: Harness, made: Made) -> None:
        self.harness, self.made = harness, made
        self.hypervisor: Hypervisor = harness.hypervisor
        self.image = self._bring(f"warm-{uuid4().hex[:8]}")
        self.none = NONE.format(name=self.image.name)

    def _bring(self, name: str) -> ImageManifest:
        source = self.harness.root / name
        can = {"guest_agent": True, "cloud_init": True}
        manifest = make_image(source, name, qcow2=False).model_copy(update=can)
        assert self.harness.copy(manifest, source).done
        return manifest

    def wanted(self, **more: object) -> Machine:
        """A machine that is not there yet, of the public scope."""
        return make_machine(self.image.sha256).model_copy(update={"warm": "public", **more})

    def started(self, power: Power = Power.ON, **more: object) -> Machine:
        """A new one that is on."""
        machine = self.wanted(**more)
        self.made.uuids.append(machine.uuid)
        self.hypervisor.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
        self.hypervisor.machines.ensure(machine, 1)
        self.hypervisor.machines.power(machine.uuid, power, 1)
        return machine

    def began(self, machine: Machine) -> Start:
        return self.hypervisor.machines.state(machine.uuid).began

    def again(self, machine: Machine) -> Start:
        """Off and on."""
        self.hypervisor.machines.power(machine.uuid, Power.OFF, 1)
        assert self.began(machine) == Start()
        self.hypervisor.machines.power(machine.uuid, Power.ON, 1)
        return self.began(machine)

    def rebuilt(self, machine: Machine) -> Start:
        """On, with another disk in the place of its own."""
        machines, there = self.hypervisor.machines, machine.system_disk
        machines.power(machine.uuid, Power.OFF, 1)
        disk = there.model_copy(update={"generation": there.generation + 1})
        self.hypervisor.disks.ensure_disk(machine.uuid, disk, 1)
        machines.ensure(machine.model_copy(update={"system_disk": disk}), 1)
        assert [w.machines for w in self.list()] == [0]  # nothing stands on it now
        machines.power(machine.uuid, Power.ON, 1)
        return self.began(machine)

    def make(self, **more: object) -> WarmImage:
        """Ask for one until it is there."""
        machine = self.wanted(**more)
        done = until(lambda: self.hypervisor.warm.make_warm(machine), lambda p: p.done or bool(p.error))
        assert done == Progress(done=True)
        found = [w for w in self.list() if w.scope == machine.warm and w.cpus == machine.cpus]
        assert len(found) == 1
        return found[0]

    def list(self) -> list[WarmImage]:
        return [w for w in self.hypervisor.warm.warm_images() if w.image == self.image.sha256]


@pytest.fixture
def warm(harness: Harness, made: Made) -> Iterator[Warm]:
    warm = Warm(harness, made)
    yield warm
    for image in warm.list():
        warm.hypervisor.warm.remove_warm(image.id)


def test_one_is_made_and_listed(warm: Warm) -> None:
    first = warm.hypervisor.warm.make_warm(warm.wanted())
    assert not first.done
    assert first.doing
    (making,) = warm.list()
    assert (making.making, making.made, making.size) == (True, None, 0)
    made = warm.make()
    about = (made.name, made.image, made.scope, made.cpus, made.memory_mib, made.disk)
    assert about == (warm.image.name, warm.image.sha256, "public", 1, 64, IMAGE_SIZE)
    assert (made.making, made.unusable, made.machines, made.used) == (False, "", 0, None)
    assert made.made
    assert made.size > 0
    assert warm.hypervisor.warm.make_warm(warm.wanted()).done  # and not once more
    assert warm.list() == [made]


def test_a_new_machine_starts_from_it(warm: Warm) -> None:
    image = warm.make()
    machine = warm.started()
    assert warm.began(machine) == Start(warm=True)
    assert warm.hypervisor.machines.changes(0, 0).machines[-1].began == Start(warm=True)
    assert warm.hypervisor.machines.readiness(machine.uuid).ready
    (used,) = warm.list()
    assert (used.id, used.machines) == (image.id, 1)
    assert used.used
    assert warm.again(machine) == Start()  # an ordinary machine from then on
    assert warm.list()[0].machines == 1


def test_a_rebuilt_machine_starts_from_it_again(warm: Warm) -> None:
    warm.make()
    machine = warm.started()
    assert warm.again(machine) == Start()
    assert warm.rebuilt(machine) == Start(warm=True)
    assert warm.list()[0].machines == 1


def test_a_reboot_or_a_larger_disk_is_no_new_machine(warm: Warm) -> None:
    warm.make()
    machine = warm.started()
    warm.hypervisor.machines.power(machine.uuid, Power.RESET, 1)
    assert warm.began(machine) == Start(warm=True)
    warm.hypervisor.machines.power(machine.uuid, Power.OFF, 1)
    warm.hypervisor.disks.ensure_disk(machine.uuid, Disk(size=2 * IMAGE_SIZE, image=warm.image.sha256), 1)
    assert warm.again(machine) == Start()


def test_a_new_disk_may_be_larger_than_the_warm_images(warm: Warm) -> None:
    warm.make(system_disk=Disk(size=2 * IMAGE_SIZE, image=warm.image.sha256))
    larger = Disk(size=4 * IMAGE_SIZE, image=warm.image.sha256)
    assert warm.began(warm.started(system_disk=larger)) == Start(warm=True)
    assert "smaller than the warm image's" in warm.began(warm.started()).why


def ready(warm: Warm) -> int:
    return sum(w.ready for w in warm.list())


def until_ready(warm: Warm, count: int) -> None:
    until(lambda: ready(warm), lambda found: found == count)


def test_a_machine_takes_one_that_is_held_ready(warm: Warm) -> None:
    image = warm.make()
    warm.hypervisor.warm.keep_ready((Wish(machine=warm.wanted(), count=2),))
    until_ready(warm, 2)
    (told,) = warm.list()
    assert (told.id, told.wanted, told.lacking, told.machines) == (image.id, 2, "", 0)
    machine = warm.started()
    assert warm.began(machine) == Start(warm=True, pool=True)
    assert ready(warm) < 2
    until_ready(warm, 2)  # there is another one soon
    assert warm.again(machine) == Start()  # an ordinary machine from then on
    larger = Disk(size=4 * IMAGE_SIZE, image=warm.image.sha256)
    assert warm.began(warm.started(system_disk=larger)) == Start(warm=True)  # theirs have another size
    assert warm.began(warm.started(dedicated_cpus=True)).pool is False
    warm.hypervisor.warm.keep_ready(())
    until_ready(warm, 0)
    assert warm.began(warm.started()) == Start(warm=True)


def test_a_warm_image_is_made_to_hold_guests_of(warm: Warm) -> None:
    warm.hypervisor.warm.keep_ready((Wish(machine=warm.wanted(), count=1),))
    until_ready(warm, 1)
    warm.hypervisor.warm.remove_warm(warm.list()[0].id)
    assert ready(warm) == 0
    until_ready(warm, 1)  # of another one
    warm.hypervisor.warm.keep_ready(())


def test_an_image_that_is_not_here_is_waited_for(warm: Warm) -> None:
    absent = warm.wanted(image="0" * 64, system_disk=Disk(size=IMAGE_SIZE, image="0" * 64))
    warm.hypervisor.warm.keep_ready((Wish(machine=absent, count=1), Wish(machine=warm.wanted(), count=1)))
    until_ready(warm, 1)
    warm.hypervisor.warm.keep_ready(())


def test_it_outlives_hibernation(warm: Warm) -> None:
    warm.make()
    machines, machine = warm.hypervisor.machines, warm.started()
    until(lambda: machines.hibernate(machine.uuid, 1), lambda p: p.done)
    assert warm.began(machine) == Start()
    machines.power(machine.uuid, Power.ON, 1)
    assert machines.state(machine.uuid).cold_start == ""
    assert warm.began(machine) == Start(warm=True)


@pytest.mark.on("fence", "agent")  # which keep the fake's
def test_it_outlives_the_process_that_serves_it(harness: Harness, warm: Warm) -> None:
    image, machine = warm.make(), warm.started()
    harness.restart()
    warm.hypervisor = harness.hypervisor
    assert [w.id for w in warm.list()] == [image.id]
    assert warm.began(machine) == Start(warm=True)
    assert warm.began(warm.started()) == Start(warm=True)


def test_the_second_use_has_one_made(warm: Warm) -> None:
    assert warm.began(warm.started()) == Start(why=warm.none)
    assert warm.list() == []
    for _ in range(2):
        assert warm.began(warm.started()).why.startswith(warm.none)
    until(lambda: warm.list(), lambda found: bool(found) and not found[0].making)
    assert warm.began(warm.started()) == Start(warm=True)
    assert len(warm.list()) == 1


def test_a_machine_says_that_one_is_being_made(warm: Warm) -> None:
    warm.hypervisor.warm.make_warm(warm.wanted())
    warm.started()
    if warm.list()[0].making:
        assert warm.began(warm.started()).why == f"{warm.none}: it is being made"


def test_who_does_not_ask_boots(warm: Warm) -> None:
    warm.make()
    assert warm.began(warm.started(warm="")) == Start(why="it was not asked for")
    assert warm.hypervisor.machines.state(warm.started(power=Power.ON_PAUSED).uuid).phase is Phase.PAUSED
    assert warm.list()[0].machines == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"firmware": "uefi"}, "it boots by UEFI"),
        ({"huge_pages": True}, "its memory is in huge pages"),
        ({"rescue": Rescue(image="0" * 64)}, "it boots its rescue system"),
        ({"iso": "0" * 64}, "it boots from a CD"),
    ],
)
def test_what_can_not_be_warm_is_refused(warm: Warm, change: dict[str, object], why: str) -> None:
    with pytest.raises(Refused, match=f"image {warm.image.name} can't be warm: {why}"):
        warm.hypervisor.warm.make_warm(warm.wanted(**change))
    assert warm.list() == []


def test_what_can_not_be_warm_boots_and_says_why(warm: Warm, harness: Harness) -> None:
    warm.make()
    assert warm.began(warm.started(firmware="uefi")).why == "it boots by UEFI"
    paused = warm.started(power=Power.ON_PAUSED)
    assert warm.began(paused).why == "its guest's CPUs were to stand still"
    bare = warm.started(image=harness.image.sha256, system_disk=Disk(size=IMAGE_SIZE, image=harness.image.sha256))
    assert warm.began(bare).why == "image contract has no guest agent"
    with pytest.raises(NotFound):
        warm.hypervisor.warm.make_warm(make_machine("0" * 64).model_copy(update={"warm": "public"}))


def test_another_scope_or_type_does_not_see_it(warm: Warm) -> None:
    image = warm.make()
    for other in ({"warm": "project-7"}, {"cpus": 2}, {"memory_mib": 128}, {"layout": 2}, {"nested": True}):
        assert warm.began(warm.started(**other)).why.startswith("there is no warm image"), other
    own = warm.make(warm="project-7")
    assert own.id != image.id
    assert warm.began(warm.started(warm="project-7")) == Start(warm=True)
    assert {w.id: w.machines for w in warm.list()} == {image.id: 0, own.id: 1}


def test_removing_it_leaves_machines_alone(warm: Warm) -> None:
    image, machine = warm.make(), warm.started()
    for _ in range(2):
        warm.hypervisor.warm.remove_warm(image.id)
    assert warm.list() == []
    state = warm.hypervisor.machines.state(machine.uuid)
    assert (state.phase, state.began) == (Phase.RUNNING, Start(warm=True))
    assert warm.began(warm.started()).why.startswith(warm.none)
    assert warm.make().id != image.id


def test_removing_an_image_removes_what_was_made_of_it(warm: Warm) -> None:
    free = warm.hypervisor.machines.facts().disk_free
    size = warm.make().size
    assert warm.hypervisor.machines.facts().disk_free == free - size
    warm.hypervisor.disks.remove_image(warm.image.sha256)
    assert warm.list() == []
    assert warm.hypervisor.machines.facts().disk_free > free


def test_a_machine_need_not_be_defined_and_its_secrets_stay(warm: Warm) -> None:
    machine = warm.wanted()
    warm.hypervisor.warm.make_warm(machine)
    with pytest.raises(NotFound):
        warm.hypervisor.machines.state(machine.uuid)
    assert machine.seed.instance_id not in repr(warm.make())
