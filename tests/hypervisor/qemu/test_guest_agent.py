"""The guest agent's client against servers that hang, talk nonsense, flood, or answer late."""

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.base import clock
from paddock.base.errors import NotFound, Refused, Unavailable
from paddock.hypervisor.qemu.guest_agent import GuestAgent
from paddock.hypervisor.qemu.guest_talk import MAX_OUTPUT
from paddock.machine.state import FileChunk

Behaviour = Callable[[socket.socket], None]


class Server:
    """A unix socket that behaves as a test says, one connection after another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.behaviour: Behaviour = lambda _: None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(5)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(3)
                with contextlib.suppress(OSError):
                    self.behaviour(connection)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def connect(self, timeout: float) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        sock.connect(str(self.path))
        return sock


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "s")
    yield server
    server.close()


@pytest.fixture
def agent(server: Server) -> GuestAgent:
    return GuestAgent(server.connect)


def line(sock: socket.socket) -> dict[str, object]:
    data = b""
    while not data.endswith(b"\n"):
        got = sock.recv(1)
        if not got:
            raise ConnectionError
        data += got
    return dict(json.loads(data.lstrip(b"\xff")))


def send(sock: socket.socket, value: object, prefix: bytes = b"") -> None:
    sock.sendall(prefix + json.dumps(value).encode() + b"\n")


def sync(sock: socket.socket) -> None:
    assert synced(sock, line(sock))


def synced(sock: socket.socket, asked: dict[str, Any]) -> bool:
    """Whether it was that, and is answered."""
    if asked["execute"] != "guest-sync-delimited":
        return False
    send(sock, {"return": asked["arguments"]["id"]}, b"\xff")
    return True


def answering(*answers: object) -> Behaviour:
    """Answers commands in this order, in as many conversations and over as many connections as they come by, then
    hangs up."""
    left = list(answers)

    def behave(sock: socket.socket) -> None:
        sync(sock)
        while left:
            if not synced(sock, line(sock)):
                send(sock, left.pop(0))

    return behave


def until_closed(sock: socket.socket) -> None:
    while sock.recv(4096):
        pass


def test_ping(server: Server, agent: GuestAgent) -> None:
    server.behaviour = answering({"return": {}})
    assert agent.ping(2)


def test_a_connection_is_held_between_calls(server: Server, agent: GuestAgent) -> None:
    accepted = []
    answers = answering(*[{"return": {}}] * 2, {"error": {"desc": "no"}}, *[{"return": {}}] * 4)

    def behave(sock: socket.socket) -> None:
        accepted.append(1)
        answers(sock)

    server.behaviour = behave
    agent.hold(2)
    agent.hold(2)
    assert agent.ping(2)
    assert agent.ping(2)
    with pytest.raises(Refused):
        agent.call("guest-info", timeout=2)
    assert agent.ping(2)
    assert accepted == [1]
    agent.let_go()
    assert agent.ping(2)
    assert agent.ping(2)
    assert accepted == [1, 1, 1]


def test_a_connection_that_was_hung_up_is_made_again(server: Server, agent: GuestAgent) -> None:
    server.behaviour = answering({"return": {}})
    agent.hold(2)
    assert agent.ping(2)
    server.behaviour = answering({"return": {}})
    assert agent.ping(2)


@pytest.mark.parametrize("synced", [True, False])
def test_who_is_not_answered_hangs_up_and_connects_again(server: Server, agent: GuestAgent, synced: bool) -> None:
    """What comes late is not taken for another answer, and a guest agent that has yet to answer is rid of it."""
    accepted = []

    def behave(sock: socket.socket) -> None:
        accepted.append(1)
        if len(accepted) == 2 or synced:
            sync(sock)
            line(sock)
        if len(accepted) == 2:
            send(sock, {"return": "now"})
        until_closed(sock)

    server.behaviour = behave
    agent.hold(2)
    with pytest.raises(Unavailable):
        agent.call("guest-info", timeout=0.2)
    deadline = clock.monotonic() + 2
    while len(accepted) < 2:
        assert clock.monotonic() < deadline
        clock.sleep(0.01)
    assert agent.call("guest-info", timeout=2) == "now"
    assert len(accepted) == 2


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_part_of_a_file(server: Server, agent: GuestAgent) -> None:
    chunk = {"return": {"buf-b64": b64(b"ab"), "eof": False}}
    server.behaviour = answering({"return": 5}, {"return": {}}, chunk, {})
    with pytest.raises(Refused, match="guest-file-close"):  # what is not closed may not be written
        agent.read_chunk("/f", 7, 10, 2)
    server.behaviour = answering({"return": 5}, chunk, {"return": {}})
    assert agent.read_chunk("/f", 0, 10, 2) == FileChunk(data=b"ab", end=False)
    counts = [{"return": {"count": 2}}, {"return": {"count": 1}}]
    server.behaviour = answering({"return": 5}, *counts, {"return": {}})
    agent.write_chunk("/f", 0, b"abc", 2)
    missing = {"error": {"desc": "failed to open file '/f' (mode: 'rb'): No such file or directory"}}
    server.behaviour = answering(missing)
    with pytest.raises(NotFound, match="there is no file /f"):
        agent.read_chunk("/f", 0, 10, 2)


@pytest.mark.parametrize("answer", [
    {}, [], 5, None, {"buf-b64": "!!", "eof": True}, {"buf-b64": 7, "eof": True}, {"buf-b64": b64(b"abc")},
    {"buf-b64": b64(b"abc"), "eof": "yes"}, {"buf-b64": b64(b"x" * 11), "eof": True},
])  # fmt: skip
def test_nonsense_in_the_place_of_a_file(server: Server, agent: GuestAgent, answer: object) -> None:
    server.behaviour = answering({"return": 5}, {"return": answer}, {"return": {}})
    with pytest.raises(Unavailable):
        agent.read_chunk("/f", 0, 10, 2)


@pytest.mark.parametrize("count", [0, -1, 4, 10**30, "3", None])
def test_nonsense_about_what_was_written(server: Server, agent: GuestAgent, count: object) -> None:
    server.behaviour = answering({"return": 5}, {"return": {"count": count}}, {"return": {}})
    with pytest.raises(Unavailable):
        agent.write_chunk("/f", 0, b"abc", 2)


@pytest.mark.parametrize("drop", [b"A" * 65536, b'{"return": ' + b"[" * 65536])
def test_a_flood_in_the_place_of_a_file(server: Server, agent: GuestAgent, drop: bytes) -> None:
    """It ends after a megabyte, far before its time."""

    def behave(sock: socket.socket) -> None:
        sync(sock)
        line(sock)
        while True:
            sock.sendall(drop)

    server.behaviour = behave
    start = clock.monotonic()
    with pytest.raises(Unavailable, match="over 1024 KiB"):
        agent.read_chunk("/f", 0, 10, 20)
    assert clock.monotonic() - start < 5


def test_a_guest_that_hangs_with_a_file_open(server: Server, agent: GuestAgent) -> None:
    left = [{"return": 5}]

    def behave(sock: socket.socket) -> None:
        sync(sock)
        line(sock)
        if left:
            send(sock, left.pop())
        until_closed(sock)

    server.behaviour = behave
    start = clock.monotonic()
    with pytest.raises(Unavailable):
        agent.read_chunk("/f", 0, 10, 0.3)
    assert clock.monotonic() - start < 4


def test_a_silent_guest_costs_its_timeout_only(server: Server, agent: GuestAgent) -> None:
    server.behaviour = until_closed
    start = clock.monotonic()
    assert not agent.ping(0.2)
    assert clock.monotonic() - start < 0.5


def test_a_conversation_begins_once(server: Server, agent: GuestAgent) -> None:
    begun = []
    written: tuple[dict[str, Any], ...] = {"return": 5}, {"return": {"count": 3}}, {"return": {}}
    read: tuple[dict[str, Any], ...] = {"return": 6}, {"return": {"buf-b64": b64(b"yes")}}, {"return": {}}
    talk_of = answering(*written, *read, {"error": {"desc": "failed to open file '/g': No such file or directory"}})

    def behave(sock: socket.socket) -> None:
        begun.append(1)
        talk_of(sock)

    server.behaviour = behave
    with agent.conversation(2) as talk:
        talk.write_pipe("/p", b"abc")
        assert talk.read_file("/f") == "yes"
        with pytest.raises(NotFound, match="there is no file /g"):
            talk.read_file("/g")
    assert begun == [1]


def test_each_answer_of_a_conversation_is_limited_by_itself(server: Server, agent: GuestAgent) -> None:
    big = {"return": "x" * 700_000}
    server.behaviour = answering(big, big, {"return": "x" * 1_100_000})
    with agent.conversation(5) as talk:
        assert [len(talk.ask("guest-info")), len(talk.ask("guest-info"))] == [700_000] * 2
        with pytest.raises(Unavailable, match="over 1024 KiB"):
            talk.ask("guest-info")


def test_rests_of_older_calls_are_skipped(server: Server, agent: GuestAgent) -> None:
    def behave(sock: socket.socket) -> None:
        sock.sendall(b'{"return": "old"}\nrubbish \x00\x80')
        send(sock, {"return": 12345}, b"\xff")
        answering({"return": {"pid": 7}})(sock)

    server.behaviour = behave
    assert agent.call("guest-exec", timeout=2) == {"pid": 7}


@pytest.mark.parametrize(
    "answer", [b"nonsense\n", b"[1]\n", b'"x"\n', b"[" * 100_000 + b"\n", b"\x00\xfe\n", b'{"id": 1}\n', b"1" * 9999]
)
def test_nonsense_is_an_error(server: Server, agent: GuestAgent, answer: bytes) -> None:
    def behave(sock: socket.socket) -> None:
        sync(sock)
        line(sock)
        sock.sendall(answer)

    server.behaviour = behave
    with pytest.raises((Unavailable, Refused)):
        agent.call("guest-info", timeout=0.5)


@pytest.mark.parametrize("drop", [b"A" * 65536, b"\xff" * 65536, b"\xff{}\n" * 16384])
def test_a_flood_is_cut_off(server: Server, agent: GuestAgent, drop: bytes) -> None:
    def behave(sock: socket.socket) -> None:
        while True:
            sock.sendall(drop)

    server.behaviour = behave
    start = clock.monotonic()
    with pytest.raises(Unavailable):
        agent.call("guest-ping", timeout=2)
    assert clock.monotonic() - start < 2.5


def test_an_endless_answer_is_given_up_by_its_size(server: Server, agent: GuestAgent) -> None:
    def behave(sock: socket.socket) -> None:
        sync(sock)
        line(sock)
        while True:
            sock.sendall(b"A" * 65536)

    server.behaviour = behave
    with pytest.raises(Unavailable, match="is over"):
        agent.call("guest-info", timeout=10)


def test_a_dripping_guest_does_not_hold_us(server: Server, agent: GuestAgent) -> None:
    def behave(sock: socket.socket) -> None:
        while True:
            sock.sendall(b"x")
            clock.sleep(0.05)

    server.behaviour = behave
    start = clock.monotonic()
    assert not agent.ping(0.3)
    assert clock.monotonic() - start < 0.6


def test_no_socket_is_unavailable(tmp_path: Path) -> None:
    def connect(timeout: float) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(tmp_path / "none"))
        return sock

    with pytest.raises(Unavailable):
        GuestAgent(connect).call("guest-ping")


def test_one_call_at_a_time(server: Server, agent: GuestAgent) -> None:
    release = threading.Event()

    def behave(sock: socket.socket) -> None:
        release.wait(3)
        answering({"return": {}})(sock)

    server.behaviour = behave
    first = threading.Thread(target=lambda: agent.call("guest-ping", timeout=3))
    first.start()
    clock.sleep(0.05)
    with pytest.raises(Unavailable, match="busy"):
        agent.call("guest-ping", timeout=0.1)
    release.set()
    first.join(5)
    assert agent.ping(2)


def test_a_refusal_carries_the_words(server: Server, agent: GuestAgent) -> None:
    server.behaviour = answering({"error": {"class": "CommandNotFound", "desc": "guest-exec has been disabled"}})
    with pytest.raises(Refused, match="has been disabled"):
        agent.exec(("id",), "", 2)


def test_exec_waits_for_the_end(server: Server, agent: GuestAgent) -> None:
    done = {"exited": True, "exitcode": 3, "out-data": base64.b64encode(b"hi\xff").decode()}
    server.behaviour = answering({"return": {"pid": 5}}, {"return": {"exited": False}}, {"return": done})
    result = agent.exec(("sh", "-c", "exit 3"), "", 2)
    assert (result.exit_code, result.stdout, result.stderr, result.truncated) == (3, "hi\ufffd", "", False)


def test_exec_that_does_not_end(server: Server, agent: GuestAgent) -> None:
    server.behaviour = answering({"return": {"pid": 5}}, *[{"return": {"exited": False}}] * 100)
    with pytest.raises(Unavailable, match="goes on in the guest"):
        agent.exec(("sleep", "9"), "", 0.3)


def test_exec_output_is_capped(server: Server, agent: GuestAgent) -> None:
    data = base64.b64encode(b"x" * (MAX_OUTPUT + 10)).decode()
    server.behaviour = answering({"return": {"pid": 5}}, {"return": {"exited": True, "exitcode": 0, "out-data": data}})
    result = agent.exec(("yes",), "", 5)
    assert len(result.stdout) == MAX_OUTPUT
    assert result.truncated


@pytest.mark.parametrize("answer", [{"pid": "x"}, [], None, {}])
def test_exec_with_a_strange_answer(server: Server, agent: GuestAgent, answer: object) -> None:
    server.behaviour = answering({"return": answer})
    with pytest.raises(Unavailable, match="has no pid"):
        agent.exec(("id",), "", 1)


def test_a_command_killed_by_a_signal(server: Server, agent: GuestAgent) -> None:
    server.behaviour = answering({"return": {"pid": 5}}, {"return": {"exited": True, "signal": 9}})
    assert agent.exec(("x",), "", 2).exit_code == 137
