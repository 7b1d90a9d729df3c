"""An operator runs a step again (W20): that one, and none that follows."""

import pytest

from paddock.base.errors import Locked
from paddock.cloud.flows import server
from paddock.cloud.models import Action, Event, ImageCopy, Server
from paddock.machine.state import Phase
from tests.cloud.harness import Cloud


def stopped(cloud: Cloud) -> Server:
    row = cloud.running_server()
    server.ask(row, "stop_server")
    cloud.settle()
    return row


@pytest.mark.parametrize("step", ["image", "clone", "cloud_init", "look"])
def test_one_step_and_no_other(cloud: Cloud, step: str) -> None:
    row = stopped(cloud)
    action = server.ask(row, "run_step", argument=step)
    cloud.settle()
    action.refresh_from_db()
    row.refresh_from_db()
    assert action.status == "success"
    assert list(Event.objects.filter(action_id=action.pk).values_list("step", flat=True)) == [step]
    assert (row.status, row.only_step) == ("off", "")
    assert [m.phase for m in cloud.node_says()] == [Phase.OFF]


def test_start_by_hand_is_watched(cloud: Cloud) -> None:
    row = stopped(cloud)
    server.ask(row, "run_step", argument="start")
    cloud.settle()
    row.refresh_from_db()
    assert row.status == "running"
    assert row.ready_at is not None


def test_a_lost_image_comes_back(cloud: Cloud) -> None:
    row = stopped(cloud)
    ImageCopy.objects.all().delete()
    server.ask(row, "run_step", argument="image")
    cloud.settle()
    assert ImageCopy.objects.count() == 1


def test_a_step_that_fails_fails_the_action(cloud: Cloud) -> None:
    row = stopped(cloud)
    Server.objects.filter(pk=row.pk).update(disk_gib=1, image_sha256="0" * 64)
    action = server.ask(row, "run_step", argument="clone")
    cloud.settle()
    action.refresh_from_db()
    assert action.status == "error"
    assert action.error_message
    row.refresh_from_db()
    assert row.only_step == ""


def test_one_thing_at_a_time(cloud: Cloud) -> None:
    row = stopped(cloud)
    server.ask(row, "start_server")
    with pytest.raises(Locked, match="busy with start_server"):
        server.ask(row, "run_step", argument="clone")
    assert Action.objects.filter(command="run_step").count() == 0
    cloud.settle()
