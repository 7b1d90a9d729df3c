"""A node that comes up again: who is started, in which order, how long after each other, and nobody twice."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from paddock.base import clock
from paddock.cloud.flows import autostart, server
from paddock.cloud.flows import node as watching
from paddock.cloud.models import Action, Node, Server
from paddock.machine.state import Phase
from tests.cloud.harness import Cloud, at_once

MANY = 20


def line_up(cloud: Cloud, count: int = MANY, **fields: Any) -> list[Server]:
    """Servers that run, and shall be started in the opposite order of their making."""
    rows = [cloud.new_server(f"s-{n:02}", autostart=True, autostart_order=count - n, **fields) for n in range(count)]
    cloud.settle()
    watching.look(cloud.node, 0, 0)
    Action.objects.all().delete()
    return rows


def a_minute_passes() -> None:
    """All turns come a minute earlier."""
    later = F("autostart_at") - timedelta(seconds=60)
    Server.objects.filter(autostart_at__isnull=False).update(autostart_at=later)


def look(cloud: Cloud, cursor: int = 1) -> None:
    watching.look(cloud.node, cursor, 0)
    cloud.settle()
    while Server.objects.filter(autostart_at__lte=Now()).exists():  # started by now is one order after the other
        watching.look(cloud.node, 1, 0)
        cloud.settle()


def up(cloud: Cloud) -> list[str]:
    """The names of those that run, in the order in which they were started."""
    machines = {m.uuid: m.since for m in cloud.node_says() if m.phase is Phase.RUNNING}
    rows = Server.objects.filter(status="running", uuid__in=machines)
    return [row.name for row in sorted(rows, key=lambda row: machines[row.uuid])]


def starts(cloud: Cloud) -> int:
    """How often machines were turned on, ever."""
    return sum(len(cloud.saved(row)["runs"]) for row in Server.objects.all())


@pytest.mark.slow
def test_a_node_restart_with_twenty_servers(cloud: Cloud) -> None:
    line_up(cloud, autostart_delay=60, restart="on-failure")
    left = cloud.running_server("left", restart="on-failure")
    before = starts(cloud)
    cloud.agent_faults(restart_host=True)
    look(cloud, 0)
    wanted = [f"s-{n:02}" for n in reversed(range(MANY))]
    for turn in range(MANY):
        assert up(cloud) == wanted[: turn + 1]
        a_minute_passes()
        look(cloud)
    assert up(cloud) == wanted
    assert starts(cloud) == before + MANY
    assert Action.objects.filter(command="start_server", argument="autostart", status="success").count() == MANY
    left.refresh_from_db()
    assert (left.status, left.problem) == ("off", "the host was restarted while it ran")
    look(cloud, 0)
    assert starts(cloud) == before + MANY


def test_nobody_is_started_twice_by_two_watchers(cloud: Cloud) -> None:
    line_up(cloud, 4)
    before = starts(cloud)
    cloud.agent_faults(restart_host=True)
    node = cloud.node
    assert at_once(*[lambda: watching.look(node, 0, 0)] * 4).count(None) == 0
    look(cloud)
    assert starts(cloud) == before + 4
    assert Action.objects.filter(command="start_server").count() == 4


def test_who_was_started_meanwhile_is_not_started_again(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another watcher, after this one had seen whose turn it is."""
    line_up(cloud, 1)
    before = starts(cloud)
    cloud.agent_faults(restart_host=True)
    autostart.note_boot(cloud.node, cloud.host().machines.facts().boot_id)
    usual = autostart._being_started

    def others_are_quicker(node: Node, order: int) -> bool:
        monkeypatch.undo()
        autostart.start_due(node)
        cloud.settle()
        return usual(node, order)

    monkeypatch.setattr(autostart, "_being_started", others_are_quicker)
    autostart.start_due(cloud.node)
    cloud.settle()
    assert starts(cloud) == before + 1
    assert Action.objects.filter(command="start_server").count() == 1


def test_one_boot_is_noted_once(cloud: Cloud) -> None:
    """Also by who saw the boot before in the moment in which another wrote down this one."""
    line_up(cloud, 1)
    node = cloud.node
    with transaction.atomic():
        Node.objects.filter(pk=node.pk).update(facts={**node.facts, "boot_id": "new"})
        other = threading.Thread(target=at_once, args=[lambda: autostart.note_boot(node, "new")])
        other.start()
        clock.sleep(0.5)  # it waits for the row by now
    other.join()
    assert not Server.objects.filter(autostart_at__isnull=False).exists()


def test_lower_orders_are_started_first_but_not_waited_for_for_ever(cloud: Cloud) -> None:
    line_up(cloud, 2)
    cloud.agent_faults(restart_host=True)
    watching.look(cloud.node, 0, 0)
    watching.look(cloud.node, 1, 0)
    asked = Action.objects.filter(argument=autostart.BY_ITSELF)
    assert asked.count() == 1
    asked.update(started=clock.now() - timedelta(seconds=autostart.PATIENCE))
    watching.look(cloud.node, 1, 0)
    assert asked.count() == 2
    cloud.settle()


def test_a_watcher_that_dies_in_between_forgets_nobody(cloud: Cloud) -> None:
    line_up(cloud, 3)
    cloud.agent_faults(restart_host=True)
    autostart.note_boot(cloud.node, cloud.host().machines.facts().boot_id)  # and it dies here
    cloud.settle()
    look(cloud, 0)
    assert up(cloud) == ["s-02", "s-01", "s-00"]


def test_turns_are_waited_for_no_longer_than_they_take(cloud: Cloud) -> None:
    line_up(cloud, 2, autostart_delay=3)
    assert autostart.wait_for_next(cloud.node, 5.0) == 5.0
    cloud.agent_faults(restart_host=True)
    look(cloud, 0)
    assert 0 < autostart.wait_for_next(cloud.node, 5.0) <= 3
    assert autostart.wait_for_next(cloud.node, 0.5) == 0.5


def test_who_is_stopped_while_it_waits_is_not_started(cloud: Cloud) -> None:
    first, last = line_up(cloud, 2, autostart_delay=60)
    cloud.agent_faults(restart_host=True)
    look(cloud, 0)
    assert Server.objects.get(pk=first.pk).autostart_at is not None
    server.ask(first, "stop_server")
    cloud.settle()
    a_minute_passes()
    look(cloud)
    assert up(cloud) == [last.name]


def test_a_restart_of_the_agent_alone_starts_nobody(cloud: Cloud) -> None:
    rows = line_up(cloud, 2)
    server.ask(rows[0], "stop_server")
    cloud.settle()
    cloud.agent.stop()
    cloud.agent.start()
    look(cloud, 0)
    assert up(cloud) == [rows[1].name]


def test_those_that_were_off_are_started_too_and_others_are_not(cloud: Cloud) -> None:
    wanted = line_up(cloud, 1)[0]
    server.ask(wanted, "stop_server")
    cloud.stopped_server("other")
    cloud.agent_faults(restart_host=True)
    look(cloud, 0)
    assert up(cloud) == [wanted.name]
