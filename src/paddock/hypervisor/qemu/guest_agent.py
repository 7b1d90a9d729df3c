"""A small client of the QEMU guest agent: synchronous, one conversation at a time, and not to be harmed by the guest.

Whatever the guest sends, a call ends in its time and takes bounded memory.
"""

import base64
import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from paddock.base import clock
from paddock.base.errors import NotFound, Refused, Unavailable
from paddock.hypervisor.qemu.guest_talk import (
    MAX_OUTPUT,
    File,
    HungUp,
    Talk,
    data_of,
    field,
    left,
    text_of,
    unreachable,
)
from paddock.machine.state import FileChunk, GuestResult

MAX_REPLY = 1024 * 1024  # bytes
MAX_EXEC_REPLY = 48 * 1024 * 1024  # the guest agent keeps up to 16 MiB of each stream, sent as base64
MAX_INPUT = 256 * 1024
CLOSE_WAIT = 2.0  # seconds
AGAIN_WAIT = 1.0  # seconds for QEMU to take another connection
_CRYPT = re.compile(r"\$[0-9a-z]{1,3}\$[./A-Za-z0-9$=,]{8,400}")  # crypt(5); never what would be another line


def check_hash(password_hash: str) -> None:
    """Raises Refused for what is not the hash of a password."""
    if not _CRYPT.fullmatch(password_hash):
        raise Refused("that is not the crypt(3) hash of a password", hint="`mkpasswd` makes one")


class GuestAgent:
    """The guest agent of one machine. `connect` makes a socket to it, with a timeout in seconds."""

    def __init__(self, connect: Callable[[float], socket.socket]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._held: socket.socket | None = None
        self._holds = False

    def hold(self, timeout: float) -> None:
        """Be connected from now on. Where nobody is, a guest agent is busy with looking, ten times a second, and with
        nothing else when it has yet to answer. Raises Unavailable, and it is tried again with the next conversation."""
        self._holds = True
        if self._lock.acquire(blocking=False):  # else somebody is connected, and leaves that to be held
            try:
                self._held = self._held or self._connected(timeout)
            finally:
                self._lock.release()

    def use(self, sock: socket.socket) -> None:
        """Hold this connection, over which nothing is on its way."""
        self.let_go()
        self._held, self._holds = sock, True

    def let_go(self) -> None:
        """Be connected for conversations only."""
        self._holds = False
        if sock := self._taken():
            sock.close()

    def ping(self, timeout: float) -> bool:
        """Whether it answers in time."""
        try:
            self.call("guest-ping", timeout=timeout)
        except (Unavailable, Refused):
            return False
        return True

    def shutdown(self, mode: str, timeout: float) -> None:
        """`powerdown` or `reboot`. It answers only when it refuses. Raises as `call`."""
        self.call("guest-shutdown", {"mode": mode}, timeout, answers=False)

    def set_password(self, user: str, password_hash: str, timeout: float) -> None:
        """Change a user's password, given as a crypt(3) hash. Raises as `call`."""
        password = base64.b64encode(password_hash.encode()).decode()
        arguments = {"username": user, "password": password, "crypted": True}
        self.call("guest-set-user-password", arguments, timeout)

    def read_file(self, path: str, timeout: float, limit: int = 64 * 1024) -> str | None:
        """A small file of the guest; None when there is no such file. Raises Unavailable."""
        try:
            with self._opened(path, "r", 0, timeout) as file:
                return text_of(file.ask("guest-file-read", count=limit), "buf-b64")
        except (NotFound, Refused):
            return None

    def read_chunk(self, path: str, offset: int, limit: int, timeout: float) -> FileChunk:
        """Part of a file of any size. Raises NotFound, and as `call`."""
        with self._opened(path, "rb", offset, timeout) as file:
            answer = file.ask("guest-file-read", count=limit)
        data = data_of(answer, "buf-b64")
        if len(data) > limit:
            raise Unavailable(f"the guest agent gave {len(data)} bytes where {limit} were asked for")
        return FileChunk(data=data, end=field(answer, "eof", bool))

    def write_chunk(self, path: str, offset: int, data: bytes, timeout: float) -> None:
        """Write into a file that is there. Raises NotFound, and as `call`."""
        with self._opened(path, "rb+", offset, timeout) as file:
            while data:
                data = data[file.write(data) :]

    @contextmanager
    def _opened(self, path: str, mode: str, offset: int, timeout: float) -> Iterator["File"]:
        """A guest's file, which is closed when this ends. What is written is in it only when this ends well."""
        file = None
        try:
            with self.conversation(timeout) as talk:
                file = File.open(talk, path, mode)
                if offset:
                    file.ask("guest-file-seek", offset=offset, whence=0)
                yield file
                file.close()
        except BaseException:
            if file and not file.closed:
                with contextlib.suppress(Unavailable, Refused):  # its answers may be out of step: begin anew
                    self.call("guest-file-close", {"handle": file.handle}, CLOSE_WAIT)
            raise

    def set_time(self, timeout: float) -> None:
        """Tell the guest the time. Raises as `call`."""
        self.call("guest-set-time", {"time": int(clock.now().timestamp() * 1e9)}, timeout)

    def launch(self, argv: tuple[str, ...], stdin: str, timeout: float) -> int:
        """Start a command in the guest and don't wait for it. Returns its process id there. Raises as `call`."""
        arguments = {"path": argv[0], "arg": list(argv[1:]), "input-data": base64.b64encode(stdin.encode()).decode()}
        return int(field(self.call("guest-exec", arguments, timeout), "pid", int))

    def exec(self, argv: tuple[str, ...], stdin: str, timeout: float) -> GuestResult:
        """Run a command in the guest. Raises Refused when the guest agent will not, Unavailable when it is silent or
        the command does not end within `timeout` seconds (it goes on in the guest then)."""
        if not argv:
            raise Refused("there is no command to run")
        if len(stdin.encode()) > MAX_INPUT:
            raise Refused(f"the command's input is over {MAX_INPUT // 1024} KiB", hint="send large data over SSH")
        deadline = clock.monotonic() + timeout
        arguments: dict[str, Any] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        if stdin:
            arguments["input-data"] = base64.b64encode(stdin.encode()).decode()
        answer = self.call("guest-exec", arguments, left(deadline))
        return self._wait_for(field(answer, "pid", int), argv, deadline, timeout)

    def _wait_for(self, pid: int, argv: tuple[str, ...], deadline: float, timeout: float) -> GuestResult:
        pause = 0.005
        late = Unavailable(f"{argv[0]} did not end within {timeout:g} s; it goes on in the guest as {pid}")
        while True:
            try:
                answer = self.call("guest-exec-status", {"pid": pid}, left(deadline), MAX_EXEC_REPLY)
            except Unavailable as e:
                if clock.monotonic() < deadline:
                    raise
                raise late from e
            if field(answer, "exited", bool):
                return _result(answer)
            if clock.monotonic() + pause >= deadline:
                raise late
            clock.sleep(pause)
            pause = min(pause * 1.5, 0.25)

    def call(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        timeout: float = 5,
        limit: int = MAX_REPLY,
        answers: bool = True,
    ) -> Any:
        """One command and its answer. Raises Unavailable when the answer does not come in time or is none, Refused
        with the guest agent's words when it refuses."""
        with self.conversation(timeout, limit) as talk:
            return talk.ask(command, arguments) if answers else talk.tell(command, arguments)

    def call_if_free(self, command: str, timeout: float) -> Any:
        """As `call`, for what nobody needs: None when somebody else is using the guest agent."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            with self._begun(clock.monotonic() + timeout, MAX_REPLY) as talk:
                return talk.ask(command)
        finally:
            self._lock.release()

    @contextmanager
    def conversation(self, timeout: float, limit: int = MAX_REPLY) -> Iterator["Talk"]:
        """Several commands one after another, `timeout` seconds for all, while nobody else speaks to it: a guest that
        is slow is spared a beginning for each. It answers already when this begins. Raises as `call`."""
        deadline = clock.monotonic() + timeout
        if not self._lock.acquire(timeout=max(timeout, 0)):
            raise Unavailable("the guest agent is busy with another call", hint="try again")
        try:
            with self._begun(deadline, limit) as talk:
                yield talk
        finally:
            self._lock.release()

    @contextmanager
    def _begun(self, deadline: float, limit: int) -> Iterator["Talk"]:
        talk = self._synced(deadline, limit)
        try:
            yield talk
        except (NotFound, Refused):
            self._keep(talk.sock)
            raise
        except BaseException:
            self._renew(talk.sock)
            raise
        self._keep(talk.sock)

    def _keep(self, sock: socket.socket) -> None:
        """All that was asked over it was answered."""
        if self._holds:
            self._held = sock
        else:
            sock.close()

    def _renew(self, sock: socket.socket) -> None:
        """Something may be on its way over it."""
        sock.close()
        if self._holds:
            with contextlib.suppress(Unavailable, Refused):
                self._held = self._connected(AGAIN_WAIT)

    def _synced(self, deadline: float, limit: int) -> "Talk":
        """Over the connection that is held, or over a new one where that has been hung up."""
        if held := self._taken():
            with contextlib.suppress(HungUp):
                return self._talk(held, deadline, limit)
        return self._talk(self._connected(left(deadline)), deadline, limit)

    def _talk(self, sock: socket.socket, deadline: float, limit: int) -> "Talk":
        """What comes from now on answers what is said from now on."""
        talk = Talk(sock, deadline, limit)
        try:
            talk.sync()
        except HungUp:
            sock.close()
            raise
        except BaseException:
            self._renew(sock)
            raise
        return talk

    def _taken(self) -> socket.socket | None:
        sock, self._held = self._held, None
        return sock

    def _connected(self, timeout: float) -> socket.socket:
        try:
            return self._connect(timeout)
        except OSError as e:
            raise unreachable(e) from e


def _result(answer: dict[str, Any]) -> GuestResult:
    code = answer.get("exitcode")
    killed_by = answer.get("signal")
    return GuestResult(
        exit_code=code if isinstance(code, int) else 128 + killed_by if isinstance(killed_by, int) else 255,
        stdout=text_of(answer, "out-data"),
        stderr=text_of(answer, "err-data"),
        truncated=bool(answer.get("out-truncated") or answer.get("err-truncated"))
        or any(len(str(answer.get(name, ""))) > MAX_OUTPUT * 4 / 3 + 4 for name in ("out-data", "err-data")),
    )
