"""`paddock vnc` and `paddock server send-key` on the real API. The fake has no screen, and says so in VNC."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from paddock.base import rfb
from paddock.cli.vnc import PORTS, viewer_argv
from paddock.cloud.models import Server
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


@contextmanager
def session(paddock: Shell, *words: str) -> Iterator[tuple["subprocess.Popen[str]", int, str]]:
    """A running `paddock vnc`, its port and its password."""
    env = {k: v for k, v in paddock.env.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    process = subprocess.Popen(
        paddock.argv("vnc", *words), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        port = int(process.stdout.readline().rpartition(":")[2])
        yield process, port, process.stdout.readline().split()[1]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)


def log_in(port: int, password: str) -> str:
    """Why a viewer is not let in."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock, sock.makefile("rb") as said:
        assert said.read(12) == rfb.VERSION
        sock.sendall(rfb.VERSION)
        assert said.read(2) == b"\x01\x02", "it asks for a password, and offers nothing else"
        sock.sendall(b"\x02")
        sock.sendall(rfb.response(password, said.read(16)))
        assert said.read(4) == rfb.FAILED
        return said.read(int.from_bytes(said.read(4))).decode()


def test_a_session(paddock: Shell, web: Server) -> None:
    with session(paddock, web.name) as (process, port, password):
        assert port in PORTS
        assert log_in(port, "wrong") == "the password is wrong"
        assert "has no screen" in log_in(port, password)
        assert "has no screen" in log_in(port, password), "it is good for the whole session"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_port_that_is_taken(paddock: Shell, web: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"port {port} of 127.0.0.1 is in use" in paddock.fails("vnc", web.name, "--port", port)


def test_a_viewer_ends_it(paddock: Shell, web: Server, tmp_path: Path) -> None:
    viewer = tmp_path / "viewer"
    viewer.write_text(f'#!/bin/sh\necho "$VNC_PASSWORD $@" > {tmp_path}/said\n')
    viewer.chmod(0o755)
    out = subprocess.run(
        paddock.argv("vnc", web.name, "--viewer", str(viewer)), env=paddock.env, capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    password, address = (tmp_path / "said").read_text().split()
    assert f"password: {password}" in out.stdout
    assert f"address:  {address.replace('::', ':')}" in out.stdout
    assert "is not installed" in paddock.fails("vnc", web.name, "--viewer", "no-such-viewer")


def test_viewers_are_told_where_to_look() -> None:
    found = {os.path.basename(v): viewer_argv(v, 5903)[1:] for v in ("/bin/vncviewer", "gvncviewer", "remote-viewer")}
    assert found == {
        "vncviewer": ["127.0.0.1::5903"], "gvncviewer": ["127.0.0.1:3"], "remote-viewer": ["vnc://127.0.0.1:5903"],
    }  # fmt: skip


def test_keys(paddock: Shell, web: Server) -> None:
    paddock.ok("server", "send-key", web.name, "ctrl-alt-delete", "F2", "Enter")
    paddock.ok("server", "send-key", web.name, "--text", "Hello, World!\n" * 20)
    assert "there is no key 'hyper'" in paddock.fails("server", "send-key", web.name, "ctrl-hyper")
    assert "no key for 'ä'" in paddock.fails("server", "send-key", web.name, "--text", "ä")
    assert "say which keys" in paddock.fails("server", "send-key", web.name)
