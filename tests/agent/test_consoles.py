"""One console and many watchers, over a line that this test writes."""

from uuid import UUID, uuid4

import anyio
import pytest
from anyio.abc import ByteStream

from paddock.agent.consoles import BACKLOG, SCROLLBACK, Consoles, overlap
from paddock.hypervisor.fake_streams import LocalStream
from paddock.machine.keys import Chord

MACHINE = uuid4()


class Guest:
    """A machine whose serial port is written by the test. Counts how often it was connected to."""

    def __init__(self) -> None:
        self.log = b""
        self.ready = b""
        self.typed = b""
        self.connected = 0
        self.line: LocalStream | None = None

    async def console(self, machine: UUID, scrollback: int = 0) -> ByteStream:
        await anyio.sleep(0.01)
        assert self.line is None or self.line.closed, "a second connection, which QEMU has not"
        self.connected += 1
        self.line = LocalStream(self.ready, self._type)
        return self.line

    async def vnc(self, machine: UUID) -> ByteStream:
        raise NotImplementedError

    def console_log(self, machine: UUID, limit: int) -> str:
        return self.log[-limit:].decode()

    def send_keys(self, machine: UUID, chords: tuple[Chord, ...]) -> None:
        raise NotImplementedError

    def _type(self, data: bytes) -> bytes:
        self.typed += data
        return b""

    async def say(self, data: bytes) -> None:
        assert self.line
        self.line._output.send_nowait(data)
        await anyio.sleep(0.01)


async def heard(stream: ByteStream, size: int) -> bytes:
    data = b""
    with anyio.fail_after(2):
        while len(data) < size:
            data += await stream.receive()
    return data


def test_all_see_the_same_and_all_may_type() -> None:
    async def work() -> None:
        guest = Guest()
        consoles = Consoles(guest)
        watchers: list[ByteStream] = []

        async def join() -> None:
            watchers.append(await consoles.open(MACHINE))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(join)
        assert guest.connected == 1
        await guest.say(b"hello")
        assert [await heard(w, 5) for w in watchers] == [b"hello"] * 5
        for number, watcher in enumerate(watchers):
            await watcher.send(b"%d" % number)
        assert sorted(guest.typed) == sorted(b"01234")
        for watcher in watchers:
            await watcher.aclose()
        assert guest.line
        assert guest.line.closed
        again = await consoles.open(MACHINE)
        assert guest.connected == 2
        await again.aclose()

    anyio.run(work)


def test_the_past_comes_first_and_only_once() -> None:
    async def work() -> None:
        guest = Guest()
        guest.log, guest.ready = b"boot\r\nlog", b"login: "  # what came while we connected is in both
        consoles = Consoles(guest)
        first = await consoles.open(MACHINE)
        assert await heard(first, 7) == b"login: "
        await first.aclose()
        first = await consoles.open(MACHINE, 100)
        assert await heard(first, 13) == b"boot\r\nlogin: "
        await guest.say(b"more")
        assert await heard(first, 4) == b"more"
        second = await consoles.open(MACHINE, 6)
        assert await heard(second, 6) == b": more"
        third = await consoles.open(MACHINE)
        await guest.say(b"!")
        assert [await heard(w, 1) for w in (first, second, third)] == [b"!"] * 3
        for watcher in (first, second, third):
            await watcher.aclose()

    anyio.run(work)


def test_a_slow_watcher_holds_up_nobody_and_costs_little() -> None:
    async def work() -> None:
        guest = Guest()
        consoles = Consoles(guest)
        slow, fast = await consoles.open(MACHINE), await consoles.open(MACHINE)
        block = b"x" * 50_000
        for _ in range(30):
            await guest.say(block)
            assert await heard(fast, len(block)) == block
        assert (
            await slow.receive() == b"\r\n[1250000 bytes are left out here: this connection is too slow for them]\r\n"
        )
        assert len(await heard(slow, 5 * 50_000)) <= BACKLOG
        await guest.say(b"end")
        assert await heard(slow, 3) == b"end"
        late = await consoles.open(MACHINE, 10**9)
        assert len(await heard(late, SCROLLBACK)) == SCROLLBACK
        for watcher in (slow, fast, late):
            await watcher.aclose()

    anyio.run(work)


def test_the_machine_ends_it_for_all() -> None:
    async def work() -> None:
        guest = Guest()
        consoles = Consoles(guest)
        watchers = [await consoles.open(MACHINE) for _ in range(2)]
        assert guest.line
        await guest.say(b"last words")
        guest.line.hang_up()
        await anyio.sleep(0.01)
        for watcher in watchers:
            assert await heard(watcher, 10) == b"last words"
            with pytest.raises(anyio.EndOfStream):
                await watcher.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await watcher.send(b"x")
        again = await consoles.open(MACHINE)  # while the others still hold theirs
        for watcher in watchers:
            await watcher.aclose()
        await guest.say(b"up")
        assert await heard(again, 2) == b"up"
        await again.aclose()

    anyio.run(work)


@pytest.mark.parametrize(("past", "fresh", "size"), [
    (b"", b"abc", 0), (b"abc", b"", 0), (b"xxab", b"abc", 2), (b"abc", b"abc", 3), (b"abc", b"xbc", 0),
])  # fmt: skip
def test_overlap(past: bytes, fresh: bytes, size: int) -> None:
    assert overlap(past, fresh) == size
