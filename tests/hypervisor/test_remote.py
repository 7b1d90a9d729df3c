"""The client of a node agent: what it says when the agent is gone, slow, restarted or strange."""

import signal
import socket
import statistics
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from paddock.base import clock
from paddock.base.errors import DiskFull, Invalid, NotFound, PortTaken, Refused, StaleEpoch, Unavailable
from paddock.base.log import correlation_id
from paddock.hypervisor.faults import Failure, FaultOrder
from paddock.hypervisor.remote import RemoteHypervisor
from tests.agent.process import AgentProcess


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentProcess]:
    agent = AgentProcess()
    agent.start()
    yield agent
    agent.close()


@pytest.fixture
def remote(agent: AgentProcess) -> Iterator[RemoteHypervisor]:
    remote = RemoteHypervisor(agent.url)
    yield remote
    remote.inject(FaultOrder(clear=True))
    remote.close()


@pytest.mark.parametrize("error", [NotFound, StaleEpoch, PortTaken, DiskFull, Refused, Unavailable, Invalid])
def test_errors_come_back_as_what_they_were(remote: RemoteHypervisor, error: type[NotFound]) -> None:
    remote.inject(FaultOrder(fail=(Failure(operation="facts", code=error.code, message="these words"),)))
    with pytest.raises(error, match="facts: these words") as caught:
        remote.machines.facts()
    assert type(caught.value) is error
    remote.machines.facts()


def test_nobody_there(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/none.sock"
    remote = RemoteHypervisor(url)
    with pytest.raises(Unavailable, match=url) as caught:
        remote.machines.facts()
    assert caught.value.hint
    with pytest.raises(Unavailable, match=url):
        anyio.run(remote.streams.console, uuid4())


def test_no_address() -> None:
    for url in ("http://host", "unix://relative", ""):
        with pytest.raises(Invalid):
            RemoteHypervisor(url)


def test_too_slow(agent: AgentProcess, remote: RemoteHypervisor) -> None:
    hasty = RemoteHypervisor(agent.url, timeout=0.2)
    remote.inject(FaultOrder(delay=0.6))
    start = clock.monotonic()
    with pytest.raises(Unavailable, match="in time"):
        hasty.machines.facts()
    assert clock.monotonic() - start < 0.55
    remote.inject(FaultOrder(clear=True))
    hasty.machines.facts()
    hasty.close()


def test_long_poll_has_a_time_of_its_own(agent: AgentProcess) -> None:
    hasty = RemoteHypervisor(agent.url, timeout=0.2)
    cursor = hasty.machines.changes(0, 0).cursor
    assert hasty.machines.changes(cursor, 0.7).cursor == cursor
    hasty.close()


def test_one_client_for_many_threads(remote: RemoteHypervisor) -> None:
    with ThreadPoolExecutor(30) as pool:
        facts = list(pool.map(lambda _: remote.machines.facts(), range(300)))
    assert {f.hypervisor for f in facts} == {"fake"}


def test_agent_that_is_killed_and_comes_back(agent: AgentProcess, remote: RemoteHypervisor) -> None:
    remote.machines.facts()
    agent.stop(signal.SIGKILL)
    with pytest.raises(Unavailable):
        remote.machines.facts()
    agent.start()
    remote.machines.facts()


def test_agent_that_is_stopped_in_the_middle_of_a_call(agent: AgentProcess, remote: RemoteHypervisor) -> None:
    remote.inject(FaultOrder(delay=5.0))
    killer = threading.Timer(0.2, agent.stop, (signal.SIGKILL,))
    killer.start()
    with pytest.raises(Unavailable, match=agent.url):
        remote.machines.facts()
    killer.join()
    agent.start()


def test_correlation_id_reaches_the_agents_log(agent: AgentProcess, remote: RemoteHypervisor) -> None:
    uuid = uuid4()
    token = correlation_id.set("abcdef0123456789")
    try:
        remote.machines.remove(uuid, 3)
    finally:
        correlation_id.reset(token)
    line = next(line for line in agent.log.read_text().splitlines() if str(uuid) in line)
    assert "abcdef0123456789 remove" in line
    assert "epoch=3: done" in line


@pytest.mark.parametrize("target", ["relative", "", "/", "/dir/", "/a/../b", "/a\0b", "/" + "a" * 5000])
def test_target_of_a_snapshot_is_an_absolute_path(remote: RemoteHypervisor, target: str) -> None:
    with pytest.raises(Invalid) as caught:
        remote.disks.snapshot(uuid4(), uuid4(), target, 1)
    assert caught.value.field == "target"


def test_password_hash_is_in_no_error(remote: RemoteHypervisor) -> None:
    with pytest.raises(Invalid) as caught:
        remote.guest.set_password(uuid4(), "root", "secret:hash")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_stranger_on_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unavailable, match="HostFacts"):
            RemoteHypervisor(f"unix://{path}").machines.facts()
        thread.join()


def test_round_trip_is_short(remote: RemoteHypervisor) -> None:
    times = []
    for _ in range(200):
        start = clock.monotonic()
        remote.machines.facts()
        times.append(clock.monotonic() - start)
    assert statistics.median(times) < 0.01, "about 0.6 ms on an idle machine"


def test_agent_stays_small(agent: AgentProcess) -> None:
    assert agent.process
    rollup = Path(f"/proc/{agent.process.pid}/smaps_rollup").read_text()
    pss = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    assert pss < 60 * 1024, f"{pss} KiB"
