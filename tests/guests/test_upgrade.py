"""From one version to the next: no guest is cut, an older agent serves a newer control plane, and there is no way back
where an older version would not understand what it finds."""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import paddock
from paddock.base import clock
from paddock.base.errors import CommandFailed
from paddock.base.run import spawn
from paddock.service import procs
from tests.guests.stack import Stack, until

pytestmark = [pytest.mark.guest, pytest.mark.slow]

OLD = "0.0.9"


@pytest.fixture
def older() -> Iterator[Path]:
    """A copy of the source tree that says it is an older version."""
    place = Path(tempfile.mkdtemp(prefix="pkold-", dir="/tmp"))
    place.chmod(0o755)
    source = Path(paddock.__file__).parent
    shutil.copytree(source, place / "paddock", ignore=shutil.ignore_patterns("__pycache__"))
    about = place / "paddock/__init__.py"
    about.write_text(about.read_text().replace(paddock.__version__, OLD))
    yield place
    shutil.rmtree(place)


def version(cloud: Stack) -> str:
    return str(cloud.get("/x/v1/version")["version"])


def test_guests_survive_an_upgrade(older: Path) -> None:
    cloud = Stack()
    try:
        cloud.up(source=older)
        cloud.add_key()
        assert version(cloud) == OLD
        server = cloud.launch("survivor")
        boot, qemu = cloud.ssh(server, "cat /proc/sys/kernel/random/boot_id"), cloud.qemu(server["x_uuid"])
        said = cloud.root / "session"
        session = spawn([*cloud.ssh_argv(server), "while true; do echo tick; sleep 0.2; done"], output=said)
        try:
            cloud.down(source=older)
            cloud.up()
            assert version(cloud) == paddock.__version__
            before = said.stat().st_size
            until(lambda: said.stat().st_size > before + 20, 20, "the session to go on")
            assert session.poll() is None
        finally:
            session.kill()
            session.wait()
        shown = cloud.server(server["id"])
        assert (shown["status"], shown["x_ready"]["ready"], cloud.qemu(shown["x_uuid"])) == ("running", True, qemu)
        assert cloud.ssh(shown, "cat /proc/sys/kernel/random/boot_id") == boot
        _managed(cloud, server["id"])
        cloud.nothing_left()
    finally:
        cloud.close()


def test_an_older_agent_serves_a_newer_control_plane(older: Path) -> None:
    """As in the middle of an upgrade of many hosts: the node's agent is still the last version's."""
    cloud = Stack()
    agent = None
    try:
        cloud.up()
        cloud.add_key()
        cloud.kill("supervisor", 19)  # SIGSTOP: it must not start the agent again
        cloud.kill("agent-n1")
        agent = _agent(cloud, older)
        server, action = cloud.create("mixed", x_start_paused=True)
        cloud.done(action)
        nodes = cloud.get("/admin/v1/nodes")["nodes"]
        assert [(n["state"], n["version"]) for n in nodes] == [("up", OLD)], nodes
        _managed(cloud, server)
        cloud.nothing_left()
    finally:
        if agent:
            procs.send(agent, 9)
            procs.wait_gone(agent, 5)
        cloud.kill("supervisor", 18)
        cloud.close()


def _managed(cloud: Stack, server: int) -> None:
    """Whatever can be done to a server can be done to this one."""
    cloud.done(cloud.power(server, "poweroff"))
    assert cloud.guests() == []
    cloud.done(cloud.power(server, "poweron"))
    assert len(cloud.guests()) == 1
    cloud.done(cloud.power(server, "reset"))
    cloud.remove(server)


def _agent(cloud: Stack, source: Path) -> procs.Mark:
    """Another version's agent, in the place of the one that ran."""
    socket = cloud.state.agent_socket("n1")
    argv: list[str | Path] = [
        sys.executable, "-m", "paddock.agent", "--name", "n1", "--socket", socket, "--state-dir", cloud.node_dir(),
        "--driver", "qemu", "--accelerator", "tcg",
    ]  # fmt: skip
    process = spawn(argv, output=cloud.state.log / "agent-old.log", env={"PYTHONPATH": str(source)})
    mark = procs.mark(process.pid)
    assert mark
    end = clock.monotonic() + 30
    while not socket.exists() and clock.monotonic() < end:
        clock.sleep(0.05)
    return mark


def test_no_way_back_from_a_newer_layout(older: Path) -> None:
    """Nothing is started, and nothing is changed."""
    cloud = Stack()
    try:
        cloud._furnish()
        marker = json.loads(cloud.state.marker.read_text())
        cloud.state.marker.write_text(json.dumps({**marker, "version": marker["version"] + 1, "paddock": "9.9"}))
        before = sorted(p.name for p in cloud.state.root.iterdir())
        with pytest.raises(CommandFailed, match=r"made by a newer Paddock \(9.9"):
            cloud.up(source=older)
        assert sorted(p.name for p in cloud.state.root.iterdir()) == before
        assert cloud.roles() == {}
    finally:
        cloud.state.marker.unlink()
        cloud.close()
