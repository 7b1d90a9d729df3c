"""Forks of what began from a warm image: the devices that it has because of that are found again in its forks."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from paddock.hypervisor.qemu import disks
from paddock.hypervisor.qemu.fork import point as points
from paddock.machine.spec import Machine, Power, Seed
from tests.guests.qemu_node import Node, until
from tests.guests.test_warm import Warm
from tests.hypervisor.qemu.machines import free_port
from tests.support_images import built_image

pytestmark = [pytest.mark.guest, pytest.mark.slow]


@pytest.fixture
def warm() -> Iterator[Warm]:
    node = Node()
    try:
        built = built_image("tiny")
        warm = Warm(node, built.manifest, built.directory)
        warm.made(warm.define("first"))
        yield warm
    finally:
        node.close()


def forked(warm: Warm, parent: Machine, name: str) -> Machine:
    """One of it that can be used."""
    point, uuid, machines = uuid4(), uuid4(), warm.node.host.machines
    until(lambda: machines.fork(parent.uuid, point, 1).done, 60)
    network = parent.network.model_copy(update={"mac": f"52:54:00:00:{uuid.hex[:2]}:03", "ssh_port": free_port()})
    seed = Seed(instance_id=str(uuid), hostname=name)
    child = parent.model_copy(
        update={"uuid": uuid, "name": name, "fork": point, "network": network, "seed": seed, "warm": ""}
    )
    warm.node.host.disks.ensure_disk(uuid, child.system_disk, 1)
    machines.ensure(child, 1)
    assert machines.power(uuid, Power.ON, 1).began.fork
    machines.drop_fork(point)
    assert disks.stood_on(warm.node.directory(child))[0] == points.name_of(point)
    warm.until_ready(child)
    return child


def test_a_fork_of_a_warm_start(warm: Warm) -> None:
    """Its memory, its card behind another port, and its disk over two others; the warm image may go meanwhile."""
    parent = warm.begun("parent")
    warm.sh(parent, "echo kept > /tmp/kept; echo kept > /root/kept")
    child = forked(warm, parent, "child")
    [image] = warm.images()
    warm.node.host.warm.remove_warm(image.id)
    warm.node.host.machines.remove(parent.uuid, 2)
    machines = warm.node.host.machines
    until(lambda: machines.hibernate(child.uuid, 1).done, 60)
    machines.power(child.uuid, Power.ON, 1)
    assert machines.state(child.uuid).cold_start == ""
    warm.until_ready(child)
    assert warm.sh(child, "cat /tmp/kept /root/kept; hostname; sync").split() == ["kept", "kept", "child"]
    warm.off(child)
    machines.power(child.uuid, Power.ON, 1)
    warm.until_ready(child)
    assert warm.sh(child, "cat /root/kept; hostname").split() == ["kept", "child"]
    machines.remove(child.uuid, 2)
    assert not [path for path in (warm.node.state / "warm").iterdir() if not path.name.startswith(".")]
