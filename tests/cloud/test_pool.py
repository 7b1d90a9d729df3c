"""Pools as the control plane sees them: what nodes are told to hold ready, and servers that begin from it."""

from collections.abc import Iterator

import pytest

from paddock.cloud.flows import pool
from paddock.cloud.models import Event, Image, Node, Pool, ServerType
from tests.cloud.harness import Cloud
from tests.cloud.test_warm import began, warmed
from tests.contract.harness import until

pytestmark = pytest.mark.usefixtures("emptied")


@pytest.fixture
def emptied(cloud: Cloud) -> Iterator[None]:
    """Nothing is held afterwards, and nothing warm."""
    yield
    Pool.objects.all().delete()
    cloud.host().warm.keep_ready(())
    for found in cloud.host().warm.warm_images():
        cloud.host().warm.remove_warm(found.id)


def wish(cloud: Cloud, count: int, node: Node | None = None) -> Pool:
    image, plan = Image.objects.get(project=None, name="tiny"), ServerType.objects.get(name="nano")
    return Pool.objects.create(image=image, server_type=plan, node=node, count=count)


def tell(cloud: Cloud) -> None:
    pool.tell(cloud.node, cloud.host(), cloud.host().machines.facts())


def ready(cloud: Cloud) -> int:
    return sum(warm.ready for warm in cloud.host().warm.warm_images())


def test_a_server_begins_from_what_is_held(cloud: Cloud) -> None:
    warmed(cloud)
    wish(cloud, 2)
    tell(cloud)
    until(lambda: ready(cloud), lambda found: found == 2)
    server = cloud.running_server()
    assert began(server) == ("pool", "")
    step = Event.objects.get(kind="server", row_id=server.pk, step="start")
    assert step.detail == "from the pool: a guest was held ready"


def test_what_is_no_longer_wanted_is_given_up(cloud: Cloud) -> None:
    warmed(cloud)
    row = wish(cloud, 1)
    tell(cloud)
    until(lambda: ready(cloud), lambda found: found == 1)
    row.delete()
    tell(cloud)
    assert ready(cloud) == 0


def test_what_is_said_of_a_node_wins(cloud: Cloud) -> None:
    wish(cloud, 3)
    assert [wish.count for wish in pool.wishes(cloud.node)] == [3]
    wish(cloud, 1, cloud.node)
    assert [wish.count for wish in pool.wishes(cloud.node)] == [1]


def test_they_are_as_servers_would_be_placed(cloud: Cloud) -> None:
    """Whatever the watcher knew when it began: a node that has just come up has no CPUs yet."""
    watched = cloud.node
    watched.cpus = watched.memory_mib = 0
    wish(cloud, 1)
    warmed(cloud)
    [found] = pool.wishes(watched)
    server = cloud.running_server()
    made = server.machine()
    for of_key in ("cpus", "max_cpus", "memory_mib", "max_memory_mib", "layout", "machine_type", "warm", "system_disk"):
        assert getattr(found.machine, of_key) == getattr(made, of_key), of_key


def test_an_image_that_is_not_here_is_not_asked_for(cloud: Cloud) -> None:
    row = wish(cloud, 1)
    Image.objects.filter(pk=row.image_id).update(state="failed")
    assert pool.wishes(cloud.node) == ()
    Image.objects.filter(pk=row.image_id).update(state="ready")


def test_a_node_that_can_not_is_not_down_for_that(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    wish(cloud, 1)
    failure = {"operation": "keep_ready", "code": "unavailable", "message": "it is ill"}
    cloud.agent_faults(fail=(failure,))
    tell(cloud)
    assert "can't hold guests ready: keep_ready: it is ill" in caplog.text
