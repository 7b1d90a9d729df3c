"""A console goes on when its node's agent is killed and comes back, and says what was left out."""

import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import anyio
import anyio.to_thread
import pytest

from paddock.api import lasting
from paddock.api.lasting import Lasting
from paddock.hypervisor.remote import RemoteHypervisor
from paddock.machine.spec import Power
from tests.agent.process import AgentProcess
from tests.contract.specs import make_image, make_machine


@pytest.fixture
def agent() -> Iterator[AgentProcess]:
    agent = AgentProcess()
    agent.start()
    yield agent
    agent.close()


@pytest.fixture
def machine(agent: AgentProcess, tmp_path: Path) -> UUID:
    remote, image = RemoteHypervisor(agent.url), make_image(tmp_path, qcow2=False)
    assert remote.disks.ensure_image(image, str(tmp_path)).done
    machine = make_machine(image.sha256)
    remote.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
    remote.machines.ensure(machine, 1)
    remote.machines.power(machine.uuid, Power.ON, 1)
    remote.close()
    return machine.uuid


async def opened(remote: RemoteHypervisor, machine: UUID) -> Lasting:
    source = remote.streams
    return Lasting(
        await source.console(machine), lambda: source.console(machine), lambda limit: source.console_log(machine, limit)
    )


async def until(stream: Lasting, word: bytes) -> bytes:
    heard = b""
    with anyio.fail_after(10):
        while word not in heard:
            heard += await stream.receive()
    return heard


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_agent_comes_back(agent: AgentProcess, machine: UUID, number: int) -> None:
    async def work() -> None:
        remote = RemoteHypervisor(agent.url)
        async with await opened(remote, machine) as console:
            await console.send(b"before")
            await until(console, b"before")
            await anyio.to_thread.run_sync(agent.stop, number)
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.to_thread.run_sync, agent.start)
                await until(console, b"login: ")
            await console.send(b"after")
            await until(console, b"after")
        remote.close()

    anyio.run(work)


def test_the_agent_stays_away(agent: AgentProcess, machine: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting, "PATIENCE", 0.3)

    async def work() -> None:
        remote = RemoteHypervisor(agent.url)
        async with await opened(remote, machine) as console:
            await until(console, b"login: ")
            await anyio.to_thread.run_sync(agent.stop)
            with pytest.raises(anyio.EndOfStream), anyio.fail_after(5):
                await console.receive()
        remote.close()

    anyio.run(work)


def test_what_was_written_meanwhile_is_found_in_the_log() -> None:
    class Broken:
        async def receive(self, _size: int) -> bytes:
            raise anyio.BrokenResourceError

        async def aclose(self) -> None: ...

    async def work(written: str) -> bytes:
        stream = Lasting(Broken(), reopen, lambda _limit: written)  # type: ignore[arg-type]
        stream._tail = b"login: "
        return await stream.receive()

    async def reopen() -> Broken:
        return Broken()

    assert anyio.run(work, "boot\nlogin: root\n# ") == b"root\n# "
    assert b"may be left out" in anyio.run(work, "quite another log")
