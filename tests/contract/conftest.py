"""Every hypervisor, one after another, under the same tests."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from paddock.hypervisor.base import Hypervisor
from paddock.machine.spec import MIB, Machine, Volume
from tests.contract.harness import Harness
from tests.contract.specs import make_machine, make_volume, system_disk

FAKES = ["fake", "fence-fake", "agent-fake"]
KINDS = [
    *FAKES,
    pytest.param("fence-qemu", marks=pytest.mark.guest),
    pytest.param("agent-qemu", marks=pytest.mark.guest),
]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test marked `on` is for hypervisors with one of its words in their name, or of each mark where it has several:
    the others don't have it."""
    others = [item for item in items if not all(_named(item, on.args) for on in item.iter_markers("on"))]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in set(others)]


def _named(item: pytest.Item, words: tuple[str, ...]) -> bool:
    return not set(words).isdisjoint(item.callspec.params["shared"].split("-"))  # type: ignore[attr-defined]


@pytest.fixture(scope="session", params=KINDS)
def shared(request: pytest.FixtureRequest) -> Iterator[Harness]:
    harness = Harness(request.param)
    yield harness
    harness.close()


class Made:
    """Machines and volumes that a test made, to be removed after it."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self.uuids: list[UUID] = []
        self.volumes: list[UUID] = []

    def new(self, port: int | None = None, **more: Any) -> Machine:
        """A machine with its disk, defined in epoch 1. `more` are further fields of it."""
        machine = make_machine(self._harness.image.sha256, port=port).model_copy(update=more)
        self.uuids.append(machine.uuid)
        self._harness.hypervisor.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
        self._harness.hypervisor.machines.ensure(machine, 1)
        return machine

    def volume(self, size: int = 8 * MIB) -> Volume:
        """A volume without a file system, made in epoch 1."""
        volume = make_volume(size)
        self.volumes.append(volume.uuid)
        self._harness.hypervisor.volumes.ensure_volume(volume, 1)
        return volume

    def disk_only(self) -> UUID:
        uuid = uuid4()
        self.uuids.append(uuid)
        self._harness.hypervisor.disks.ensure_disk(uuid, system_disk(self._harness.image.sha256), 1)
        return uuid


@pytest.fixture
def harness(shared: Harness) -> Harness:
    return shared


@pytest.fixture
def hypervisor(harness: Harness) -> Hypervisor:
    return harness.hypervisor


@pytest.fixture
def made(harness: Harness) -> Iterator[Made]:
    made = Made(harness)
    yield made
    for uuid in made.uuids:
        harness.hypervisor.machines.remove(uuid, 2**40)
    for uuid in made.volumes:
        harness.hypervisor.volumes.remove_volume(uuid, 2**40)
