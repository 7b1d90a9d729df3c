"""Streams over a real connection: commands in guests, consoles, uploads."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from paddock.cloud.models import Server
from paddock.hypervisor.faults import FaultOrder
from paddock.hypervisor.remote import RemoteHypervisor
from tests.api.caller import Caller, fields
from tests.api.live import LiveApi
from tests.cloud.harness import Cloud


class Stream:
    """A caller over a real connection."""

    def __init__(self, live: LiveApi, ask: Caller) -> None:
        self.live, self.headers = live, {"Authorization": f"Bearer {ask.token}"}

    def __call__(self, method: str, path: str, **how: Any) -> Any:
        response = self.live.http.request(method, path, headers={**self.headers, **how.pop("headers", {})}, **how)
        assert re.fullmatch("[0-9a-f]{16}", response.headers["X-Correlation-Id"])
        return response

    def refused(self, method: str, path: str, status: int, code: str, **how: Any) -> dict[str, Any]:
        response = self(method, path, **how)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text
        error: dict[str, Any] = response.json()["error"]
        return error

    def console(self, server: Server) -> ClientConnection:
        path = f"{self.live.websocket}/x/v1/servers/{server.pk}/console"
        return connect(path, additional_headers=self.headers, proxy=None)


@pytest.fixture
def stream(live: LiveApi, ask: Caller) -> Stream:
    return Stream(live, ask)


def test_exec(stream: Stream, cloud: Cloud) -> None:
    server = cloud.running_server()
    answer = stream("POST", f"/x/v1/servers/{server.pk}/exec", json={"argv": ["echo", "hello"], "stdin": "in"})
    assert answer.status_code == 200
    assert set(answer.json()) == {"exit_code", "stdout", "stderr", "truncated"}


@pytest.mark.parametrize(("body", "field"), [
    ({}, "argv"), ({"argv": []}, "argv"), ({"argv": ["a\0b"]}, "argv.0"), ({"argv": ["a"], "timeout": 0}, "timeout"),
    ({"argv": ["a"], "timeout": 601}, "timeout"), ({"argv": "ls"}, "argv"), ({"argv": ["a"], "stdin": 1}, "stdin"),
    ([], "body"),
])  # fmt: skip
def test_exec_of_what_is_none(body: Any, field: str, stream: Stream, cloud: Cloud) -> None:
    server = Server.objects.first() or cloud.running_server()
    error = stream.refused("POST", f"/x/v1/servers/{server.pk}/exec", 422, "invalid_input", json=body)
    assert next(iter(fields(error))) == field


def test_exec_where_nothing_answers(stream: Stream, cloud: Cloud) -> None:
    server, path = cloud.new_server(), "/x/v1/servers/{}/exec"
    stream.refused("POST", path.format(server.pk), 409, "conflict", json={"argv": ["true"]})  # no node yet
    stream.refused("POST", path.format(server.pk), 413, "invalid_input", content=b"x" * (2**20 + 1))
    stream.refused("POST", path.format("9" * 5000), 404, "not_found", json={"argv": ["true"]})
    stream.refused("GET", path.format(server.pk), 405, "method_not_allowed")
    stream.refused("GET", "/v1/anything/exec", 404, "not_found")
    cloud.settle()


def test_exec_of_too_many_at_once(stream: Stream, cloud: Cloud) -> None:
    """Commands may take minutes: those of one project leave room for the others', and for everything else."""
    server, host = cloud.running_server(), cloud.host()
    assert isinstance(host, RemoteHypervisor)

    def ask_one(_: int) -> Any:
        return stream("POST", f"/x/v1/servers/{server.pk}/exec", json={"argv": ["true"]})

    host.inject(FaultOrder(delay=2.0))
    try:
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(ask_one, range(12)))
    finally:
        host.inject(FaultOrder(clear=True))
    refused = [a.json()["error"] for a in answers if a.status_code == 503]
    assert sorted(a.status_code for a in answers) == [200] * 8 + [503] * 4
    assert {e["code"] for e in refused} == {"unavailable"}
    assert "8 commands run in guests of this project already" in refused[0]["message"]
    assert ask_one(0).status_code == 200


def test_chunks_without_end_are_cut_off(stream: Stream) -> None:
    """No length is said: what is too long is seen as it comes, and never written to the disk."""
    for path in ("/v1/servers", "/x/v1/servers/1/exec"):
        stream.refused("POST", path, 413, "invalid_input", content=(b"x" * 65536 for _ in range(20)))


def test_slashes_are_forgiven(stream: Stream, cloud: Cloud) -> None:
    server = cloud.running_server()
    answer = stream("POST", f"/x//v1//servers/{server.pk}/exec/", json={"argv": ["true"]})
    assert answer.status_code == 200


@pytest.mark.parametrize("word", [b"hello\r", "hello\r"])
def test_console(word: str | bytes, stream: Stream, cloud: Cloud) -> None:
    server = cloud.running_server()
    with stream.console(server) as socket:
        assert socket.response
        assert re.fullmatch("[0-9a-f]{16}", socket.response.headers["X-Correlation-Id"])
        socket.send(word)
        heard = b""
        while b"hello" not in heard:
            said = socket.recv(timeout=5)
            heard += said if isinstance(said, bytes) else said.encode()


def test_console_of_a_server_that_is_off(stream: Stream, cloud: Cloud, ask: Caller) -> None:
    server = cloud.running_server()
    ask.ok("POST", f"/v1/servers/{server.pk}/actions/poweroff")
    cloud.settle()
    with stream.console(server) as socket, pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=5)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 4409
    assert closed.value.rcvd.reason


def test_console_log(ask: Caller, cloud: Cloud) -> None:
    server = cloud.running_server()
    response = ask("GET", f"/x/v1/servers/{server.pk}/console_log?limit=100")
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/plain")
    ask.refused("GET", f"/x/v1/servers/{server.pk}/console_log?limit=x", None, 422, "invalid_input")


def test_exec_is_not_done_once(stream: Stream, cloud: Cloud) -> None:
    server = cloud.running_server()
    path, key = f"/x/v1/servers/{server.pk}/exec", {"Idempotency-Key": "x"}
    stream.refused("POST", path, 422, "unsupported_error", json={"argv": ["true"]}, headers=key)
