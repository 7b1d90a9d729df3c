"""Several nodes on one host, as in kvm-cloud's example: ids and ports of their own, and never more than they hold."""

import threading

import httpx
import pytest

from tests.guests.stack import Plan, Stack, stack

pytestmark = [pytest.mark.guest, pytest.mark.slow]

PLAN = Plan(
    workers=2,
    nodes=(
        {"name": "s1", "first_id": 1000, "cpus": 3, "cpu_overcommit": 1.0, "memory_mib": 4096, "disk_gib": 100},
        {"name": "s2", "first_id": 2000, "cpus": 2, "cpu_overcommit": 1.0, "memory_mib": 4096, "disk_gib": 100},
    ),
)


def ask(cloud: Stack, name: str, answers: list[httpx.Response]) -> None:
    """Not started: this is about room, and a machine that is off claims as much."""
    body = {"name": name, "server_type": "nano", "image": "tiny", "start_after_create": False}
    answers.append(cloud.api.post("/v1/servers", json=body))


def test_two_nodes() -> None:
    with stack(PLAN) as cloud:
        _in_turn(cloud)
        _never_overfull(cloud)


def _in_turn(cloud: Stack) -> None:
    """One after another: two that are placed in the same instant may go to the same node."""
    made = []
    for number in range(4):
        made.append(cloud.create(f"turn-{number}", x_start_paused=True))
        cloud.done(made[-1][1])
    servers = [cloud.server(s) for s, _ in made]
    assert [s["x_name"] for s in servers] == ["s1/1000", "s2/2000", "s1/1001", "s2/2001"]
    for server in servers:
        first = cloud.ports[1 if server["x_node"] == "s1" else 21]
        assert server["x_ssh"]["port"] in range(first, first + 20)
        uuid = server["x_uuid"]
        assert cloud.qemu(uuid)
        assert [d.parent.parent.name for d in cloud.machine_dirs() if d.name == uuid] == [server["x_node"]]
    nodes = {n["name"]: n for n in cloud.get("/admin/v1/nodes")["nodes"]}
    assert [(n["servers"], n["running"]) for n in nodes.values()] == [(2, 2), (2, 2)]
    cloud.remove(*[s for s, _ in made])
    cloud.nothing_left()


def _never_overfull(cloud: Stack) -> None:
    """Ten at once where five have room, by two workers: five get it, and five are told why not."""
    answers: list[httpx.Response] = []
    askers = [threading.Thread(target=ask, args=(cloud, f"many-{n}", answers)) for n in range(10)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    taken = [a.json() for a in answers if a.status_code == 201]
    ended = [cloud.ended(a["action"]["id"]) for a in taken]
    assert sum(a["status"] == "success" for a in ended) == 5, ended
    said = [a["error"]["message"] for a in ended if a["status"] == "error"]
    said += [a.json()["error"]["message"] for a in answers if a.status_code != 201]
    assert len(said) == 5
    assert all("s1 has" in text and "s2 has" in text and "CPUs free" in text for text in said), said
    rows = cloud.rows("SELECT name, claimed_cpus, cpus * cpu_overcommit FROM cloud_node ORDER BY name")
    assert rows == [("s1", 3, 3.0), ("s2", 2, 2.0)]
    cloud.remove(*[a["server"]["id"] for a in taken])
    cloud.nothing_left()
