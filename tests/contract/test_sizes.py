"""What machines really take of the disk, and what all of a node takes: on every driver alike."""

from uuid import uuid4

import pytest

from paddock.base import clock
from paddock.base.errors import NotFound
from paddock.hypervisor.base import Hypervisor
from tests.contract.conftest import Made


def test_a_machine_that_is_not_there(hypervisor: Hypervisor) -> None:
    with pytest.raises(NotFound):
        hypervisor.machines.sizes(uuid4())


def test_a_machine_takes_room(hypervisor: Hypervisor, made: Made) -> None:
    sizes = hypervisor.machines.sizes(made.new().uuid)
    assert sizes.disk > 0
    assert sizes.memory == 0
    assert min(sizes.logs, sizes.other) >= 0


def test_a_node_knows_what_it_holds(hypervisor: Hypervisor, made: Made) -> None:
    made.new()
    end = clock.monotonic() + 10
    while not (facts := hypervisor.machines.facts()).use.image_count and clock.monotonic() < end:
        clock.sleep(0.2)  # a look at all of it is good for some seconds
    assert facts.use.image_count >= 1
    assert facts.use.images > 0
    assert 0 <= facts.disk_free <= facts.disk
