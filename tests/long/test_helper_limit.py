"""A helper guest that hangs for good: after its quarter of an hour, in real time, it is ended; the server is whole."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from paddock.base import clock
from paddock.hypervisor.qemu.helper_guest import JOB_SECONDS, SOCKET
from paddock.service import procs
from tests.guests.stack import Stack, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.mark.images("tiny", "rescue")
def test_a_helper_guest_that_hangs_is_given_up_after_its_time(cloud: Stack) -> None:
    server = cloud.launch("alpha")
    cloud.ssh(server, "echo kept > /root/kept && sync")
    password = cloud.ssh(server, "grep ^root: /etc/shadow")
    cloud.done(cloud.power(server["id"], "poweroff"))
    began = clock.monotonic()
    action = cloud.post(f"/v1/servers/{server['id']}/actions/reset_password", {"x_offline": True})["action"]["id"]
    with _stopped(until(lambda: _helper(cloud), 60, "the helper guest")):
        ended = cloud.ended(action, JOB_SECONDS + 300)
    assert ended["status"] == "error", ended
    assert "took too long" in ended["error"]["message"]
    assert clock.monotonic() - began >= JOB_SECONDS - 5
    until(lambda: not cloud.guests(), 30, "the helper guest to be ended")

    cloud.done(cloud.power(server["id"], "poweron"))
    again = cloud.ready(server["id"])
    assert cloud.ssh(again, "cat /root/kept; grep ^root: /etc/shadow") == f"kept\n{password}"
    cloud.remove(server["id"])
    cloud.nothing_left()


def _helper(cloud: Stack) -> procs.Mark | None:
    """The helper guest that runs in this cloud, once it can be told its job."""
    found = [p for p in cloud.guests() if "paddock-helper" in procs.argv(p)]
    return procs.mark(found[0]) if found and (Path(procs.cwd(found[0]) or "") / SOCKET).exists() else None


@contextmanager
def _stopped(helper: procs.Mark) -> Iterator[None]:
    assert procs.send(helper, signal.SIGSTOP)
    try:
        yield
    finally:
        procs.send(helper, signal.SIGCONT)
