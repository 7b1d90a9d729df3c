"""Which node, and why not the others."""

from dataclasses import dataclass, replace

import pytest
from django.db import IntegrityError, connection, transaction

from paddock.base.errors import NameTaken, NoRoom
from paddock.cloud import placement
from paddock.cloud.flows import server
from paddock.cloud.flows.engine import Flow, advance
from paddock.cloud.models import Action, Node, Server
from paddock.cloud.placement import Demand, choose, explain, judge
from tests.cloud.harness import Cloud


@dataclass
class Room:
    name: str = "n1"
    state: str = "up"
    problem: str = ""
    cpus: int = 4
    memory_mib: int = 4096
    disk_gib: int = 100
    cpu_overcommit: float = 2.0
    memory_overcommit: float = 1.0
    claimed_cpus: int = 0
    claimed_memory_mib: int = 0
    claimed_disk_gib: int = 0
    ssh_ports: int = 10
    first_ssh_port: int = 2200
    last_placed: int = 0


SMALL = Demand(cpus=1, memory_mib=1024, disk_gib=10)


def test_a_disk_that_others_filled(cloud: Cloud) -> None:
    """Nothing is claimed of it, and nothing fits."""
    Node.objects.update(facts={"disk_free": 300 * 2**20})
    with pytest.raises(NoRoom, match="no node has room: n1 has 300 MiB of its disk really free, and 1024 are kept"):
        cloud.new_server()
    Node.objects.update(facts={"disk_free": 2**40})
    assert cloud.running_server().status == "running"


def test_fits() -> None:
    assert judge(Room(), SMALL, 0) == placement.Verdict("n1", (), True, False)


def test_overcommit_of_cpus_counts() -> None:
    assert not judge(Room(), Demand(8, 1024, 10), 0).reasons
    verdict = judge(Room(), Demand(9, 1024, 10), 0)
    assert verdict.reasons == ("has 8 of 8 (4 × 2) CPUs free, 1 too few",)
    assert not verdict.ever


def test_every_reason_is_told() -> None:
    full = replace(Room(), claimed_memory_mib=4000, claimed_disk_gib=95)
    verdict = judge(full, SMALL, 10)
    assert explain([verdict]) == (
        "n1 has 96 of 4096 MiB of memory free, 928 too few and has 5 of 100 GiB of disk free, 5 too few "
        "and has no SSH port left in 2200–2209"
    )
    assert verdict.ever


def test_down_node_is_not_chosen() -> None:
    assert choose([replace(Room(), state="down", problem="no answer")], SMALL, {}, "round-robin")[0] == []


def test_round_robin_takes_who_waited_longest() -> None:
    nodes = [
        replace(Room(), name="a", last_placed=5),
        replace(Room(), name="b", last_placed=3),
        replace(Room(), name="c"),
    ]
    assert choose(nodes, SMALL, {}, "round-robin")[0] == ["c", "b", "a"]


def test_free_room_takes_the_emptiest() -> None:
    nodes = [replace(Room(), name="a", claimed_cpus=4), replace(Room(), name="b", claimed_memory_mib=1024)]
    assert choose(nodes, SMALL, {}, "free-room")[0] == ["b", "a"]


def second_node(cloud: Cloud, **fields: object) -> Node:
    node = cloud.node
    node.pk = None
    node.name, node.first_id, node.first_ssh_port = "n2", 2000, 2300
    for name, value in fields.items():
        setattr(node, name, value)
    node.save(force_insert=True)
    return node


def test_two_nodes_take_turns(cloud: Cloud) -> None:
    """Ids and ports of each node's own range (K6, K12, K13, K22)."""
    second_node(cloud)
    rows = [cloud.new_server(f"web-{i}") for i in range(4)]
    cloud.settle()
    placed = {Server.objects.select_related("node").get(pk=r.pk).x_name for r in rows}
    assert placed == {"n1/1000", "n1/1001", "n2/2000", "n2/2001"}
    assert set(Server.objects.values_list("ssh_port", flat=True)) == {2200, 2201, 2300, 2301}


def test_the_node_that_was_asked_for(cloud: Cloud) -> None:
    """Also when it must be waited for, and also after a first try that failed."""
    second_node(cloud)
    rows = [cloud.new_server(f"web-{i}", asked="n2") for i in range(3)]
    cloud.settle()
    assert {Server.objects.get(pk=r.pk).node.name for r in rows} == {"n2"}  # type: ignore[union-attr]  # placed
    Node.objects.filter(name="n2").update(state="down", problem="restarting")
    waiting = cloud.new_server("web-4", asked="n2")
    advance(Flow.registry["server"], waiting.pk)
    waiting.refresh_from_db()
    assert (waiting.step, waiting.waiting_for) == ("place", "node n2 to answer")
    Node.objects.filter(name="n2").update(state="up", cpus=1, cpu_overcommit=1.0, claimed_cpus=1)
    cloud.settle()
    waiting.refresh_from_db()
    why = "no node has room: n1 is not n2, which was asked for; n2 has 0 of 1 CPUs free, 1 too few"
    assert (waiting.status, waiting.problem) == ("off", why)
    Node.objects.filter(name="n2").update(cpus=4)
    server.ask(waiting, "start_server")
    cloud.settle()
    assert Server.objects.get(pk=waiting.pk).node.name == "n2"  # type: ignore[union-attr]  # placed
    with pytest.raises(NoRoom, match="n1 is not n2, which was asked for; n2 has 2 of 4 CPUs free, 6 too few"):
        cloud.new_server("big", plan="large", asked="n2")


def test_numbers_are_never_used_twice(cloud: Cloud) -> None:
    first = cloud.running_server()
    server.delete(first)
    cloud.settle()
    again = cloud.running_server()
    assert again.number == 1001
    assert again.ssh_port == 2200  # ports are


def test_too_large_is_refused_at_once(cloud: Cloud) -> None:
    Node.objects.update(memory_mib=1024)
    with pytest.raises(NoRoom, match="has 1024 of 1024 MiB of memory free, 3072 too few"):
        cloud.new_server(plan="medium")
    cloud.nothing_left()


def test_no_port_left_is_refused_at_once(cloud: Cloud) -> None:
    Node.objects.update(ssh_ports=1)
    cloud.running_server()
    with pytest.raises(NoRoom, match="no SSH port left in 2200–2200"):
        cloud.new_server("web-2")
    assert Server.objects.count() == 1


def test_waits_for_a_node_that_is_down(cloud: Cloud) -> None:
    """A node that is only down for the moment is no reason to refuse."""
    Node.objects.update(state="down", problem="restarting")
    row = cloud.new_server()
    advance(Flow.registry["server"], row.pk)
    row.refresh_from_db()
    assert (row.step, row.waiting_for) == ("place", "node n1 to answer")
    Node.objects.update(state="up")
    cloud.settle()
    row.refresh_from_db()
    assert row.status == "running"


def test_two_workers_never_overfill(cloud: Cloud) -> None:
    """Whatever placement thought, the claim is one conditional UPDATE."""
    Node.objects.update(cpus=3, cpu_overcommit=1.0)
    node = cloud.node
    assert [node.claim(1, 128, 2) for _ in range(5)] == [True, True, True, False, False]
    node.refresh_from_db()
    assert node.claimed_cpus == 3
    node.release(3, 3 * 128, 6)


def test_database_refuses_an_overfull_node(cloud: Cloud) -> None:
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE cloud_node SET claimed_cpus = cpus * cpu_overcommit + 1")


def test_port_taken_by_somebody_else(cloud: Cloud) -> None:
    """The next port is taken, and the guest's forward moves there."""
    cloud.running_server("web-1")
    row = cloud.new_server("web-2")
    Server.objects.filter(pk=row.pk).update(step="place")
    # Somebody outside Paddock has 2201: here another machine on the same node that has no row.
    other = cloud.new_server("web-3")
    cloud.settle()
    stray = Server.objects.get(pk=other.pk)
    Server.objects.filter(pk=stray.pk).update(ssh_port=None)
    late = cloud.new_server("web-4")
    cloud.settle()
    late.refresh_from_db()
    assert late.status == "running"
    assert late.ssh_port == 2203
    Server.objects.filter(pk=stray.pk).update(ssh_port=stray.ssh_port)


def test_no_server_without_a_name_of_its_own(cloud: Cloud) -> None:
    cloud.new_server("web-1")
    with pytest.raises(NameTaken):
        cloud.new_server("WEB-1")
    assert Action.objects.count() == 1
    cloud.settle()
