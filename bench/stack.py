"""A whole cloud of the benchmark's own: `paddock up` on a fresh state directory, with ports of its own."""

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from bench.figure import moment
from paddock.base import clock, run
from paddock.base.statedir import DATABASE_ENV, STATE_ENV, StateDir
from paddock.service import control, procs
from tests.support_images import built_image

UP_SECONDS = 300.0
JSON = dict[str, Any]

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43 + " bench"  # nobody has the other half
SERVER = {"server_type": "nano", "image": "tiny", "ssh_keys": ["bench"]}

CONFIG = """\
[api]
port = {port}

[[node]]
name = "n1"
driver = "{driver}"
first_ssh_port = {ssh}
ssh_ports = {ports}
cpus = 1000000
memory_mib = 1000000000
disk_gib = 100000000
warm = "never"
"""


class Stack:
    """A cloud with one node, from `with` to its end. `sampled`: where its processes leave profiles."""

    def __init__(self, driver: str, ssh_ports: int = 100, sampled: Path | None = None) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="pkb-", dir="/tmp"))
        self.root.chmod(0o711)  # the users of PostgreSQL and of QEMU must pass
        self.state = StateDir(self.root / "s")
        self._driver, self._ssh_ports, self._sampled = driver, ssh_ports, sampled
        self._paddock = Path(sys.executable).with_name("paddock")

    def __enter__(self) -> "Stack":
        self.state.root.mkdir(mode=0o711)
        self.state.config.write_text(
            CONFIG.format(port=_free_port(), driver=self._driver, ssh=_free_port(23000), ports=self._ssh_ports)
        )
        try:
            run.run(
                [self._paddock, "up", "--detach", "--state-dir", self.state.root], timeout=UP_SECONDS, env=self._env()
            )
        except BaseException:
            self._down()
            raise
        self.client = httpx.Client(
            base_url=self.state.api_url.read_text().strip(),
            headers={"Authorization": f"Bearer {self.state.token.read_text().strip()}"},
            timeout=60,
            trust_env=False,
        )
        self.seed("--image", built_image("tiny").directory)
        self.call("POST", "/v1/ssh_keys", {"name": "bench", "public_key": KEY})
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._down()

    @property
    def node_dir(self) -> Path:
        """Where the node keeps machines and images."""
        return self.state.nodes / "n1"

    def call(self, method: str, path: str, body: JSON | None = None) -> JSON:
        """A request that must succeed."""
        reply = self.client.request(method, path, json=body)
        assert reply.is_success, f"{method} {path}: {reply.status_code} {reply.text}"
        found: JSON = reply.json()
        return found

    def create(self, name: str, **more: Any) -> JSON:
        """Ask for a `tiny` server with an SSH key, as `paddock launch` does."""
        return self.call("POST", "/v1/servers", {**SERVER, "name": name, **more})

    def delete(self, server_id: int) -> None:
        """Ask for its end, and wait for it."""
        self.call("DELETE", f"/v1/servers/{server_id}")
        self.wait_gone(server_id)

    def wait_gone(self, server_id: int, every: float = 0.02) -> None:
        """Until nobody knows it any more."""
        while self.client.get(f"/v1/servers/{server_id}").status_code != 404:
            clock.sleep(every)

    def finish(self, action_id: int, every: float) -> None:
        """Wait for an action, looking every so many seconds. It must succeed."""
        while (action := self.call("GET", f"/v1/actions/{action_id}")["action"])["status"] == "running":
            clock.sleep(every)
        assert action["status"] == "success", action["error"]

    def finish_all(self, action_ids: list[int], every: float) -> None:
        """The same for many, in one request per look."""
        query = "&".join([f"per_page={len(action_ids)}", *(f"id={n}" for n in action_ids)])
        while "running" in (states := {a["status"] for a in self.call("GET", f"/v1/actions?{query}")["actions"]}):
            clock.sleep(every)
        assert states == {"success"}, states

    def seed(self, *words: str | Path) -> str:
        """What `bench.seed` says to that, on this stack's database."""
        url = self.state.database_url.read_text().strip()
        env = {STATE_ENV: str(self.state.root), DATABASE_ENV: url, "PADDOCK_ROLE": "prepare"}
        return run.run([sys.executable, "-m", "bench.seed", *words], env=env, timeout=300).stdout

    def timeline(self, server_id: int) -> list[JSON]:
        found: list[JSON] = self.call("GET", f"/x/v1/servers/{server_id}/timeline")["timeline"]
        return found

    def at(self, server: JSON, step: str) -> float:
        """When a step's success was written down, by PostgreSQL's clock, which is this host's."""
        events = self.timeline(server["id"])
        return next(moment(e["at"]) for e in events if e["step"] == step and e["outcome"] == "done")

    def pids(self) -> dict[int, str]:
        """All processes that are ours, by pid: those that the supervisor runs, and their children; no guests."""
        owner = procs.parent(self._recorded()["api"])
        named = {owner: "supervisor"} | {pid: name for name, pid in self._recorded().items()}
        everybody = {pid: procs.parent(pid) for pid in procs.pids()}
        for pid in sorted(everybody):
            if everybody[pid] in named and pid not in named and not _is_guest(pid):
                named[pid] = named[everybody[pid]]
        return named

    def _recorded(self) -> dict[str, int]:
        rows = json.loads(self.state.status.read_text())
        rows = rows["processes"] if isinstance(rows, dict) else rows
        return {row["name"]: row["pid"] for row in rows if row["pid"] and procs.argv(row["pid"])}

    def _env(self) -> dict[str, str]:
        if self._sampled is None:
            return {}
        return {"PADDOCK_BENCH_SAMPLES": str(self._sampled), "PYTHONPATH": str(Path(__file__).parent / "sampling")}

    def _down(self) -> None:
        """Stop all of it, guests included, and leave nothing."""
        run.run([self._paddock, "down", "--state-dir", self.state.root], timeout=UP_SECONDS, check=False)
        for pid in control.guests(self.state):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.root, ignore_errors=True)


def _is_guest(pid: int) -> bool:
    argv = procs.argv(pid)
    return bool(argv) and "qemu-system" in argv[0]


def _free_port(at_least: int = 0) -> int:
    for port in range(at_least, at_least + 20000, 200) if at_least else (0,):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(sock.getsockname()[1])
    raise RuntimeError("no port is free")
