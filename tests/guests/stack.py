"""A whole cloud of the test's own: supervisor, database, workers, API and node agents, with real QEMU guests.

It lives in a directory under /tmp, listens on ports of its own, and leaves nothing behind, however the test ends.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg

from paddock.base import clock
from paddock.base.errors import CommandFailed
from paddock.base.run import Completed, run
from paddock.base.statedir import StateDir
from paddock.images.progress import StatusFile
from paddock.service import procs, state
from paddock.service.supervisor import recorded
from tests.clients.specification import judge
from tests.support_images import built_image
from tests.support_ports import free_ports, is_free

T = TypeVar("T")
SSH_PORTS = 20  # per node
OPTIONS = (
    "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "ConnectTimeout=20", "LogLevel=ERROR",
)  # fmt: skip


@dataclass
class Plan:
    """How a stack is to be."""

    workers: int = 1
    host: str = "127.0.0.1"  # that the API listens on; others than loopback by HTTPS
    nodes: tuple[dict[str, Any], ...] = ({"name": "n1"},)
    images: tuple[str, ...] = ("tiny",)  # of the catalogue, there from the start; others it builds itself
    env: dict[str, str] = field(default_factory=dict)
    database_url: str = ""
    source: Path | None = None  # another version's `src`; None: the one under test


class Stack:
    """One cloud. `up` may be called again after `down` or `kill_all`."""

    def __init__(self, plan: Plan | None = None) -> None:
        self.plan = plan or Plan()
        self.root = Path(tempfile.mkdtemp(prefix="pks-", dir="/tmp"))
        self.root.chmod(0o711)  # the service users pass through
        self.state = StateDir(self.root / "s")
        self.clock = self.root / "clock"
        self.key = self.root / "key"
        self.ports = free_ports(1 + SSH_PORTS * len(self.plan.nodes))
        self._client: httpx.Client | None = None

    # Processes

    def up(self, source: Path | None = None) -> "Stack":
        """Start it, or start it again. `source` is another version's tree."""
        if not self.state.marker.exists():
            self._furnish()
        self.paddock("up", "--detach", source=source or self.plan.source)
        return self

    def down(self, source: Path | None = None) -> None:
        self.paddock("down", source=source or self.plan.source)

    def paddock(self, *words: str, source: Path | None = None) -> Completed:
        """The command line, on this stack's directory."""
        env = {**self.plan.env, "PADDOCK_CLOCK_FILE": str(self.clock)}
        if source:
            env["PYTHONPATH"] = str(source)
        argv = [sys.executable, "-c", "from paddock.cli.main import main; main()"]
        return run([*argv, *words, "--state-dir", self.state.root], timeout=240, env=env)

    def pid(self, role: str) -> int:
        """Of `supervisor`, or of a process of its table: api, worker, worker-1, agent-n1, postgres."""
        if role == "supervisor":
            owner = state.holder(self.state)
            return owner.pid if owner else 0
        return next((int(r["pid"]) for r in recorded(self.state) if r["name"] == role), 0)

    def roles(self) -> dict[str, int]:
        """All that run, and their pids."""
        return {
            r["name"]: int(r["pid"]) for r in recorded(self.state) if r["pid"] and r["state"] in ("starting", "ready")
        }

    def kill(self, role: str, number: int = signal.SIGKILL) -> bool:
        """Signal it, and whether it was there. Verified by its start time: a pid alone may be another's by now."""
        row = next((r for r in recorded(self.state) if r["name"] == role and r["pid"]), None)
        if role == "supervisor":
            owner = state.holder(self.state)
            return owner is not None and procs.send(owner, number)
        return row is not None and procs.send(procs.Mark(int(row["pid"]), int(row["start"])), number)

    def restarts(self, role: str) -> int:
        return next((int(r["restarts"]) for r in recorded(self.state) if r["name"] == role), 0)

    def wait_ready(self, seconds: float = 60) -> None:
        """Until all processes are ready again."""
        until(lambda: all(r["state"] in ("ready", "done") for r in recorded(self.state)), seconds, "all to be ready")
        until(lambda: self._answers(), seconds, "the API to answer")

    def kill_all(self) -> None:
        """SIGKILL of the supervisor and of all that it runs, PostgreSQL included: as the OOM killer might."""
        marks = [procs.Mark(int(r["pid"]), int(r["start"])) for r in recorded(self.state) if r["pid"]]
        owner = state.holder(self.state)
        for mark in [owner, *marks]:
            if mark:
                procs.send(mark, signal.SIGKILL)
        for mark in [owner, *marks]:
            assert mark is None or procs.wait_gone(mark, 10)

    # The API

    @property
    def api(self) -> httpx.Client:
        if self._client is None:
            token = self.state.token.read_text().strip()
            base = self.state.api_url.read_text().strip()
            trust = ssl.create_default_context(cafile=self.state.ca) if base.startswith("https:") else False
            headers = {"Authorization": f"Bearer {token}"}
            self._client = httpx.Client(
                base_url=base, headers=headers, timeout=30, trust_env=False, verify=trust,
                event_hooks={"response": [judge]},
            )  # fmt: skip
        return self._client

    def get(self, path: str, **params: Any) -> Any:
        """An answer that must be a success; while the API is being started again, asked again."""
        return self._patient("GET", path, params=params)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._patient("POST", path, json=body or {})

    def create(self, name: str, **fields: Any) -> tuple[int, int]:
        """Ask for a server: its id and its action's."""
        body = {"name": name, "server_type": "nano", "image": "tiny", "ssh_keys": ["tester"], **fields}
        made = self.post("/v1/servers", body)
        return made["server"]["id"], made["action"]["id"]

    def power(self, server: int, command: str) -> int:
        """Ask for poweron, poweroff, shutdown, reboot or reset: the action's id."""
        return int(self.post(f"/v1/servers/{server}/actions/{command}")["action"]["id"])

    def delete(self, server: int) -> int:
        return int(self._patient("DELETE", f"/v1/servers/{server}")["action"]["id"])

    def server(self, server: int) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/v1/servers/{server}")["server"]
        return found

    def servers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/v1/servers", per_page=50)["servers"]
        return found

    def action(self, action: int) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/v1/actions/{action}")["action"]
        return found

    def ended(self, action: int, seconds: float = 60) -> dict[str, Any]:
        """The action once it has ended, however."""
        return until(lambda: self._over(action), seconds, lambda: f"the end of {self.action(action)}")

    def done(self, action: int, seconds: float = 60) -> dict[str, Any]:
        """The action once it has succeeded."""
        over = self.ended(action, seconds)
        assert over["status"] == "success", over
        return over

    def ready(self, server: int, seconds: float = 90) -> dict[str, Any]:
        """The server once its guest can be used."""
        return until(lambda: self._if_ready(server), seconds, lambda: f"readiness of {self.server(server)}")

    def launch(self, name: str, **fields: Any) -> dict[str, Any]:
        """A server whose guest is ready."""
        made, action = self.create(name, **fields)
        self.done(action)
        return self.ready(made)

    def remove(self, *servers: int) -> None:
        """Delete servers, and wait until they are gone."""
        for action in [self.delete(s) for s in servers]:
            self.done(action)

    # Guests and what lies on the host

    def ssh_argv(self, server: dict[str, Any]) -> list[str]:
        options = [word for option in OPTIONS for word in ("-o", option)]
        to = server["x_ssh"]
        return ["ssh", *options, "-i", str(self.key), "-p", str(to["port"]), f"{to['user']}@{to['host']}"]

    def ssh(self, server: dict[str, Any], command: str, seconds: float = 30) -> str:
        """What a command in the guest prints."""
        end = clock.monotonic() + seconds
        while True:
            try:
                return run([*self.ssh_argv(server), command], timeout=seconds).stdout.strip()
            except CommandFailed:
                if clock.monotonic() > end:
                    raise
                clock.sleep(0.3)

    def node_dir(self, name: str = "n1") -> Path:
        place = next((n.get("state_dir") for n in self.plan.nodes if n["name"] == name), None)
        return Path(place) if place else self.state.nodes / name

    def machine_dirs(self) -> list[Path]:
        found: list[Path] = []
        for node in self.plan.nodes:
            place = self.node_dir(node["name"]) / "machines"
            found += list(place.iterdir()) if place.is_dir() else []
        return found

    def guests(self) -> list[int]:
        """The pids of all QEMUs that run in this stack's machine directories."""
        places = [str(self.node_dir(n["name"])) for n in self.plan.nodes]
        return [p for p in procs.pids() if _is_qemu(p) and any(_within(str(procs.cwd(p)), q) for q in places)]

    def qemu(self, uuid: str) -> int:
        """The pid of a server's QEMU, 0 when there is none. Two would be a catastrophe."""
        found = [p for p in self.guests() if uuid in procs.argv(p)]
        assert len(found) <= 1, f"{len(found)} QEMUs run {uuid}"
        return found[0] if found else 0

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Straight out of the database."""
        with psycopg.connect(self.state.database_url.read_text().strip()) as connection:
            answer = connection.execute(statement.encode())
            return answer.fetchall() if answer.description else []

    def nothing_left(self) -> None:
        """No server anywhere: no row, claim, unfinished action, directory, process or taken port."""
        assert self.servers() == []
        until(lambda: not self.machine_dirs(), 5, lambda: f"{self.machine_dirs()} to go")
        assert self.guests() == []
        assert self.rows("SELECT count(*) FROM cloud_server")[0][0] == 0
        assert self.rows("SELECT id, command FROM cloud_action WHERE status = 'running'") == []
        claims = self.rows("SELECT name, claimed_cpus, claimed_memory_mib, claimed_disk_gib FROM cloud_node")
        assert all(row[1:] == (0, 0, 0) for row in claims), claims
        assert [p for p in self.ports[1:] if not is_free(p)] == []

    def _furnish(self) -> None:
        state.make(self.state)
        self._write_settings()
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tester", "-f", self.key])
        for name in self.plan.images:
            image = built_image(name)
            sha256 = image.manifest.sha256
            run(["cp", "-a", "--reflink=auto", image.directory, self.state.images / sha256])
            StatusFile(self.state.uploads / f"{name}.status.json").change(state="ready", percent=100, sha256=sha256)

    def _write_settings(self) -> None:
        lines = [f"workers = {self.plan.workers}", "[api]", f'host = "{self.plan.host}"', f"port = {self.ports[0]}"]
        if self.plan.database_url:
            lines += ["[database]", f'url = "{self.plan.database_url}"']
        for number, node in enumerate(self.plan.nodes):
            said = {
                "first_ssh_port": self.ports[1 + number * SSH_PORTS], "ssh_ports": SSH_PORTS, "accelerator": "tcg",
                "warm": "never", "cpus": 16, "memory_mib": 16384, "disk_gib": 200, **node,
            }  # fmt: skip
            lines += ["[[node]]", *(f"{k} = {_toml(v)}" for k, v in said.items())]
        self.state.config.write_text("\n".join(lines) + "\n")

    def add_key(self) -> None:
        """Make the tester's SSH key known."""
        self.post("/v1/ssh_keys", {"name": "tester", "public_key": Path(f"{self.key}.pub").read_text().strip()})

    def _patient(self, method: str, path: str, **options: Any) -> Any:
        end = clock.monotonic() + 60
        while True:
            try:
                answer = self.api.request(method, path, **options)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code not in (502, 503):
                assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
                return answer.json()
            assert clock.monotonic() < end, f"the API does not answer {method} {path}"
            clock.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return self.api.get("/x/v1/version").is_success
        except httpx.TransportError:
            return False

    def _over(self, action: int) -> dict[str, Any] | None:
        found = self.action(action)
        return found if found["status"] != "running" else None

    def _if_ready(self, server: int) -> dict[str, Any] | None:
        found = self.server(server)
        return found if found["x_ready"]["ready"] else None

    # The end

    def close(self) -> None:
        """Remove its servers, stop it, and end whatever of it is left. What it left is an error of its own."""
        try:
            if self._client:
                self._client.close()
            with contextlib.suppress(CommandFailed):
                self.down()
        finally:
            self._end_all()
            shutil.rmtree(self.root, ignore_errors=True)

    def _end_all(self) -> None:
        pids = {p for p in procs.pids() if self._is_ours(p)}
        for mark in filter(None, map(procs.mark, pids)):
            procs.send(mark, signal.SIGKILL)
            procs.wait_gone(mark, 5)
        elsewhere = [self.state.run.readlink()] if self.state.run.is_symlink() else []
        note = self.state.root / "db-sockets"
        if note.exists():
            elsewhere.append(Path(note.read_text().strip()))
        for path in elsewhere:
            shutil.rmtree(path, ignore_errors=True)

    def _is_ours(self, pid: int) -> bool:
        """Its directories have names that nothing else has: whatever works in them or was told of them is ours."""
        if pid == os.getpid():
            return False
        where, words = str(procs.cwd(pid)), procs.argv(pid)
        places = {str(self.root), *(str(self.node_dir(n["name"])) for n in self.plan.nodes)}
        return any(_within(where, p) or any(f"{p}/" in word for word in words) for p in places)


@contextlib.contextmanager
def stack(plan: Plan | None = None, **fields: Any) -> Iterator[Stack]:
    """A stack that runs, for the time of the block. When that fails, its logs are shown."""
    made = Stack(plan or Plan(**fields))
    try:
        made.up()
        made.add_key()
        yield made
    except BaseException:
        show_logs(made)
        raise
    finally:
        made.close()


def show_logs(made: Stack, last: int = 3000) -> None:
    """Print the ends of all logs, for pytest to show."""
    for log in sorted(made.state.log.glob("*.log")):
        print(f"--- {log.name}\n{log.read_text(errors='replace')[-last:]}")


def until(
    look: Callable[[], T | None], seconds: float, what: str | Callable[[], str] = "it to happen", every: float = 0.05
) -> T:
    """Look until there is something; what it is. `what` names what is waited for."""
    end = clock.monotonic() + seconds
    while True:
        if found := look():
            return found
        assert clock.monotonic() < end, f"waited {seconds:g} s for {what if isinstance(what, str) else what()}"
        clock.sleep(every)


def seed_of(name: str) -> random.Random:
    """Chance that can be repeated: PADDOCK_TEST_SEED chooses it, and it is printed."""
    chosen = int(os.environ.get("PADDOCK_TEST_SEED") or random.randrange(2**31))
    print(f"{name}: PADDOCK_TEST_SEED={chosen}")
    return random.Random(chosen)


def _is_qemu(pid: int) -> bool:
    words = procs.argv(pid)
    return bool(words) and re.match(r"qemu-system", Path(words[0]).name) is not None


def _within(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}/")


def _toml(value: object) -> str:
    return str(value) if isinstance(value, int | float) else f'"{value}"'
