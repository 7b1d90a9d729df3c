"""When a process is ready: each check answers what is still missing, or nothing."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

TIMEOUT = 0.5  # seconds that one look may take: the supervisor does nothing else meanwhile


class Ready(Protocol):
    """A check."""

    def missing(self, seconds: float, /) -> str:
        """What is missing `seconds` after the start; empty: it is ready."""


@dataclass(frozen=True)
class Alive:
    """It has nothing to ask: it is ready when it has run for a while."""

    seconds: float = 1.0

    def missing(self, seconds: float, /) -> str:
        return "" if seconds >= self.seconds else "it to stay alive"


@dataclass(frozen=True)
class Asks:
    """A function of its own tells."""

    question: Callable[[], str]

    def missing(self, _seconds: float, /) -> str:
        return self.question()


@dataclass(frozen=True)
class Http:
    """It answers GET `path` with 200, on a unix socket or a TCP port."""

    address: Path | tuple[str, int]
    path: str

    def missing(self, _seconds: float, /) -> str:
        try:
            status = _get(self.address, self.path)
        except OSError as e:
            return f"an answer on {self.shown} ({e.strerror or e})"
        return (
            "" if b" 200 " in status else f"GET {self.path} to succeed ({status.decode(errors='replace') or 'nothing'})"
        )

    @property
    def shown(self) -> str:
        return str(self.address) if isinstance(self.address, Path) else f"{self.address[0]}:{self.address[1]}"


@dataclass(frozen=True)
class Listens:
    """It takes connections on a TCP port: for who speaks TLS, which would cost the supervisor a third of its memory."""

    address: tuple[str, int]

    def missing(self, _seconds: float, /) -> str:
        try:
            _connect(self.address).close()
        except OSError as e:
            return f"a connection to {self.address[0]}:{self.address[1]} ({e.strerror or e})"
        return ""


def _get(address: Path | tuple[str, int], path: str) -> bytes:
    """The status line. httpx would cost the supervisor half its memory."""
    with _connect(address) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return connection.recv(200).partition(b"\r\n")[0]


def _connect(address: Path | tuple[str, int]) -> socket.socket:
    if not isinstance(address, Path):
        return socket.create_connection(address, timeout=TIMEOUT)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(TIMEOUT)
        connection.connect(str(address))
    except OSError:
        connection.close()
        raise
    return connection
