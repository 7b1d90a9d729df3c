"""A conversation with a guest agent: a line of JSON for each command and each answer, in limited time and memory.

Each begins with `guest-sync-delimited` and skips all before the 0xFF byte of its answer: rests of calls that were given
up.
"""

import base64
import binascii
import json
import secrets
import socket
from dataclasses import dataclass
from typing import Any

from paddock.base import clock
from paddock.base.errors import NotFound, Refused, Unavailable

CHUNK = 64 * 1024
MAX_OUTPUT = 1024 * 1024  # bytes of each stream that we hand on
_DELIMITER = b"\xff"


class HungUp(Unavailable):
    """Nobody is at the other end."""


class Talk:
    """A conversation with the guest agent."""

    def __init__(self, sock: socket.socket, deadline: float, limit: int) -> None:
        self.sock = sock
        self._deadline = deadline
        self._limit = limit
        self._reader = _Reader(sock, deadline, limit)

    def sync(self) -> None:
        """Begin anew: what comes from now on answers what is said from now on."""
        token = secrets.randbits(31)
        _send(self.sock, _DELIMITER + _line("guest-sync-delimited", {"id": token}), self._deadline)
        self._reader.skip_past(_DELIMITER)
        while _json(self._reader.line()).get("return") != token:  # an older call's answer
            self._reader.skip_past(_DELIMITER)

    def ask(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """One command and its answer. Raises as `GuestAgent.call`."""
        _send(self.sock, _line(command, arguments), self._deadline)
        self._reader.expect(self._limit)
        return _returned(_json(self._reader.line()), command)

    def tell(self, command: str, arguments: dict[str, Any] | None = None) -> None:
        """A command that is answered only when it is refused; the last of a conversation. Raises Refused."""
        _send(self.sock, _line(command, arguments), self._deadline)
        _refusal(self.sock, command)

    def kept(self) -> socket.socket:
        """The connection, for a later conversation: it stays when this one ends."""
        return self.sock.dup()

    def read_file(self, path: str, limit: int = 64 * 1024) -> str:
        """A small file of the guest. Raises NotFound, and as `GuestAgent.call`."""
        file = File.open(self, path, "r")
        found = text_of(file.ask("guest-file-read", count=limit), "buf-b64")
        file.close()
        return found

    def write_pipe(self, path: str, data: bytes) -> None:
        """Write into a named pipe that somebody in the guest reads, and close it. Raises NotFound, and as `call`."""
        file = File.open(self, path, "w")
        written = file.write(data)
        file.close()
        if written != len(data):
            raise Unavailable(f"the guest agent says it wrote {written} of {len(data)} bytes")


@dataclass
class File:
    """A file that the guest agent has open."""

    talk: Talk
    handle: int
    closed: bool = False

    @classmethod
    def open(cls, talk: Talk, path: str, mode: str) -> "File":
        try:
            return cls(talk, talk.ask("guest-file-open", {"path": path, "mode": mode}))
        except Refused as e:
            if "No such file" in e.message:
                raise NotFound(f"there is no file {path} in the guest") from e
            raise

    def ask(self, command: str, **arguments: object) -> Any:
        return self.talk.ask(command, {"handle": self.handle, **arguments})

    def write(self, data: bytes) -> int:
        """Returns how many bytes it took."""
        written = field(self.ask("guest-file-write", **{"buf-b64": base64.b64encode(data).decode()}), "count", int)
        if not 0 < written <= len(data):
            raise Unavailable(f"the guest agent says it wrote {written} of {len(data)} bytes")
        return int(written)

    def close(self) -> None:
        self.ask("guest-file-close")
        self.closed = True


class _Reader:
    """Bytes from the guest until a delimiter, in limited time and memory."""

    def __init__(self, sock: socket.socket, deadline: float, limit: int) -> None:
        self._sock = sock
        self._deadline = deadline
        self._limit = limit
        self._taken = 0
        self._buffer = bytearray()

    def expect(self, limit: int) -> None:
        """Another answer of at most `limit` bytes."""
        self._taken, self._limit = len(self._buffer), limit

    def skip_past(self, delimiter: bytes) -> None:
        while (at := self._buffer.find(delimiter)) < 0:
            self._buffer.clear()
            self._more()
        del self._buffer[: at + 1]

    def line(self) -> bytes:
        searched = 0
        while (at := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            self._more()
        found = bytes(self._buffer[:at])
        del self._buffer[: at + 1]
        return found

    def _more(self) -> None:
        self._sock.settimeout(left(self._deadline))
        try:
            data = self._sock.recv(CHUNK)
        except TimeoutError as e:
            raise Unavailable("the guest agent does not answer") from e
        except OSError as e:
            raise unreachable(e) from e
        if not data:
            raise HungUp("the guest agent's channel was closed")
        self._taken += len(data)
        if self._taken > self._limit:
            raise Unavailable(f"the guest agent's answer is over {self._limit // 1024} KiB")
        self._buffer += data


def _line(command: str, arguments: dict[str, Any] | None) -> bytes:
    message: dict[str, Any] = {"execute": command}
    if arguments:
        message["arguments"] = arguments
    return json.dumps(message).encode() + b"\n"


def _send(sock: socket.socket, data: bytes, deadline: float) -> None:
    sock.settimeout(left(deadline))
    try:
        sock.sendall(data)
    except TimeoutError as e:
        raise Unavailable("the guest agent does not read") from e
    except OSError as e:
        raise unreachable(e) from e


def unreachable(error: OSError) -> HungUp:
    """What a socket's error means."""
    return HungUp(f"the guest agent can't be reached: {error}")


def _refusal(sock: socket.socket, command: str) -> None:
    """An error that comes at once, for a command whose success is silent."""
    sock.settimeout(0.1)
    try:
        data = sock.recv(CHUNK)
    except TimeoutError:
        return
    except OSError as e:
        raise unreachable(e) from e
    if data.strip():
        _returned(_json(data.split(b"\n")[0]), command)


def _json(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise Unavailable("the guest agent's answer is not JSON") from e
    if not isinstance(value, dict):
        raise Unavailable("the guest agent's answer is not an object")
    return value


def _returned(answer: dict[str, Any], command: str) -> Any:
    if "return" in answer:
        return answer["return"]
    error = answer.get("error")
    said = str(error.get("desc", error))[:500] if isinstance(error, dict) else "an answer without result"
    raise Refused(f"the guest agent refuses {command}: {said}")


def field(answer: Any, name: str, kind: type[Any]) -> Any:
    """A field of an answer. Raises Unavailable where there is none of this kind."""
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise Unavailable(f"the guest agent's answer has no {name}")
    return value


def data_of(answer: Any, name: str) -> bytes:
    """Bytes that were sent as base64. Raises Unavailable."""
    text = answer.get(name, "") if isinstance(answer, dict) else None
    try:
        return base64.b64decode(text, validate=True)  # type: ignore[arg-type]
    except (TypeError, ValueError, binascii.Error) as e:
        raise Unavailable(f"the guest agent's {name} is not base64") from e


def text_of(answer: Any, name: str) -> str:
    """Text that was sent as base64, of MAX_OUTPUT bytes at most. Raises Unavailable."""
    text = answer.get(name, "") if isinstance(answer, dict) else None
    try:
        return base64.b64decode(text, validate=False)[:MAX_OUTPUT].decode(errors="replace")  # type: ignore[arg-type]
    except (TypeError, ValueError, binascii.Error) as e:
        raise Unavailable(f"the guest agent's {name} is not base64") from e


def left(deadline: float) -> float:
    """Seconds until then. Raises Unavailable when it is past."""
    seconds = deadline - clock.monotonic()
    if seconds <= 0:
        raise Unavailable("the guest agent does not answer in time")
    return seconds
