"""Server types that need more of a host than room: placed where that is, else refused with the reason."""

from collections.abc import Iterator
from typing import Any

import pytest

from paddock.base.errors import NoRoom
from paddock.cloud.flows import node as watching
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.models import Node, Server, ServerType
from tests.cloud.harness import Cloud


@pytest.fixture
def kind() -> Iterator[ServerType]:
    row = ServerType.objects.create(name="special", cores=2, memory_mib=64, disk_gib=10)
    yield row
    Server.objects.filter(server_type=row).update(server_type=ServerType.objects.get(name="nano"))
    row.delete()


def special(kind: ServerType, **what: bool) -> None:
    ServerType.objects.filter(pk=kind.pk).update(**what)


def lacking(cloud: Cloud, **facts: Any) -> None:
    node = cloud.node
    Node.objects.filter(pk=node.pk).update(facts={**node.facts, **facts})


@pytest.mark.parametrize("what", ["nested", "huge_pages", "dedicated_cpus"])
def test_it_has_what_its_type_says(cloud: Cloud, kind: ServerType, what: str) -> None:
    special(kind, **{what: True})
    watching.look(cloud.node, 0, 0)
    row = cloud.running_server(plan="special")
    assert getattr(cloud.machine(row), what) is True


@pytest.mark.parametrize(
    ("what", "facts", "says"),
    [
        ("nested", {"no_nested": "kvm_intel was loaded with nested=0"}, "kvm_intel was loaded with nested=0"),
        ("huge_pages", {"huge_pages_mib": 60}, "has 60 of 60 MiB in huge pages left, 64 are needed"),
        ("dedicated_cpus", {"dedicated_cpus": 1}, "has 1 of 1 CPUs to dedicate left, 2 are needed"),
    ],
)
def test_a_node_that_has_none_says_why(
    cloud: Cloud, kind: ServerType, what: str, facts: dict[str, Any], says: str
) -> None:
    special(kind, **{what: True})
    watching.look(cloud.node, 0, 0)
    lacking(cloud, **facts)
    with pytest.raises(NoRoom, match=says):
        cloud.new_server(plan="special")
    row = cloud.stopped_server()
    kind.refresh_from_db()
    with pytest.raises(NoRoom, match=says):
        wishes.change_type(row, kind, upgrade_disk=False, live=False, correlation_id="")


def test_what_others_have_is_not_given_twice(cloud: Cloud, kind: ServerType) -> None:
    special(kind, dedicated_cpus=True)
    watching.look(cloud.node, 0, 0)
    lacking(cloud, dedicated_cpus=3)
    cloud.running_server("first", plan="special")
    lacking(cloud, dedicated_cpus=3)
    with pytest.raises(NoRoom, match="has 1 of 3 CPUs to dedicate left"):
        cloud.new_server("second", plan="special")
