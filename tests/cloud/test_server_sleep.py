"""Servers that stand still, and go on."""

import pytest

from paddock.base.errors import Conflict
from paddock.cloud.flows import node as watching
from paddock.cloud.flows import server
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.models import Action, Server
from paddock.machine.state import Phase
from tests.cloud.harness import Cloud


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


def test_what_is_off_can_not_stand_still(cloud: Cloud) -> None:
    row = cloud.stopped_server()
    for wish in (wishes.pause, wishes.resume):
        with pytest.raises(Conflict, match="is off"):
            wish(row, "")
