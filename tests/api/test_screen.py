"""A server's screen over a WebSocket: opened once, within a minute, by whoever knows the password."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from paddock.api.x import console
from paddock.base import rfb
from paddock.cloud import housekeeping
from paddock.cloud.models import ConsoleSession, Server
from tests.api.caller import Caller
from tests.api.live import LiveApi
from tests.api.vnc import VERSION, Viewer
from tests.cloud.harness import Cloud

NO_SCREEN = "a machine of the fake hypervisor has no screen"


@pytest.fixture
def server(cloud: Cloud) -> Server:
    return cloud.running_server()


@contextmanager
def viewer(live: LiveApi, secret: str, **how: Any) -> Iterator[Viewer]:
    with connect(f"{live.websocket}/x/v1/console/{secret}", proxy=None, **how) as line:
        yield Viewer(line)


def refused(live: LiveApi, secret: str) -> tuple[int, str]:
    with viewer(live, secret) as found, pytest.raises(ConnectionClosed) as closed:
        found.read(1)
    assert closed.value.rcvd
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_vnc_authentication() -> None:
    """Against what `openssl enc -des-ecb` makes of the challenge, the key's bytes reversed bit by bit."""
    assert rfb.response("password", bytes(range(16))).hex() == "b866924125c8eebb9debc1db61c538e2"
    assert rfb.response("passwordX", bytes(16)) == rfb.response("password", bytes(16))
    assert rfb.response("pass", bytes(16)) != rfb.response("password", bytes(16))


def test_who_knows_the_password_gets_to_the_node(live: LiveApi, server: Server) -> None:
    secret, password = console.new_session(server)
    assert len(password) == 8
    with viewer(live, secret) as found:
        assert found.log_in(password) == NO_SCREEN, "the fake's own words, from beyond the password"


def test_a_wrong_password(live: LiveApi, server: Server) -> None:
    secret, password = console.new_session(server)
    with viewer(live, secret) as found:
        assert "the password is wrong" in found.log_in(password[::-1])
        with pytest.raises(ConnectionClosed) as closed:
            found.read(1)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 4401
    assert refused(live, secret)[0] == 4404, "one try, not as many as one likes"


def test_an_address_opens_once(live: LiveApi, server: Server) -> None:
    secret, password = console.new_session(server)
    with viewer(live, secret) as found:
        assert found.log_in(password) == NO_SCREEN
    assert refused(live, secret) == (4404, "this address is used or over: ask for a new console")


def test_an_address_is_over_after_a_minute(live: LiveApi, server: Server) -> None:
    secret, _ = console.new_session(server)
    assert ConsoleSession.objects.filter(expires__gt=Now() + timedelta(seconds=55)).exists()
    ConsoleSession.objects.update(expires=Now() - timedelta(seconds=1))
    assert refused(live, secret)[0] == 4404
    housekeeping.tidy()
    assert not ConsoleSession.objects.exists()


def test_an_address_that_never_was(live: LiveApi, server: Server) -> None:
    assert refused(live, "x" * 43) == (4404, "this address is used or over: ask for a new console")


def test_only_a_hash_is_kept(server: Server) -> None:
    secret, password = console.new_session(server)
    row = ConsoleSession.objects.get()
    assert secret not in row.digest
    assert password not in row.digest


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["binary"], "binary"), (["base64", "binary"], "binary"), (None, None)]
)
def test_older_clients_want_a_protocol(offered: Any, chosen: Any, live: LiveApi, server: Server) -> None:
    secret, password = console.new_session(server)
    with viewer(live, secret, subprotocols=offered) as found:
        assert found.socket.subprotocol == chosen
        assert found.log_in(password) == NO_SCREEN


@pytest.mark.parametrize(("version", "answer"), [
    (b"RFB 003.003\n", bytes(4)), (b"RFB 003.007\n", b"\0"), (b"GET / HTTP/1", b"\0"),
])  # fmt: skip
def test_other_versions(version: bytes, answer: bytes, live: LiveApi, server: Server) -> None:
    secret, _ = console.new_session(server)
    with viewer(live, secret) as found:
        found.read(12)
        found.socket.send(version)
        assert found.read(len(answer)) == answer
        assert "version 3.8" in found.read(int.from_bytes(found.read(4))).decode()


def test_without_a_password(live: LiveApi, server: Server) -> None:
    secret, _ = console.new_session(server)
    with viewer(live, secret) as found:
        found.read(12)
        found.socket.send(VERSION)
        found.read(2)
        found.socket.send(b"\x01")
        assert found.read(4) == b"\0\0\0\1"
        assert "asks for a password" in found.read(int.from_bytes(found.read(4))).decode()


def test_a_server_that_is_off(live: LiveApi, cloud: Cloud, ask: Caller) -> None:
    server = cloud.running_server()
    ask.ok("POST", f"/v1/servers/{server.pk}/actions/poweroff")
    cloud.settle()
    secret, password = console.new_session(server)
    with viewer(live, secret) as found:
        assert "off" in found.log_in(password) or "not run" in found.log_in(password)


def test_nothing_is_left_of_who_hangs_up(live: LiveApi, server: Server) -> None:
    secret, _ = console.new_session(server)
    with viewer(live, secret) as found:
        found.read(12)
        assert isinstance(found.socket.socket, socket.socket)
        found.socket.socket.close()
    assert live.http.get("/x/v1/version").status_code == 200


def test_what_is_asked_for_is_what_opens(live: LiveApi, server: Server, ask: Caller) -> None:
    said = ask.ok("POST", f"/v1/servers/{server.pk}/actions/request_console")
    assert said["wss_url"].startswith("ws://testserver/x/v1/console/")
    with viewer(live, said["wss_url"].rsplit("/", 1)[1]) as found:
        assert found.log_in(said["password"]) == NO_SCREEN
