"""What a node says, and what we make of it."""

import signal
from datetime import timedelta

import httpx
import pytest
from django.db.models.functions import Now

from paddock.base.errors import Unavailable
from paddock.cloud.flows import node as watching
from paddock.cloud.flows import server
from paddock.cloud.flows.engine import Flow, advance
from paddock.cloud.models import Node, Server
from paddock.machine.state import Phase
from tests.agent.process import AgentProcess
from tests.cloud.harness import Cloud


def crash(agent: AgentProcess, row: Server) -> None:
    transport = httpx.HTTPTransport(uds=str(agent.socket), verify=False)
    with httpx.Client(transport=transport, base_url="http://agent") as client:
        answer = client.post("/v1/faults", json={"crash": [str(row.uuid)]})
        assert answer.status_code < 300, answer.text


def test_first_look_writes_down_what_the_node_has(cloud: Cloud) -> None:
    Node.objects.update(state="new", cpus=0, memory_mib=0, settings={"cpus": 7}, facts={})
    watching.look(cloud.node, 0, 0)
    node = cloud.node
    assert (node.state, node.cpus) == ("up", 7)
    assert node.memory_mib > 0
    assert node.facts["hypervisor"] == "fake"
    assert node.last_seen is not None


def test_crash_is_seen_and_told(cloud: Cloud, agent: AgentProcess) -> None:
    row = cloud.running_server()
    crash(agent, row)
    watching.look(cloud.node, 1, 0)
    cloud.settle()
    row.refresh_from_db()
    assert (row.status, row.observed) == ("off", Phase.CRASHED)
    assert row.problem


def test_crashed_server_is_started_again_where_it_asks_for_it(cloud: Cloud, agent: AgentProcess) -> None:
    row = cloud.running_server()
    Server.objects.filter(pk=row.pk).update(restart="on-failure")
    crash(agent, row)
    watching.look(cloud.node, 1, 0)
    cloud.settle()
    row.refresh_from_db()
    assert (row.status, row.restarts, row.problem) == ("running", 1, "")
    assert [m.phase for m in cloud.node_says()] == [Phase.RUNNING]


def test_endless_crashes_are_not_restarted_for_ever(cloud: Cloud, agent: AgentProcess) -> None:
    row = cloud.running_server()
    Server.objects.filter(pk=row.pk).update(restart="on-failure", restarts=server.MAX_RESTARTS)
    crash(agent, row)
    watching.look(cloud.node, 1, 0)
    cloud.settle()
    row.refresh_from_db()
    assert row.status == "off"


def test_server_that_its_node_lost_is_unknown(cloud: Cloud) -> None:
    row = cloud.running_server()
    cloud.host().machines.remove(row.uuid, row.epoch)
    watching.look(cloud.node, 1, 0)
    cloud.settle()
    row.refresh_from_db()
    assert row.status == "unknown"
    assert "does not know this server" in row.problem


def test_resting_servers_are_left_alone(cloud: Cloud) -> None:
    row = cloud.running_server()
    before = Server.objects.get(pk=row.pk).epoch
    watching.look(cloud.node, 1, 0)
    assert Server.objects.get(pk=row.pk).epoch == before


def test_a_node_that_does_not_answer_is_down(cloud: Cloud) -> None:
    node = cloud.node
    node.url = "unix:///nowhere/agent.sock"
    with pytest.raises(Unavailable) as caught:
        watching.look(node, 0, 0)
    watching.mark_down(node, caught.value)
    assert cloud.node.state == "down"
    assert "/nowhere/agent.sock" in cloud.node.problem


def test_a_step_waits_for_a_node_that_is_away(cloud: Cloud, agent: AgentProcess) -> None:
    """The agent is killed; the server is made when it is back."""
    row = cloud.new_server()
    agent.stop(signal.SIGKILL)
    try:
        advance(Flow.registry["server"], row.pk)
        row.refresh_from_db()
        assert row.step == "image"
        assert "does not answer" in row.waiting_for or "another try" in row.waiting_for
    finally:
        agent.start()
    cloud.settle()
    row.refresh_from_db()
    assert row.status == "running"


def test_a_step_gives_up_at_its_deadline(cloud: Cloud, agent: AgentProcess) -> None:
    """By PostgreSQL's clock, and with the reason it waited for."""
    row = cloud.new_server()
    agent.stop(signal.SIGKILL)
    try:
        advance(Flow.registry["server"], row.pk)
        row.refresh_from_db()
        assert "another try after" in row.waiting_for
        Server.objects.filter(pk=row.pk).update(deadline=Now() - timedelta(seconds=1), next_at=Now())
        advance(Flow.registry["server"], row.pk)
    finally:
        agent.start()
    row.refresh_from_db()
    assert row.status == "off"
    assert "gave up" in row.problem
    server.delete(row)
    cloud.settle()
    cloud.nothing_left()
