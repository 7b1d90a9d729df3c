"""Servers that stand still, and go on."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from paddock.base import clock
from paddock.base.errors import Conflict
from paddock.cloud.flows import node as watching
from paddock.cloud.flows import server
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.flows import volume as volumes
from paddock.cloud.models import Action, Event, Server
from paddock.machine.state import Phase
from tests.cloud.harness import Cloud
from tests.cloud.test_volume import new_volume


def succeeded(cloud: Cloud, action: Action) -> None:
    cloud.settle()
    action.refresh_from_db()
    assert action.status == "success", action.error_message


def status(row: Server) -> str:
    return Server.objects.get(pk=row.pk).status


def phase(cloud: Cloud, row: Server) -> Phase:
    found: Phase = cloud.host().machines.state(row.uuid).phase
    return found


def test_pause_and_resume(cloud: Cloud) -> None:
    row = cloud.running_server()
    for _ in range(2):  # the second time it is done already
        succeeded(cloud, wishes.pause(row, ""))
        assert (status(row), phase(cloud, row)) == ("paused", Phase.PAUSED)
    watching.look(cloud.node, 1, 0)
    cloud.settle()
    assert status(row) == "paused"
    for _ in range(2):
        succeeded(cloud, wishes.resume(row, ""))
        assert (status(row), phase(cloud, row)) == ("running", Phase.RUNNING)
    assert Server.objects.get(pk=row.pk).ready_at is not None


def test_a_start_goes_on_with_what_is_paused(cloud: Cloud) -> None:
    row = cloud.running_server()
    succeeded(cloud, wishes.pause(row, ""))
    succeeded(cloud, server.ask(row, "start_server"))
    assert (status(row), phase(cloud, row)) == ("running", Phase.RUNNING)


def test_a_start_of_what_is_paused_leaves_it_the_system_that_it_runs(cloud: Cloud) -> None:
    row = cloud.running_server()
    succeeded(cloud, wishes.pause(row, ""))
    Server.objects.filter(pk=row.pk).update(rescue_until=clock.now() + timedelta(hours=1))
    succeeded(cloud, server.ask(row, "start_server"))
    found = Server.objects.get(pk=row.pk)
    assert (found.status, found.in_rescue, found.rescue_until is None) == ("running", False, False)


def test_a_reset_has_what_is_paused_go_on(cloud: Cloud) -> None:
    row = cloud.running_server()
    succeeded(cloud, wishes.pause(row, ""))
    succeeded(cloud, server.ask(row, "reset_server"))
    assert (status(row), phase(cloud, row)) == ("running", Phase.RUNNING)


def test_what_is_off_can_not_stand_still(cloud: Cloud) -> None:
    row = cloud.stopped_server()
    for wish in (wishes.pause, wishes.resume):
        with pytest.raises(Conflict, match="is off"):
            wish(row, "")


def test_hibernate_and_wake(cloud: Cloud) -> None:
    row = cloud.running_server()
    for _ in range(2):  # the second time it is done already
        succeeded(cloud, wishes.hibernate(row, ""))
        assert (status(row), phase(cloud, row)) == ("hibernated", Phase.HIBERNATED)
    watching.look(cloud.node, 1, 0)
    cloud.settle()
    assert status(row) == "hibernated"
    for _ in range(2):
        succeeded(cloud, wishes.wake(row, ""))
        assert (status(row), phase(cloud, row)) == ("running", Phase.RUNNING)
    found = Server.objects.get(pk=row.pk)
    assert found.ready_at is not None
    assert found.problem == ""


def test_memory_that_is_damaged_is_a_start_anew_and_said(cloud: Cloud) -> None:
    row = cloud.running_server()
    succeeded(cloud, wishes.hibernate(row, ""))
    cloud.agent_faults(damage=[str(row.uuid)])
    succeeded(cloud, wishes.wake(row, ""))
    found = Server.objects.get(pk=row.pk)
    assert (found.status, found.problem) == ("running", "it started anew: its memory is damaged")
    assert Event.objects.filter(kind="server", row_id=row.pk, detail__contains="its memory is damaged").exists()
    watching.look(cloud.node, 1, 0)
    cloud.settle()
    assert status(row) == "running"


@pytest.mark.parametrize(
    ("faults", "says"), [({"disk_full": True}, "no room"), ({"copy_error": "it broke"}, "it broke")]
)
def test_what_can_not_be_hibernated_runs_on_and_says_so(cloud: Cloud, faults: dict[str, object], says: str) -> None:
    row = cloud.running_server()
    cloud.agent_faults(**faults)
    action = wishes.hibernate(row, "")
    cloud.settle()
    action.refresh_from_db()
    assert action.status == "error"
    assert "server web-1 is not hibernated, and runs on" in action.error_message
    assert says in action.error_message
    assert (status(row), phase(cloud, row)) == ("running", Phase.RUNNING)
    cloud.agent_faults(clear=True)
    succeeded(cloud, wishes.hibernate(row, ""))


def test_a_start_wakes_and_a_power_off_drops_the_memory(cloud: Cloud) -> None:
    row = cloud.running_server()
    succeeded(cloud, wishes.hibernate(row, ""))
    succeeded(cloud, server.ask(row, "start_server"))
    assert cloud.saved(row)["cold_start"] == ""
    succeeded(cloud, wishes.hibernate(row, ""))
    succeeded(cloud, server.ask(row, "stop_server"))
    assert (status(row), phase(cloud, row)) == ("off", Phase.OFF)


@pytest.mark.parametrize(("wish", "stands"), [(wishes.hibernate, "hibernated"), (wishes.pause, "paused")])
@pytest.mark.parametrize("command", ["shutdown_server", "reboot_server"])
def test_nobody_asks_what_stands_still(cloud: Cloud, wish: Callable[..., Action], stands: str, command: str) -> None:
    row = cloud.running_server()
    succeeded(cloud, wish(row, ""))
    action = server.ask(row, command)
    cloud.settle()
    action.refresh_from_db()
    what = "shut it down" if command == "shutdown_server" else "reboot it"
    assert action.error_message == f"server web-1 is {stands}: nobody can {what}"
    found = Server.objects.get(pk=row.pk)
    assert (found.status, found.problem, found.ready_at is None) == (stands, "", stands == "hibernated")


def test_volumes_of_what_is_hibernated(cloud: Cloud) -> None:
    """It counts on those that it has; another one it gets when it wakes."""
    row = cloud.running_server()
    first, second = new_volume(cloud, "a"), new_volume(cloud, "b")
    cloud.settle()
    succeeded(cloud, volumes.attach(first, row, False))
    succeeded(cloud, wishes.hibernate(row, ""))
    first.refresh_from_db()
    with pytest.raises(Conflict, match="counts on volume a"):
        volumes.detach(first)
    with pytest.raises(Conflict, match="counts on volume a"):
        volumes.resize(first, first.size_gib + 10)
    succeeded(cloud, volumes.attach(second, row, False))
    succeeded(cloud, wishes.wake(row, ""))
    assert {a.volume for a in cloud.machine(row).volumes} == {first.uuid, second.uuid}
    assert status(row) == "running"


def test_hibernated_over_a_restart_of_its_host(cloud: Cloud) -> None:
    row = cloud.running_server(autostart=True)
    succeeded(cloud, wishes.hibernate(row, ""))
    watching.look(cloud.node, 0, 0)
    cloud.agent_faults(restart_host=True)
    watching.look(cloud.node, 0, 0)
    cloud.settle()
    found = Server.objects.get(pk=row.pk)
    assert (found.status, found.problem) == ("running", "")


def test_only_what_is_hibernated_wakes(cloud: Cloud) -> None:
    row = cloud.stopped_server()
    for wish in (wishes.hibernate, wishes.wake):
        with pytest.raises(Conflict, match="is off"):
            wish(row, "")


@pytest.mark.guest
@pytest.mark.slow
@pytest.mark.parametrize("agent", ["qemu"], indirect=True)
def test_a_real_one_hibernates_and_wakes(cloud: Cloud) -> None:
    row = cloud.running_server()
    for _ in range(2):
        succeeded(cloud, wishes.hibernate(row, ""))
        assert (status(row), phase(cloud, row)) == ("hibernated", Phase.HIBERNATED)
        succeeded(cloud, wishes.wake(row, ""))
        assert (status(row), phase(cloud, row)) == ("running", Phase.RUNNING)
        assert Server.objects.get(pk=row.pk).problem == ""
    server.delete(row)
    cloud.settle()
    cloud.nothing_left()
