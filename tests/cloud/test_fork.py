"""Forks of servers: one action on the server that is forked, and the creates of the new ones."""

from typing import Any
from uuid import UUID

import pytest

from paddock.base.errors import Conflict, LimitExceeded, Locked, NameTaken, NoRoom
from paddock.cloud.flows import engine, forking, server
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.flows.engine import Flow, advance
from paddock.cloud.models import Action, Event, Project, Server
from paddock.hypervisor.faults import Failure
from paddock.machine.spec import Power
from paddock.machine.state import Phase
from tests.cloud.harness import Cloud, in_worker_that_dies
from tests.cloud.test_volume import new_volume

FLOW = Flow.registry["server"]


def asked(row: Server, *names: str) -> tuple[Action, list[Server]]:
    action, made = forking.fork(row, forking.Wanted(list(names), ["ssh-ed25519 AAAA more"], {"a": "b"}), "")
    return action, [child for child, _ in made]


def point_of(action: Action) -> UUID:
    return UUID(action.arguments["point"])


def there(cloud: Cloud, action: Action) -> bool:
    """Whether the node still keeps the memory: then it says at once that it has it, whatever is asked."""
    other = cloud.host().machines
    parent = Server.objects.get(pk=action.row_id)
    other.power(parent.uuid, Power.PAUSE, parent.epoch)
    try:
        return bool(other.fork(parent.uuid, point_of(action), parent.epoch).done)
    except Conflict:
        return False
    finally:
        other.power(parent.uuid, Power.RESUME, parent.epoch)


def fresh(row: Server) -> Server:
    return Server.objects.get(pk=row.pk)


def test_two_of_one(cloud: Cloud) -> None:
    row = cloud.running_server()
    cloud.host().guest.write_file(row.uuid, "/etc/hostname", 0, b"x")
    action, children = asked(row, "one", "two")
    cloud.settle()
    action.refresh_from_db()
    assert (action.status, action.error_message) == ("success", "")
    assert {about["id"] for about in action.more} == {child.pk for child in children}
    for child in map(fresh, children):
        assert (child.status, child.began, child.fork, child.problem) == ("running", "fork", None, "")
        assert child.node_id == row.node_id
        assert child.ready_at is not None
        assert cloud.host().machines.state(child.uuid).began.fork
        for column in ("image_sha256", "cores", "memory_mib", "disk_gib", "max_cores", "max_memory_mib", "layout"):
            assert getattr(child, column) == getattr(fresh(row), column), column
        assert (child.public_keys[-1], child.labels, child.user_data) == ("ssh-ed25519 AAAA more", {"a": "b"}, "")
        assert Action.objects.get(kind="server", row_id=child.pk, command="create_server").status == "success"
    said = Event.objects.get(kind="server", row_id=row.pk, step="fork", outcome="done").detail
    assert said == "it stood still for 10 ms"
    assert not there(cloud, action), "the last one has the memory removed"
    assert fresh(row).status == "running"


def test_what_they_take_is_claimed_and_given_back(cloud: Cloud) -> None:
    row = cloud.running_server()
    before = cloud.node
    _, children = asked(row, "one", "two")
    cloud.settle()
    after = cloud.node
    assert after.claimed_memory_mib == before.claimed_memory_mib + 2 * row.memory_mib
    for child in children:
        server.delete(child)
    cloud.settle()
    assert cloud.node.claimed_memory_mib == before.claimed_memory_mib


def test_a_fork_is_a_server_like_any_other_afterwards(cloud: Cloud) -> None:
    row = cloud.running_server()
    _, [child] = asked(row, "one")
    cloud.settle()
    server.delete(row)
    cloud.settle()
    for command in ("stop_server", "start_server"):
        server.ask(fresh(child), command)
        cloud.settle()
    assert (fresh(child).status, fresh(child).problem) == ("running", "")
    assert not cloud.host().machines.state(child.uuid).began.fork
    wishes.rebuild(fresh(child), child.image, None, "", "")
    cloud.settle()
    assert (fresh(child).status, fresh(child).began) == ("running", "cold")


def test_refused_at_once(cloud: Cloud) -> None:
    row = cloud.running_server()
    servers = Server.objects.count()
    with pytest.raises(NameTaken):
        asked(row, "one", row.name)
    off = cloud.stopped_server("off")
    with pytest.raises(Conflict, match="is off"):
        asked(off, "one")
    with pytest.raises(NoRoom, match=row.node.name if row.node else "?"):
        asked(row, *(f"fork-{n}" for n in range(2000)))
    Project.objects.filter(pk=row.project_id).update(limit_servers=3)
    with pytest.raises(LimitExceeded):
        asked(fresh(row), "one", "two")
    Project.objects.filter(pk=row.project_id).update(limit_servers=None)
    assert Server.objects.count() == servers + 1
    assert not Action.objects.filter(command="fork_server").exists(), "all of it or nothing"
    wishes.pause(row, "")
    with pytest.raises(Locked):
        asked(row, "one")
    cloud.settle()


def test_with_volumes_it_is_not_forked(cloud: Cloud) -> None:
    row = cloud.running_server()
    new_volume(cloud, "data", server=row)
    cloud.settle()
    with pytest.raises(Conflict, match="volumes"):
        asked(row, "one")


@pytest.mark.parametrize("order", [
    {"copy_error": "it broke"}, {"disk_full": True}, {"guest_agent_absent": True},
], ids=["fails", "full", "silent"])  # fmt: skip
def test_what_can_not_be_forked_runs_on(cloud: Cloud, order: dict[str, Any]) -> None:
    row = cloud.running_server()
    cloud.agent_faults(**order)
    action, children = asked(row, "one", "two")
    cloud.settle()
    cloud.agent_faults(clear=True)
    action.refresh_from_db()
    assert action.status == "error"
    assert "is not forked, and runs on" in action.error_message
    assert (fresh(row).status, fresh(row).problem) == ("running", "")
    assert cloud.host().machines.state(row.uuid).phase is Phase.RUNNING
    for child in map(fresh, children):
        assert child.status == "off"
        asked_for = Action.objects.get(kind="server", row_id=child.pk, command="create_server")
        assert asked_for.status == "error"
        assert "was not forked" in asked_for.error_message or "room" in asked_for.error_message
        server.delete(child)
    cloud.settle()
    assert Server.objects.count() == 1
    again, [child] = asked(fresh(row), "again")
    cloud.settle()
    assert fresh(child).began == "fork"
    assert not there(cloud, again)


def test_one_that_can_not_begin_is_off_and_never_boots(cloud: Cloud) -> None:
    row = cloud.running_server()
    action, children = asked(row, "one", "two")
    refused = Failure(operation="power", code="refused", message="no identity", machine=children[0].uuid, times=1)
    cloud.agent_faults(fail=(refused,))
    cloud.settle()
    first, second = map(fresh, children)
    assert (first.status, first.began, second.status) == ("off", "lost", "running")
    assert "no identity" in first.problem
    assert not there(cloud, action)
    begun = server.ask(first, "start_server")
    cloud.settle()
    begun.refresh_from_db()
    assert begun.status == "error"
    assert "not there any more" in begun.error_message
    assert cloud.host().machines.state(first.uuid).phase in (Phase.DEFINED, Phase.OFF)
    server.delete(first)
    cloud.settle()
    assert fresh(row).status == "running"


def test_deleted_while_it_is_forked(cloud: Cloud) -> None:
    """The server, or all of its forks: nothing is left of either."""
    row = cloud.running_server()
    cloud.agent_faults(copy_seconds=0.4)
    action, children = asked(row, "one")
    server.delete(children[0])
    cloud.settle()
    action.refresh_from_db()
    assert action.status == "error"
    assert fresh(row).status == "running"
    assert not there(cloud, action)
    _, children = asked(fresh(row), "two")
    server.delete(row)
    cloud.settle()
    assert [s.name for s in Server.objects.all()] == ["two"]
    assert (fresh(children[0]).status, fresh(children[0]).began) == ("off", "lost")
    server.delete(children[0])
    cloud.settle()
    cloud.agent_faults(clear=True)
    assert not Server.objects.exists()


STEPS = [("parent", "fork"), ("child", "memory"), ("child", "start"), ("child", "part")]


def begun(cloud: Cloud, whose: str) -> tuple[Server, list[Server], Server]:
    """A server that is being forked, its forks, and which of them is looked at: a fork can begin then."""
    row = cloud.running_server()
    action, children = asked(row, "one", "two")
    if whose == "parent":
        return row, children, row
    while Action.objects.get(pk=action.pk).status == "running":
        advance(FLOW, row.pk)
    return row, children, children[0]


def all_is_well(cloud: Cloud, row: Server, children: list[Server]) -> None:
    """Both run, and leave nothing behind."""
    assert {(fresh(child).status, fresh(child).began, fresh(child).fork) for child in children} == {
        ("running", "fork", None)
    }
    action = Action.objects.get(command="fork_server")
    assert action.status == "success"
    assert not there(cloud, action)
    for server_ in (row, *children):
        server.delete(server_)
    cloud.settle()
    cloud.nothing_left()


@pytest.mark.parametrize("moment", ["before", pytest.param("after", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("whose", "step"), STEPS)
def test_a_worker_is_killed(cloud: Cloud, whose: str, step: str, moment: str) -> None:
    row, children, looked_at = begun(cloud, whose)
    assert in_worker_that_dies(FLOW, looked_at.pk, step, moment), "the flow never came to this step"
    cloud.settle()
    all_is_well(cloud, row, children)


@pytest.mark.parametrize("step", [step for _, step in STEPS])
def test_a_step_runs_twice(cloud: Cloud, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = cloud.running_server()
    _, children = asked(row, "one", "two")
    ran, attempt = [], engine._attempt

    def twice(flow: Flow[Any], row: Server) -> object:
        first = attempt(flow, row)
        if row.step != step:
            return first
        ran.append(step)
        return attempt(flow, row)

    monkeypatch.setattr(engine, "_attempt", twice)
    cloud.settle()
    monkeypatch.undo()
    assert ran
    all_is_well(cloud, row, children)


@pytest.mark.slow
@pytest.mark.parametrize(("whose", "step"), STEPS)
def test_delete_arrives(cloud: Cloud, whose: str, step: str) -> None:
    """Of the server or of one of its forks: nothing of that one is left, and nothing of any in the end."""
    row, children, looked_at = begun(cloud, whose)
    assert in_worker_that_dies(FLOW, looked_at.pk, step, "after")
    server.delete(looked_at)
    cloud.settle()
    assert not Server.objects.filter(pk=looked_at.pk).exists()
    for left in Server.objects.all():
        server.delete(left)
    cloud.settle()
    cloud.nothing_left()
    taken = cloud.host().machines.facts().use.machines
    assert taken == 0, "the memory is removed too"
    assert children
    assert row
