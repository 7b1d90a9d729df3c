"""The table of our processes: what `paddock up` runs, made from paddock.toml."""

import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddock.base.errors import PaddockError, from_wire
from paddock.base.run import run
from paddock.base.statedir import DATABASE_ENV, STATE_ENV, StateDir
from paddock.service.postgres import STOP_WITHIN, Cluster
from paddock.service.process import Process
from paddock.service.ready import Alive, Asks, Http, Listens

RECOVERY = 600.0  # seconds that PostgreSQL may need after a crash
STEP = 60.0  # seconds that a worker may need to end the steps in hand
MIGRATION = 600.0
CONNECTIONS = 30  # of PostgreSQL: api, prepare, people
CONNECTIONS_PER_WORKER = 30


@dataclass(frozen=True)
class Node:
    """A node on this host."""

    name: str
    driver: str
    accelerator: str
    warm: str
    warm_budget_gib: int
    state_dir: Path
    ssh_ports: range


@dataclass(frozen=True)
class Plan:
    """What paddock.toml asks for."""

    host: str
    port: int
    database_url: str
    workers: int
    nodes: tuple[Node, ...]
    tls: bool = False

    @property
    def api_url(self) -> str:
        """Where this host reaches the API: one that listens everywhere is on loopback too."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http{'s' * self.tls}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host), self.port  # noqa: S104

    @property
    def connections(self) -> int:
        """That the embedded PostgreSQL must allow."""
        return CONNECTIONS + CONNECTIONS_PER_WORKER * self.workers


def read_plan(state: StateDir) -> Plan:
    """Read and check paddock.toml, in another process. Raises what it raised."""
    done = run([sys.executable, "-m", "paddock.service.plan", state.config], check=False, timeout=120)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise PaddockError(f"paddock.toml could not be read: {done.stderr.strip()[-2000:]}") from None
    if done.code:
        raise from_wire(found)
    nodes = tuple(_node(n, state) for n in found["node"])
    return Plan(
        found["api"]["host"],
        found["api"]["port"],
        found["database"]["url"],
        found["workers"],
        nodes,
        found["api"]["tls"],
    )


def postgres(cluster: Cluster) -> Process:
    """The embedded PostgreSQL: alone untethered, since it must never be cut off."""
    return Process(
        name="postgres",
        argv=cluster.argv(),
        ends=3,
        ready=Asks(cluster.answers),
        start_within=RECOVERY,
        signals=((signal.SIGINT, STOP_WITHIN), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0)),
        tethered=False,
        identity=cluster.identity,
        running=cluster.running,
        before=cluster.forget_dead,
    )


def agents(state: StateDir, plan: Plan) -> list[Process]:
    """The agent of each node on this host."""
    return [_agent(node, state) for node in plan.nodes]


def control_plane(state: StateDir, plan: Plan, database_url: str) -> list[Process]:
    """The database's preparation, then workers and api."""
    env = {STATE_ENV: str(state.root), DATABASE_ENV: database_url}
    prepare = Process(
        "prepare", _module("paddock.cloud.prepare"), stage=1, once=True, start_within=MIGRATION, env=env
    )  # fmt: skip
    ready = Listens(plan.address) if plan.tls else Http(plan.address, "/x/v1/version")
    api = Process("api", _module("paddock.api"), stage=2, ready=ready, env=env)
    names = ["worker"] if plan.workers == 1 else [f"worker-{n}" for n in range(1, plan.workers + 1)]
    workers = [
        Process(
            name, _module("paddock.cloud.worker"), stage=2, ends=1, ready=Alive(1.5), env=env,
            signals=((signal.SIGTERM, STEP), (signal.SIGKILL, 5.0)),
        )
        for name in names
    ]  # fmt: skip
    return [prepare, *workers, api]


def _agent(node: Node, state: StateDir) -> Process:
    socket = state.agent_socket(node.name)
    options = ("--name", node.name, "--socket", str(socket), "--state-dir", str(node.state_dir))
    warm = ("--warm", node.warm, "--warm-budget-gib", str(node.warm_budget_gib))
    return Process(
        name=f"agent-{node.name}",
        argv=(*_module("paddock.agent"), *options, "--driver", node.driver, "--accelerator", node.accelerator, *warm),
        ends=2,
        ready=Http(socket, "/v1/facts"),
        start_within=120.0,
        env={STATE_ENV: str(state.root)},
    )


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name)


def _node(found: dict[str, Any], state: StateDir) -> Node:
    ports = range(found["first_ssh_port"], found["first_ssh_port"] + found["ssh_ports"])
    place = Path(found["state_dir"]) if found["state_dir"] else state.nodes / found["name"]
    said = {name: found[name] for name in ("name", "driver", "accelerator", "warm", "warm_budget_gib")}
    return Node(**said, state_dir=state.root / place, ssh_ports=ports)
