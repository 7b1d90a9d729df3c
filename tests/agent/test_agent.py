"""The agent as a process: how it starts, what it refuses to read, and how it ends."""

import json
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import anyio
import httpx
import pytest

from paddock.agent.app import Agent
from paddock.base import clock
from paddock.base.errors import PaddockError
from paddock.base.run import run
from paddock.hypervisor.fake import FakeHypervisor
from paddock.hypervisor.faults import FaultOrder
from paddock.hypervisor.remote import RemoteHypervisor
from paddock.machine.spec import Power
from paddock.machine.state import Phase
from tests.agent.process import AgentProcess
from tests.contract.specs import make_image, make_machine

NOBODY = "00000000-0000-4000-8000-000000000000"  # the same in every process that collects these tests


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentProcess]:
    agent = AgentProcess()
    agent.start()
    yield agent
    agent.close()


@pytest.fixture
def own() -> Iterator[AgentProcess]:
    """One that a test may stop."""
    agent = AgentProcess()
    agent.start()
    yield agent
    agent.close()


@pytest.fixture
def http(agent: AgentProcess) -> Iterator[httpx.Client]:
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(agent.socket), verify=False), base_url="http://node"
    ) as client:
        yield client


def test_modules_are_few() -> None:
    code = "import sys, paddock.agent.__main__; print(*sys.modules)"
    loaded = set(run([sys.executable, "-c", code]).stdout.split())
    heavy = {"django", "ninja", "procrastinate", "psycopg", "httpx", "rich", "typer", "qemu", "paddock.hypervisor.fake"}
    assert not heavy & loaded


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "field"),
    [
        ("GET", "/v1/nothing", "", 404, "not_found", ""),
        ("GET", "/v1/machines/not-a-uuid", "", 404, "not_found", ""),
        ("PATCH", "/v1/facts", "", 404, "not_found", ""),
        ("GET", f"/v1/machines/{NOBODY}", "", 404, "not_found", ""),
        ("DELETE", f"/v1/machines/{NOBODY}", "", 422, "invalid_input", "epoch"),
        ("DELETE", f"/v1/machines/{NOBODY}?epoch=one", "", 422, "invalid_input", "epoch"),
        ("DELETE", f"/v1/machines/{NOBODY}?epoch=-1", "", 422, "invalid_input", "epoch"),
        ("POST", f"/v1/machines/{NOBODY}/power?epoch=1", "{", 422, "invalid_input", ""),
        ("POST", f"/v1/machines/{NOBODY}/power?epoch=1", '{"power": "up"}', 422, "invalid_input", "power"),
        ("POST", f"/v1/machines/{NOBODY}/guest/exec", '{"argv": []}', 422, "invalid_input", "argv"),
        ("POST", f"/v1/machines/{NOBODY}/guest/exec", '{"argv": ["a"], "timeout": 1e9}', 422, "invalid_input",
         "timeout"),
        ("POST", f"/v1/machines/{NOBODY}/power?epoch=1", "x" * 1024 * 1024 * 2, 422, "invalid_input", ""),
        ("GET", "/v1/changes?cursor=x", "", 422, "invalid_input", "cursor"),
        ("GET", "/v1/changes?timeout=nan", "", 422, "invalid_input", "timeout"),
        ("GET", f"/v1/machines/{NOBODY}/console_log?limit=x", "", 422, "invalid_input", "limit"),
        ("POST", "/v1/warm", "{}", 422, "invalid_input", "uuid"),
        ("PUT", "/v1/warm/ready", "{}", 422, "invalid_input", "wishes"),
        ("DELETE", "/v1/warm/.hidden", "", 422, "invalid_input", "id"),
        ("DELETE", f"/v1/warm/{'a' * 65}", "", 422, "invalid_input", "id"),
        ("DELETE", "/v1/warm/%2e%2e%2fimages", "", 404, "not_found", ""),
    ],
)  # fmt: skip
def test_bad_requests(
    http: httpx.Client, method: str, path: str, body: str, status: int, code: str, field: str
) -> None:
    response = http.request(method, path, content=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["field"]) == (status, code, field)
    assert len(error["message"]) > 10


def test_error_does_not_show_secrets(http: httpx.Client) -> None:
    machine = json.loads(make_machine("0" * 64).model_dump_json())
    machine["seed"]["password_hash"] = ["$6$secret"]
    response = http.put(f"/v1/machines/{machine['uuid']}?epoch=1", content=json.dumps(machine))
    assert response.json()["error"]["field"] == "seed.password_hash"
    assert "secret" not in response.text


def test_machine_at_another_ones_address(http: httpx.Client) -> None:
    response = http.put(f"/v1/machines/{uuid4()}?epoch=1", content=make_machine("0" * 64).model_dump_json())
    assert (response.status_code, response.json()["error"]["field"]) == (422, "uuid")


def test_image_under_another_name(http: httpx.Client, tmp_path: Path) -> None:
    manifest = make_image(tmp_path, qcow2=False)
    body = {"manifest": json.loads(manifest.model_dump_json()), "source": str(tmp_path)}
    response = http.put(f"/v1/images/{'0' * 64}", json=body)
    assert (response.status_code, response.json()["error"]["field"]) == (422, "manifest")


def test_machine_of_the_next_version_is_understood(http: httpx.Client, tmp_path: Path) -> None:
    machine = json.loads(make_machine("0" * 64).model_dump_json())
    response = http.put(f"/v1/machines/{machine['uuid']}?epoch=1", json={**machine, "new_in_2027": True})
    assert response.json()["error"]["code"] == "conflict"  # it has no disk: read, and then refused


def test_long_polls_do_not_take_the_threads(agent: AgentProcess) -> None:
    remote = RemoteHypervisor(agent.url)
    cursor = remote.machines.changes(0, 0).cursor
    with ThreadPoolExecutor(90) as pool:
        polls = [pool.submit(remote.machines.changes, cursor, 1.2) for _ in range(90)]
        clock.sleep(0.5)
        start = clock.monotonic()
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(agent.socket), verify=False), base_url="http://node"
        ) as other:
            assert other.get("/v1/facts").status_code == 200
        assert clock.monotonic() - start < 1
        assert not any(p.done() for p in polls)
    remote.close()


def test_it_may_open_as_many_files_as_the_host_allows() -> None:
    own, (soft, most) = AgentProcess(), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, most - 1), most))  # as after a login
    try:
        own.start()
        assert own.process
        assert resource.prlimit(own.process.pid, resource.RLIMIT_NOFILE) == (most, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
        own.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_within_a_second_whoever_waits(own: AgentProcess, number: int, tmp_path: Path) -> None:
    remote = RemoteHypervisor(own.url)
    image = make_image(tmp_path, qcow2=False)
    assert remote.disks.ensure_image(image, str(tmp_path)).done
    machine = make_machine(image.sha256)
    remote.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
    remote.machines.ensure(machine, 1)
    remote.machines.power(machine.uuid, Power.ON, 1)
    cursor = remote.machines.changes(0, 0).cursor
    remote.inject(FaultOrder(guest_agent_hangs=True))

    def ignored(*call: object) -> None:
        with suppress(PaddockError):
            remote.guest.exec(machine.uuid, ("true",), "", 30) if call else remote.machines.changes(cursor, 30)

    waiting = [threading.Thread(target=ignored), threading.Thread(target=ignored, args=(1,))]

    async def watch() -> None:
        async with await remote.streams.console(machine.uuid) as console:
            await console.receive()
            for thread in waiting:
                thread.start()
            await anyio.sleep(0.3)
            assert await anyio.to_thread.run_sync(own.stop, number) < 1.0

    anyio.run(watch)
    for thread in waiting:
        thread.join()
    assert own.process
    assert own.process.returncode == 0
    own.start()
    assert remote.machines.state(machine.uuid).phase is Phase.RUNNING
    remote.close()


def test_idle_agent_stops_and_takes_its_socket_along(own: AgentProcess) -> None:
    assert own.stop() < 1.0
    assert own.process
    assert own.process.returncode == 0
    assert not own.socket.exists()
    assert "machines go on" in own.log.read_text()


def test_second_agent_on_one_directory(agent: AgentProcess) -> None:
    argv = [str(agent.root / "other.sock") if word == str(agent.socket) else word for word in agent.argv()]
    done = run(argv, check=False)
    assert done.code == 1
    assert "in use by another node agent" in done.stderr
    assert "Traceback" not in done.stderr


def test_second_agent_on_one_socket(agent: AgentProcess, tmp_path: Path) -> None:
    argv = [str(tmp_path / "state") if word == str(agent.state_dir) else word for word in agent.argv()]
    done = run(argv, check=False)
    assert done.code == 1
    assert "listens on" in done.stderr
    assert RemoteHypervisor(agent.url).machines.facts().hypervisor == "fake"


def test_faults_on_order(http: httpx.Client) -> None:
    assert http.post("/v1/faults", content="{}").status_code == 204
    assert http.post("/v1/faults", content='{"delay": -1}').json()["error"]["field"] == "delay"
    order = {"fail": [{"operation": "facts", "code": "never heard of"}]}
    assert http.post("/v1/faults", json=order).status_code == 204
    failed = http.get("/v1/facts")
    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "server_error")


@pytest.mark.parametrize(("warm", "making"), [("never", False), ("always", True)])
def test_it_is_told_when_to_make_warm_images(warm: str, making: bool, tmp_path: Path) -> None:
    agent = AgentProcess(warm=warm)
    try:
        agent.start()
        node = RemoteHypervisor(agent.url)
        can = {"guest_agent": True, "cloud_init": True}
        image = make_image(tmp_path, qcow2=False).model_copy(update=can)
        assert node.disks.ensure_image(image, str(tmp_path)).done
        machine = make_machine(image.sha256).model_copy(update={"warm": "public"})
        node.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
        node.machines.ensure(machine, 1)
        node.machines.power(machine.uuid, Power.ON, 1)
        assert node.machines.state(machine.uuid).began.why.endswith("being made") == making
        assert len(node.warm.warm_images()) == making
        node.close()
    finally:
        agent.close()


def test_real_nodes_take_no_orders_for_faults() -> None:
    async def order() -> httpx.Response:
        hypervisor = FakeHypervisor()
        transport = httpx.ASGITransport(Agent(hypervisor, hypervisor.machines, inject=None).app)
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            return await client.post("/v1/faults", content="{}")

    assert anyio.run(order).status_code == 404
