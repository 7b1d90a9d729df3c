"""Who may be on a node with whom: placement groups, strangers, and volumes that lie somewhere already."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from django.db import transaction

from paddock.base.errors import AlreadyInGroup, Invalid, NoRoom, NotStopped, PlacementFailed
from paddock.cloud.flows import claim, server
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.flows import volume as volumes
from paddock.cloud.flows.engine import Flow, advance
from paddock.cloud.models import Action, Node, PlacementGroup, Project, Server, Volume
from paddock.cloud.placement import Demand, explain, judge
from tests.agent.process import AgentProcess
from tests.cloud.harness import Cloud, at_once
from tests.cloud.test_placement import Room

FLOW = Flow.registry["server"]


@pytest.fixture(scope="module")
def second_agent() -> Iterator[AgentProcess]:
    process = AgentProcess("fake", "n2")
    process.start()
    yield process
    process.close()


@pytest.fixture
def second(cloud: Cloud, second_agent: AgentProcess) -> Node:
    """Another node like the first, which is used after it."""
    node = cloud.node
    node.pk = None
    node.name, node.first_id, node.first_ssh_port, node.url = "n2", 2000, 2300, second_agent.url
    node.last_placed = Node.objects.get(name="n1").last_placed + 10
    node.save(force_insert=True)
    return node


@pytest.fixture
def group(cloud: Cloud) -> PlacementGroup:
    return PlacementGroup.objects.create(project=cloud.project(), name="apart")


def test_a_node_says_who_is_there() -> None:
    demand = Demand(1, 1, 1, only="n2", apart=frozenset({"n1"}), strange=frozenset({"n1"}))
    said = explain([judge(Room(), demand, 0)])
    assert "is not n2, where the server's volumes lie" in said
    assert "another server of the placement group" in said
    assert "serves another project" in said
    assert judge(Room(), Demand(1, 1, 1, apart=frozenset({"n1"})), 0).spread
    assert not judge(Room(state="down"), Demand(1, 1, 1, apart=frozenset({"n1"})), 0).spread


def test_a_group_is_spread(cloud: Cloud, second: Node, group: PlacementGroup) -> None:
    cloud.new_server("web-1", placement_group=group)
    cloud.new_server("web-2", placement_group=group)
    cloud.settle()
    assert set(Server.objects.values_list("node__name", flat=True)) == {"n1", "n2"}
    with pytest.raises(PlacementFailed, match="n1 has another server of the placement group"):
        cloud.new_server("web-3", placement_group=group)
    assert Server.objects.count() == 2


def test_two_of_a_group_at_once_never_meet(cloud: Cloud, group: PlacementGroup) -> None:
    """Both were accepted while the only node was empty; the claim is what holds."""
    rows = [cloud.new_server(f"web-{i}", placement_group=group) for i in (1, 2)]
    at_once(*(lambda row=row: advance(FLOW, row.pk) for row in rows))
    cloud.settle()
    ended = {a.status: a.error_code for a in Action.objects.all()}
    assert ended == {"success": "", "error": "placement_error"}
    assert Server.objects.filter(node__isnull=False).count() == 1
    assert cloud.node.claimed_cpus == 1


@pytest.mark.parametrize("strangers", [False, True])
def test_the_claim_looks_again(cloud: Cloud, group: PlacementGroup, strangers: bool) -> None:
    """Between the look and the claim another one came: the claim finds that out, and leaves nothing behind."""
    Node.objects.update(settings={**cloud.node.settings, "shared": not strangers})
    of: list[dict[str, Any]] = (
        [{"project": cloud.project()}, {"project": stranger()}] if strangers else [{"placement_group": group}] * 2
    )
    mine, other = (cloud.new_server(f"web-{i}", **fields) for i, fields in enumerate(of))
    node = claim._nodes(mine)[0]
    assert claim.claim(Server.objects.get(pk=other.pk))
    with transaction.atomic():
        assert not claim._claim_on(Server.objects.get(pk=mine.pk), node)
    assert cloud.node.claimed_cpus == 1
    cloud.settle()


def test_joining_and_leaving(cloud: Cloud, second: Node, group: PlacementGroup) -> None:
    first, other = cloud.stopped_server("web-1"), cloud.running_server("web-2")
    third = cloud.stopped_server("web-3")
    nodes = Server.objects.filter(pk__in=[third.pk, first.pk]).values_list("node__name", flat=True)
    assert list(nodes) == ["n1", "n1"]
    assert wishes.join_group(first, group, "").status == "success"
    with pytest.raises(AlreadyInGroup):
        wishes.join_group(first, group, "")
    with pytest.raises(NotStopped):
        wishes.join_group(other, group, "")
    with pytest.raises(PlacementFailed, match="same node as server web-1"):
        wishes.join_group(third, group, "")
    assert wishes.leave_group(first, "").status == "success"
    assert wishes.join_group(third, group, "").status == "success"


def test_two_that_join_at_once(cloud: Cloud, group: PlacementGroup) -> None:
    rows = [cloud.stopped_server(f"web-{i}") for i in (1, 2)]
    joined = at_once(*(lambda row=row: wishes.join_group(row, group, "") for row in rows))
    assert sorted(isinstance(j, PlacementFailed) for j in joined) == [False, True]
    assert Server.objects.filter(placement_group=group).count() == 1


# Strangers


def stranger() -> Project:
    return Project.objects.create(name="stranger")


def test_a_node_that_does_not_isolate_serves_one_project(cloud: Cloud) -> None:
    Node.objects.update(settings={**cloud.node.settings, "shared": False})
    cloud.running_server("web-1")
    with pytest.raises(NoRoom, match="serves another project") as caught:
        cloud.new_server("web-2", project=stranger())
    assert "shared = true" in str(caught.value)
    cloud.running_server("web-2")
    for fields in ({"settings": {"shared": True}}, {"facts": {"isolated": True}}):
        Node.objects.update(**fields)
        cloud.running_server(f"strange-{'-'.join(fields)}", project=Project.objects.get(name="stranger"))
        Node.objects.update(settings={"shared": False}, facts={})


def test_strangers_at_once_never_meet(cloud: Cloud) -> None:
    Node.objects.update(settings={**cloud.node.settings, "shared": False})
    rows = [cloud.new_server("web-1"), cloud.new_server("web-2", project=stranger())]
    at_once(*(lambda row=row: advance(FLOW, row.pk) for row in rows))
    cloud.settle()
    assert Server.objects.filter(node__isnull=False).count() == 1
    assert Action.objects.get(status="error").error_code == "resource_unavailable"


# Volumes


def test_a_server_comes_to_its_volume(cloud: Cloud, second: Node) -> None:
    data = Volume(project=cloud.project(), name="data", size_gib=10)
    volumes.create(data, None, False)
    cloud.settle()
    Node.objects.filter(name="n1").update(last_placed=100)
    first = cloud.running_server("web-1", volumes=[data])
    assert first.node == second
    server.delete(first)
    cloud.settle()
    Node.objects.filter(name="n2").update(last_placed=1000)
    data.refresh_from_db()
    assert cloud.running_server("web-2", volumes=[data]).node == second
    Node.objects.filter(name="n2").update(ssh_ports=1)
    data.server = None
    with pytest.raises(NoRoom, match="n1 is not n2, where the server's volumes lie; n2 has no SSH port left"):
        cloud.new_server("web-3", volumes=[data])


def test_volumes_of_two_nodes_have_no_server(cloud: Cloud, second: Node) -> None:
    on = [Volume(project=cloud.project(), name=n.name, size_gib=1, node=n) for n in (cloud.node, second)]
    with pytest.raises(Invalid, match="n1 on n1, n2 on n2"):
        cloud.new_server("web-1", volumes=on)
    assert Server.objects.count() == 0


# Deletion


def test_delete_during_create(cloud: Cloud) -> None:
    """Whoever is first: nothing is left, and both actions have ended."""
    for number in range(3):
        row = cloud.new_server(f"web-{number}")
        at_once(partial(advance, FLOW, row.pk), partial(server.delete, row))
        cloud.settle()
        cloud.nothing_left()
