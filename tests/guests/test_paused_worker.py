"""A worker that is stopped in a step and goes on later, when its work has long been another's."""

import signal
from uuid import UUID

import pytest

from paddock.base import clock
from paddock.base.errors import StaleEpoch
from paddock.hypervisor.remote import RemoteHypervisor
from paddock.machine.spec import Power
from tests.guests.stack import Stack, until

pytestmark = [pytest.mark.guest, pytest.mark.slow]

WORKERS = ("worker-1", "worker-2")


def holder(cloud: Stack, server: int) -> str:
    """The application name of the connection that holds a server's advisory lock: of the worker that works on it."""
    rows = cloud.rows(
        "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        f"WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 1 AND l.objid = {server}"
    )
    return str(rows[0][0]) if rows else ""


def role_of(cloud: Stack, application: str) -> str:
    """Which of our workers that is."""
    tag = application.removeprefix("paddock worker ")
    pid = cloud.rows(f"SELECT pid FROM cloud_worker WHERE tag = '{tag}'")[0][0]
    return next(role for role in WORKERS if cloud.pid(role) == pid)


def test_another_takes_over_and_the_first_is_refused(cloud: Stack) -> None:
    """The agent is stopped, so that a worker hangs in the call of a step; then that worker is stopped as well."""
    server, action = cloud.create("contested", start_after_create=False)
    cloud.done(action)
    cloud.kill("agent-n1", signal.SIGSTOP)
    asked = cloud.power(server, "poweron")
    first = until(lambda: holder(cloud, server), 10, "a worker to begin")
    role = role_of(cloud, first)
    restarts = cloud.restarts(role)
    cloud.kill(role, signal.SIGSTOP)
    stopped = clock.monotonic()
    try:
        clock.sleep(0.5)
        cloud.kill("agent-n1", signal.SIGCONT)
        cloud.done(asked, 20)
        taken_after = clock.monotonic() - stopped
        state = cloud.rows(f"SELECT epoch, status, now() FROM cloud_server WHERE id = {server}")
        clock.sleep(max(0.0, 10 - taken_after))
    finally:
        cloud.kill("agent-n1", signal.SIGCONT)
        cloud.kill(role, signal.SIGCONT)
    print(f"taken over after {taken_after:.1f} s")
    assert taken_after < 8, "heartbeats older than 5 s count as dead"
    until(lambda: cloud.restarts(role) > restarts, 20, "the first worker to start afresh")
    cloud.wait_ready()
    shown = cloud.server(server)
    assert shown["status"] == "running"
    assert cloud.qemu(shown["x_uuid"])
    assert cloud.rows(f"SELECT status FROM cloud_server WHERE id = {server}") == [(state[0][1],)]
    epochs = f"SELECT epoch FROM cloud_event WHERE kind = 'server' AND row_id = {server} AND step = 'start'"
    assert cloud.rows(epochs) == [(state[0][0],)], "the step is told once, by the worker that took over"
    _agent_refuses(cloud, shown["x_uuid"], state[0][0])


def _agent_refuses(cloud: Stack, uuid: str, epoch: int) -> None:
    """What the first worker would have sent, had it been stopped a moment earlier."""
    host = RemoteHypervisor(f"unix://{cloud.state.agent_socket('n1')}")
    try:
        with pytest.raises(StaleEpoch):
            host.machines.power(UUID(uuid), Power.OFF, epoch - 1)
    finally:
        host.close()
    assert cloud.qemu(uuid)
