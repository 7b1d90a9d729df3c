"""A guest that lies to who copies files or watches a command: clear errors, and nothing without an end."""

import itertools
import json
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import anyio
import pytest

from paddock.api import guest_exec, guest_files
from paddock.api.guest_exec import Running
from paddock.api.guest_files import Copier
from paddock.base.errors import Conflict, NotFound, PaddockError, Refused, Unavailable
from paddock.hypervisor.base import Guest
from paddock.machine.state import FileChunk, GuestResult


class Liar(Guest):
    """A guest that answers every script with one text, and every read with one chunk."""

    def __init__(self, said: str = "", chunk: FileChunk | None = None, code: int = 0) -> None:
        self.said, self.chunk, self.code, self.reads = said, chunk, code, 0

    def exec(self, machine: UUID, argv: tuple[str, ...], stdin: str, timeout: float) -> GuestResult:
        return GuestResult(exit_code=self.code, stdout=self.said, stderr="so it says")

    def read_file(self, machine: UUID, path: str, offset: int, limit: int) -> FileChunk:
        self.reads += 1
        if self.chunk is None:
            raise Unavailable("the guest agent does not answer")
        return self.chunk

    def write_file(self, machine: UUID, path: str, offset: int, data: bytes) -> None:
        raise Unavailable("the guest agent does not answer")

    def set_password(self, machine: UUID, user: str, password_hash: str) -> None:
        raise Unavailable("the guest agent does not answer")


def copier(guest: Liar) -> Copier:
    return Copier("web", guest, uuid4())


NONSENSE = ["", "\n", "what", "file 644", "file 644 x", "file 999 5", "file 644 -5", "other 644 5", "device 644 1",
            "file 644 " + "9" * 30, "file 6444444 5", "x" * 100_000]  # fmt: skip


@pytest.mark.parametrize("said", NONSENSE)
def test_what_a_file_is(said: str) -> None:
    with pytest.raises(Refused):
        copier(Liar(said)).look("/f")


@pytest.mark.parametrize("said", ["", "/a", "/a\n5\n6", "a\n5", "/a\nfive", "/a\n-5", "/a\n" + "9" * 30])
def test_where_it_packed(said: str) -> None:
    with pytest.raises(Refused):
        copier(Liar(said)).pack("/d")


@pytest.mark.parametrize("said", ["", "/a", "/a\nb", "a\n/b", "/a\n/b\n/c", "/a\x01\n/b"])
def test_where_to_write(said: str) -> None:
    with pytest.raises(Refused):
        copier(Liar(said)).prepare("/d", "n", "file", False)


@pytest.mark.parametrize(("code", "kind"), [(3, NotFound), (17, Conflict), (4, Refused), (255, Refused), (-9, Refused)])
def test_why_it_failed(code: int, kind: type[PaddockError]) -> None:
    with pytest.raises(kind, match="so it says"):
        copier(Liar(code=code)).look("/f")


async def drained(parts: AsyncIterator[bytes]) -> int:
    return sum([len(part) async for part in parts])


def test_a_file_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_files, "MOST", 100_000)
    for data in (b"", b"x" * 1000):
        guest = Liar(chunk=FileChunk(data=data, end=False))
        with pytest.raises(Refused, match="has no end"):
            anyio.run(drained, guest_files._parts(copier(guest), "/f"))
        assert guest.reads <= 101


@pytest.mark.parametrize("said", ["", "/a", "/a b", "a 5", "/a;rm 5", "/a -5", "/a 5 6"])
def test_where_a_command_writes(said: str) -> None:
    with pytest.raises(Refused, match="could not start the command"):
        guest_exec.start(Liar(said), uuid4(), ("true",), "")


def lines(guest: Liar, seconds: float) -> list[dict[str, object]]:
    async def collect() -> list[dict[str, object]]:
        running = Running(guest, uuid4(), "/var/tmp/x", "5")
        return [json.loads(line) async for line in guest_exec._lines(running, seconds)]

    return anyio.run(collect)


def test_a_command_that_floods_ends_with_its_time() -> None:
    said = lines(Liar(chunk=FileChunk(data=b"x" * 1000, end=False)), 0.5)
    assert "did not end within 0.5 s" in str(said[-1]["error"])


def test_an_exit_code_that_is_none() -> None:
    class Never(Liar):
        def read_file(self, machine: UUID, path: str, offset: int, limit: int) -> FileChunk:
            return FileChunk(data=b"-1 or so" if path.endswith("code") else b"", end=True)

    assert lines(Never(), 5) == [{"exit_code": 255}]


def test_a_guest_agent_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_exec, "PATIENCE", 0.2)
    monkeypatch.setattr(guest_exec, "LATE", 0.1)
    assert "does not answer" in str(lines(Liar(), 5)[-1]["error"])


def test_offsets_go_on_where_they_were() -> None:
    asked: list[tuple[str, int]] = []
    counter = itertools.count()

    class Slow(Liar):
        def read_file(self, machine: UUID, path: str, offset: int, limit: int) -> FileChunk:
            asked.append((path, offset))
            if path.endswith("code"):
                if next(counter) < 2:
                    raise NotFound("not yet")
                return FileChunk(data=b"0\n", end=True)
            return FileChunk(data=b"ab" if path.endswith("out") and offset < 4 else b"", end=True)

    assert lines(Slow(), 5)[-1] == {"exit_code": 0}
    assert [offset for path, offset in asked if path.endswith("out")] == [0, 2, 4]
