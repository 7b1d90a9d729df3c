"""`paddock exec --stream` on the real API and a guest of the fake: output as it comes, exit codes, Ctrl-C."""

import signal
import subprocess
from pathlib import Path

import pytest

from paddock.base import clock
from paddock.cloud.models import Server
from paddock.hypervisor.faults import Failure, FaultOrder
from paddock.hypervisor.remote import RemoteHypervisor
from tests.api.caller import Caller
from tests.api.live import LiveApi
from tests.cli.conftest import Shell
from tests.cloud.harness import Cloud


@pytest.fixture
def paddock(live: LiveApi, cloud: Cloud, tmp_path: Path) -> Shell:
    return Shell(tmp_path, f"http://127.0.0.1:{live.port}", Caller().token)


@pytest.fixture
def web(cloud: Cloud) -> Server:
    return cloud.running_server()


def left_behind(cloud: Cloud, server: Server, wanted: bool = False) -> list[str]:
    """What lies in the guest where commands write, once that is nothing, or something."""
    host = cloud.host()
    assert isinstance(host, RemoteHypervisor)
    end = clock.monotonic() + 20
    while True:
        packed = host.guest.exec(server.uuid, ("/bin/sh", "-c", "", "paddock-pack", "/var/tmp"), "", 5)
        path, size = packed.stdout.split()
        tar = host.guest.read_file(server.uuid, path, 0, int(size)).data
        host.guest.exec(server.uuid, ("/bin/sh", "-c", "", "paddock-clear", path), "", 5)
        names = [line for line in tar.decode(errors="replace").split("\0") if "code" in line]
        if bool(names) is wanted or clock.monotonic() > end:
            return names
        clock.sleep(0.1)


def test_output_and_exit_code(paddock: Shell, cloud: Cloud, web: Server) -> None:
    assert paddock.ok("exec", "--stream", web.name, "--", "echo", "hello") == "hello\n"
    done = paddock.run("exec", "-s", web.name, "--", "false")
    assert (done.returncode, done.stdout) == (1, "")
    done = paddock.run("exec", "-s", web.name, "--", "nothing-such")
    assert (done.returncode, done.stderr) == (127, "nothing-such: not found\n")
    assert left_behind(cloud, web) == []


def test_ctrl_c_ends_it_in_the_guest(paddock: Shell, cloud: Cloud, web: Server) -> None:
    process = subprocess.Popen(
        paddock.argv("exec", "-s", web.name, "--", "sleep", "60"), env=paddock.env, stderr=subprocess.PIPE, text=True
    )
    assert left_behind(cloud, web, wanted=True)
    clock.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "interrupted: the command is ended in the server" in said
    assert left_behind(cloud, web) == []


def test_time_is_limited(paddock: Shell, cloud: Cloud, web: Server) -> None:
    said = paddock.fails("exec", "-s", "--timeout", "1", web.name, "--", "sleep", "60")
    assert "it did not end within 1 s, and was ended" in said
    assert left_behind(cloud, web) == []


def test_an_agent_that_is_away_for_a_moment(paddock: Shell, cloud: Cloud, web: Server) -> None:
    host = cloud.host()
    assert isinstance(host, RemoteHypervisor)
    host.inject(FaultOrder(fail=(Failure(operation="read_file", times=2),)))
    assert paddock.ok("exec", "-s", web.name, "--", "echo", "after all") == "after all\n"
    host.inject(FaultOrder(fail=(Failure(operation="read_file", code="refused", message="broken"),)))
    assert "broken" in paddock.fails("exec", "-s", web.name, "--", "echo", "x")
    host.inject(FaultOrder(clear=True))


def test_long_commands_need_to_be_streamed(live: LiveApi, web: Server) -> None:
    headers = {"Authorization": f"Bearer {Caller().token}"}
    body = {"argv": ["true"], "timeout": 601}
    answer = live.http.post(f"/x/v1/servers/{web.pk}/exec", headers=headers, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")
    answer = live.http.post(f"/x/v1/servers/{web.pk}/exec", headers=headers, json={**body, "stream": True})
    assert answer.status_code == 200
    assert answer.text == '{"exit_code": 0}\n'
