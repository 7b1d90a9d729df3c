"""The fence: late, repeated, reordered and lost calls of older epochs never decide how a machine ends."""

import json
import os
import random
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddock.base import clock
from paddock.base.errors import Invalid, NotFound, PaddockError, StaleEpoch, Unavailable
from paddock.hypervisor.fake import FakeHypervisor
from paddock.hypervisor.faults import FaultOrder
from paddock.hypervisor.fence import Fenced
from paddock.machine.image import ImageManifest
from paddock.machine.spec import MIB, Frozen, Power
from paddock.machine.state import Phase
from tests.contract.specs import IMAGE_SIZE, make_image, make_machine, make_volume, system_disk

MACHINE, VOLUME = uuid4(), uuid4()
PORTS = st.integers(2200, 2203)


class Node:
    """A fenced fake over a directory, that can be restarted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.image = make_image(root / "image", qcow2=False)
        self.start()
        assert self.fenced.disks.ensure_image(self.image, str(root / "image")).done

    def start(self) -> None:
        self.fake = FakeHypervisor(self.root / "fake")
        self.fenced = Fenced(self.fake, self.root / "fence", lock_wait=0.3)

    def define(self, uuid: UUID, epoch: int = 1) -> None:
        machine = make_machine(self.image.sha256, uuid, port=2200)
        self.fenced.disks.ensure_disk(uuid, machine.system_disk, epoch)
        self.fenced.machines.ensure(machine, epoch)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


class Wish(Frozen):
    """How an owner wants the machine to be; None for `on` is: gone."""

    epoch: int
    on: bool | None
    port: int
    blocks: int

    def calls(self) -> list[str]:
        return ["remove"] if self.on is None else ["disk", "ensure", "power"]

    def send(self, call: str, node: Fenced, image: ImageManifest) -> None:
        if call == "remove":
            node.machines.remove(MACHINE, self.epoch)
        elif call == "disk":
            node.disks.ensure_disk(MACHINE, system_disk(image.sha256, self.blocks * IMAGE_SIZE), self.epoch)
        elif call == "ensure":
            node.machines.ensure(make_machine(image.sha256, MACHINE, self.port), self.epoch)
        else:
            node.machines.power(MACHINE, Power.ON if self.on else Power.OFF, self.epoch)


# Owners with one more epoch each: earlier ones never want it gone, since nobody takes over from a removal but to
# finish it. The calls of the last one arrive in order, each perhaps twice; all others arrive anyhow, or never.
WISHES = st.lists(st.tuples(st.booleans(), PORTS), min_size=1, max_size=4)
LAST = st.tuples(st.sampled_from([True, False, None]), PORTS)


@settings(max_examples=150, deadline=None)
@given(WISHES, LAST, st.randoms(use_true_random=False))
def test_the_highest_epoch_decides(earlier: list[tuple[bool, int]], last: tuple[bool | None, int], rng: object) -> None:
    assert isinstance(rng, random.Random)
    old = [Wish(epoch=n, on=on, port=port, blocks=1) for n, (on, port) in enumerate(earlier, 1)]
    final = Wish(epoch=len(old) + 1, on=last[0], port=last[1], blocks=1)
    late = [(wish, call) for wish in old for call in wish.calls() for _ in range(rng.randrange(3))]
    rng.shuffle(late)
    own = [(final, call) for call in final.calls() for _ in range(rng.choice([1, 1, 2]))]
    with tempfile.TemporaryDirectory() as root:
        node = Node(Path(root))
        for wish, call in _merged(rng, late, own):
            if rng.random() < 0.1:
                node.start()
            with suppress(*(() if wish is final else (PaddockError,))):
                wish.send(call, node.fenced, node.image)
        _check(node, final)


def _merged(rng: random.Random, late: list[tuple[Wish, str]], own: list[tuple[Wish, str]]) -> list[tuple[Wish, str]]:
    """Both lists, each in its order, anyhow mixed."""
    late, own, mixed = list(late), list(own), []
    while late or own:
        mixed.append((late if late and (not own or rng.random() < 0.6) else own).pop(0))
    return mixed


def _check(node: Node, final: Wish) -> None:
    if final.on is None:
        with pytest.raises(NotFound):
            node.fenced.machines.state(MACHINE)
        assert not node.fake.fakes, "a disk was left behind"
        return
    state = node.fenced.machines.state(MACHINE)
    assert state.epoch == final.epoch
    assert (state.phase is Phase.RUNNING) == final.on
    machine = node.fake.fakes[MACHINE].saved.machine
    assert machine
    assert machine.network.ssh_port == final.port


class VolumeWish(Frozen):
    """How an owner wants the volume to be; 0 blocks are: gone. Those who own it later want more of it."""

    epoch: int
    blocks: int

    def send(self, node: Fenced) -> None:
        if self.blocks:
            node.volumes.ensure_volume(make_volume(self.blocks * MIB, VOLUME), self.epoch)
        else:
            node.volumes.remove_volume(VOLUME, self.epoch)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 4), st.booleans(), st.randoms(use_true_random=False))
def test_the_highest_epoch_decides_over_a_volume(earlier: int, stays: bool, rng: object) -> None:
    assert isinstance(rng, random.Random)
    late = [VolumeWish(epoch=n, blocks=n) for n in range(1, earlier + 1) for _ in range(rng.randrange(3))]
    rng.shuffle(late)
    final = VolumeWish(epoch=earlier + 1, blocks=earlier + 1 if stays else 0)
    calls = [*late, final]
    rng.shuffle(calls)
    calls += [final] * rng.randrange(2)
    with tempfile.TemporaryDirectory() as root:
        fake, fence = Path(root, "fake"), Path(root, "fence")
        node = Fenced(FakeHypervisor(fake), fence)
        for wish in calls:
            if rng.random() < 0.1:
                node = Fenced(FakeHypervisor(fake), fence)
            with suppress(*(() if wish is final else (PaddockError,))):
                wish.send(node)
        found = [(v.uuid, v.size, v.epoch) for v in node.volumes.volumes()]
        assert found == ([(VOLUME, final.blocks * MIB, final.epoch)] if stays else [])


def test_only_a_removal_by_the_newest_owner_removes_a_volume(node: Node) -> None:
    node.fenced.volumes.ensure_volume(make_volume(MIB, VOLUME), 5)
    removals = ((4, StaleEpoch), (0, StaleEpoch), (-1, Invalid))
    for epoch, error in removals:
        with pytest.raises(error):
            node.fenced.volumes.remove_volume(VOLUME, epoch)
    node.fenced.machines.remove(VOLUME, 2**40)  # a machine of that name is none of its business
    assert [v.uuid for v in node.fenced.volumes.volumes()] == [VOLUME]


def test_removal_of_a_volume_that_was_cut_off_can_only_be_finished(node: Node) -> None:
    volume = make_volume(MIB, VOLUME)
    node.fenced.volumes.ensure_volume(volume, 1)
    node.fake.inject(FaultOrder.model_validate({"fail": [{"operation": "remove_volume"}]}))
    with pytest.raises(Unavailable):
        node.fenced.volumes.remove_volume(VOLUME, 1)
    node.start()
    with pytest.raises(StaleEpoch, match=r"volume .* was removed"):
        node.fenced.volumes.ensure_volume(volume, 1)
    node.fenced.volumes.remove_volume(VOLUME, 1)
    assert node.fenced.volumes.volumes() == ()


def test_slow_snapshot_does_not_hold_the_gate(node: Node, tmp_path: Path) -> None:
    node.define(MACHINE)
    node.fake.inject(FaultOrder(copy_seconds=1.0))
    start, snapshot = clock.monotonic(), uuid4()
    assert not node.fenced.disks.snapshot(MACHINE, snapshot, str(tmp_path / "target"), 1).done
    node.fenced.machines.power(MACHINE, Power.ON, 1)
    node.fenced.machines.remove(MACHINE, 2)
    with pytest.raises(StaleEpoch):
        node.fenced.disks.snapshot(MACHINE, snapshot, str(tmp_path / "target"), 2)
    assert clock.monotonic() - start < 0.8
    assert not (tmp_path / "target").exists()


def test_old_tombstones_of_volumes_are_pruned(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    half, gone = uuid4(), uuid4()
    node.fenced.volumes.ensure_volume(make_volume(MIB, half), 1)
    node.fake.inject(FaultOrder.model_validate({"fail": [{"operation": "remove_volume"}]}))
    for volume in (half, gone):
        with suppress(Unavailable):
            node.fenced.volumes.remove_volume(volume, 1)
    shift = node.root / "shift"
    shift.write_text(str(31 * 24 * 3600))
    monkeypatch.setenv("PADDOCK_CLOCK_FILE", str(shift))
    node.start()
    assert {p.stem for p in (node.root / "fence" / "volumes").iterdir()} == {str(half)}


def test_many_owners_at_once(node: Node) -> None:
    epochs = list(range(1, 41))
    random.Random(1).shuffle(epochs)

    def own(epoch: int) -> None:
        with suppress(StaleEpoch):
            node.define(MACHINE, epoch)
            node.fenced.machines.power(MACHINE, Power.ON if epoch % 2 else Power.OFF, epoch)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(own, epochs))
    state = node.fenced.machines.state(MACHINE)
    assert state.epoch == 40
    assert state.phase is not Phase.RUNNING


def test_waiting_for_a_long_change_ends(node: Node) -> None:
    node.define(MACHINE)
    node.fake.inject(FaultOrder(delay=1.0))
    slow = threading.Thread(target=node.fenced.machines.power, args=(MACHINE, Power.ON, 1))
    slow.start()
    clock.sleep(0.1)
    start = clock.monotonic()
    with pytest.raises(Unavailable, match="did not end within"):
        node.fenced.machines.power(MACHINE, Power.OFF, 1)
    assert clock.monotonic() - start < 0.8
    other = uuid4()
    node.fake.inject(FaultOrder(clear=True))
    node.define(other)  # other machines do not wait
    slow.join()


def test_removal_that_was_cut_off_can_only_be_finished(node: Node) -> None:
    node.define(MACHINE)
    order = FaultOrder.model_validate({"fail": [{"operation": "remove"}]})
    node.fake.inject(order)
    with pytest.raises(Unavailable):
        node.fenced.machines.remove(MACHINE, 1)
    with pytest.raises(StaleEpoch, match="removed"):
        node.fenced.machines.power(MACHINE, Power.ON, 1)
    node.fenced.machines.remove(MACHINE, 1)
    with pytest.raises(NotFound):
        node.fenced.machines.state(MACHINE)


def test_negative_epoch(node: Node) -> None:
    with pytest.raises(Invalid):
        node.fenced.machines.remove(MACHINE, -1)


def test_old_tombstones_are_pruned(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, alive = uuid4(), uuid4()
    node.fenced.machines.remove(MACHINE, 1)
    node.define(alive)
    path = node.root / "fence" / f"{MACHINE}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size < 100
    shift = node.root / "shift"
    monkeypatch.setenv("PADDOCK_CLOCK_FILE", str(shift))
    shift.write_text(str(29 * 24 * 3600))
    node.fenced.machines.remove(kept, 1)
    node.start()
    assert path.exists()
    shift.write_text(str(31 * 24 * 3600))
    node.start()
    assert not path.exists()
    assert (node.root / "fence" / f"{kept}.json").exists()
    assert node.fenced.machines.state(alive).epoch == 1


def test_tombstone_of_an_unfinished_removal_is_kept(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.define(MACHINE)
    node.fake.inject(FaultOrder.model_validate({"fail": [{"operation": "remove"}]}))
    with suppress(Unavailable):
        node.fenced.machines.remove(MACHINE, 1)
    shift = node.root / "shift"
    shift.write_text(str(31 * 24 * 3600))
    monkeypatch.setenv("PADDOCK_CLOCK_FILE", str(shift))
    node.start()
    with pytest.raises(StaleEpoch):
        node.fenced.machines.power(MACHINE, Power.ON, 1)


def test_file_damaged_by_a_power_cut(node: Node) -> None:
    node.define(MACHINE, 5)
    path = node.root / "fence" / f"{MACHINE}.json"
    path.write_bytes(b"")
    node.start()
    node.define(MACHINE, 6)
    assert json.loads(path.read_text())["epoch"] == 6
    with pytest.raises(StaleEpoch):
        node.define(MACHINE, 5)


def test_same_epoch_writes_nothing(node: Node) -> None:
    node.define(MACHINE)
    before = os.stat(node.root / "fence" / f"{MACHINE}.json").st_ino
    node.fenced.machines.power(MACHINE, Power.ON, 1)
    assert os.stat(node.root / "fence" / f"{MACHINE}.json").st_ino == before
