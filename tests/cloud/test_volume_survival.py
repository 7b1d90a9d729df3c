"""Every step of a volume three ways: its worker is killed, it runs twice, delete arrives right after it."""

import os
import signal
from typing import Any

import pytest
from django.db import connection

from paddock.base.errors import InUse
from paddock.cloud.flows import engine, volume
from paddock.cloud.flows.engine import Flow
from paddock.cloud.models import Action, Server, Volume
from tests.cloud.harness import Cloud, _die_at
from tests.cloud.test_volume import asked, claimed, fresh, new_volume, of_machine, there

pytestmark = pytest.mark.slow

FLOW = Flow.registry["volume"]
LIVES = {
    "create_volume": ["begin"],
    "attach_volume": ["place", "make", "plug", "await_plugged", "mount"],
    "resize_volume": ["grow"],
    "detach_volume": ["unmount", "unplug", "await_unplugged", "let_go"],
    "delete_volume": ["destroy", "forget"],
}
POINTS = [(command, step) for command, steps in LIVES.items() for step in steps]


def begin(cloud: Cloud, command: str) -> tuple[Volume, Server | None]:
    """A volume of which this was just asked, and nothing done yet."""
    if command == "create_volume":
        return new_volume(cloud), None
    host = cloud.running_server()
    row = new_volume(cloud, server=host, automount=True)
    if command == "attach_volume":
        Volume.objects.filter(pk=row.pk).update(step="rest", status="available")
        Action.objects.filter(command="create_volume").update(status="success")
        return row, host
    cloud.settle()
    if command == "resize_volume":
        volume.resize(fresh(row), 20)
        return row, host
    volume.detach(fresh(row))
    if command == "delete_volume":
        cloud.settle()
        volume.delete(fresh(row))
    return row, host


def ended_as_asked(cloud: Cloud, row: Volume, host: Server | None, command: str) -> None:
    assert asked(row, command).status == "success", asked(row, command).error_message
    assert not Action.objects.filter(status="running").exists()
    if command == "delete_volume":
        return gone(cloud)
    row = fresh(row)
    size = {"create_volume": 0, "resize_volume": 20}.get(command, 10)
    assert (row.made_gib, claimed(cloud)) == (size, size)
    assert there(cloud) == ({row.uuid: size} if size else {})
    has = command in ("attach_volume", "resize_volume")
    assert row.server == (host if has else None)
    if host:
        assert of_machine(cloud, host) == ([row.uuid] if has else [])
    return None


def gone(cloud: Cloud) -> None:
    assert (Volume.objects.count(), there(cloud), claimed(cloud)) == (0, {}, 0)


def dies_at(cloud: Cloud, step: str, moment: str) -> bool:
    """Have everything done in a process of its own, which is killed at a step. Returns whether it came to that."""
    connection.close()
    child = os.fork()
    if child == 0:
        _die_at(step, moment)
        try:
            cloud.settle()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("command", "step"), POINTS)
def test_worker_killed(cloud: Cloud, command: str, step: str, moment: str) -> None:
    row, host = begin(cloud, command)
    assert dies_at(cloud, step, moment), "the flow never came to this step"
    cloud.settle()
    ended_as_asked(cloud, row, host, command)


@pytest.mark.parametrize(("command", "step"), POINTS)
def test_step_runs_twice(cloud: Cloud, command: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row, host = begin(cloud, command)
    ran = []
    attempt = engine._attempt

    def twice(flow: Flow[Any], moved: Any) -> object:
        first = attempt(flow, moved)
        if flow is not FLOW or moved.step != step or step == "forget":
            return first
        ran.append(step)
        return attempt(flow, moved)

    monkeypatch.setattr(engine, "_attempt", twice)
    cloud.settle()
    monkeypatch.undo()
    assert ran or step == "forget"
    ended_as_asked(cloud, row, host, command)


@pytest.mark.parametrize(("command", "step"), [p for p in POINTS if p[0] != "delete_volume"])
def test_delete_arrives(cloud: Cloud, command: str, step: str) -> None:
    """It is refused as long as a server has the volume, and nothing is lost then; else it comes first."""
    row, host = begin(cloud, command)
    assert dies_at(cloud, step, "after")
    has_server = fresh(row).server_id is not None
    try:
        volume.delete(row)
        assert not has_server
    except InUse:
        assert has_server
    cloud.settle()
    if has_server:
        return ended_as_asked(cloud, row, host, command)
    gone(cloud)
    assert not Action.objects.filter(status="running").exists()
    return None


def test_every_step_is_on_some_way() -> None:
    walked = {step for steps in LIVES.values() for step in steps}
    assert walked | {"rest", "keep"} == set(FLOW.steps())
