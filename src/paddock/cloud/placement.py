"""Which node: rows in, a node and reasons out. Pure, so that the same code places, explains and simulates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Strategy = Literal["round-robin", "free-room"]


class Room(Protocol):
    """What placement looks at of a node (a row, or anything shaped like one)."""

    name: str
    state: str
    problem: str
    cpus: int
    memory_mib: int
    disk_gib: int
    cpu_overcommit: float
    memory_overcommit: float
    claimed_cpus: int
    claimed_memory_mib: int
    claimed_disk_gib: int
    ssh_ports: int
    first_ssh_port: int
    last_placed: int


@dataclass(frozen=True)
class Demand:
    """What a server needs."""

    cpus: int
    memory_mib: int
    disk_gib: int
    only: str = ""  # the node that its volumes lie on
    asked: str = ""  # the node that an operator asked for
    apart: frozenset[str] = frozenset()  # nodes with others of its placement group
    lacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # what nodes have not, by name
    full: Mapping[str, str] = field(default_factory=dict)  # why a node's disk takes no more for now, by name
    strange: frozenset[str] = frozenset()  # nodes that serve another project, and can't keep strangers apart


@dataclass(frozen=True)
class Verdict:
    """What a node says to a demand; no reasons: it fits."""

    node: str
    reasons: tuple[str, ...]
    ever: bool  # whether an empty node of this size could hold it
    down: bool  # whether it is only not up
    spread: bool = False  # whether it would fit but for the placement group


def judge(node: Room, demand: Demand, ports_used: int) -> Verdict:
    """Whether the demand fits on a node, and each reason why not, with the smallest change that would help."""
    reasons: list[str] = []
    if node.state != "up":
        reasons.append(f"is {node.state}" + (f": {node.problem}" if node.problem else ""))
    never = False
    for what, needs, whole, over, claimed in (
        ("CPUs", demand.cpus, node.cpus, node.cpu_overcommit, node.claimed_cpus),
        ("MiB of memory", demand.memory_mib, node.memory_mib, node.memory_overcommit, node.claimed_memory_mib),
        ("GiB of disk", demand.disk_gib, node.disk_gib, 1.0, node.claimed_disk_gib),
    ):
        limit = int(whole * over)
        if needs > limit - claimed:
            never = never or needs > limit
            times = f" ({whole} × {over:g})" if over != 1 else ""
            reasons.append(f"has {limit - claimed} of {limit}{times} {what} free, {needs - (limit - claimed)} too few")
    if ports_used >= node.ssh_ports:
        last = node.first_ssh_port + node.ssh_ports - 1
        reasons.append(f"has no SSH port left in {node.first_ssh_port}–{last}")
    reasons += _company(node.name, demand)
    spread = len(reasons) == 1 and node.name in demand.apart
    elsewhere = any(name and name != node.name for name in (demand.only, demand.asked))
    never = never or elsewhere or bool(demand.lacks.get(node.name))
    return Verdict(node.name, tuple(reasons), not never, node.state != "up", spread)


def _company(node: str, demand: Demand) -> Iterator[str]:
    """What speaks against a node besides its room: who and what is there."""
    if demand.only and node != demand.only:
        yield f"is not {demand.only}, where the server's volumes lie"
    if demand.asked and node != demand.asked:
        yield f"is not {demand.asked}, which was asked for"
    yield from demand.lacks.get(node, ())
    if node in demand.full:
        yield demand.full[node]
    if node in demand.apart:
        yield "has another server of the placement group"
    if node in demand.strange:
        yield (
            "serves another project, and can't keep the two from each other's network "
            "(`shared = true` in paddock.toml lets them meet)"
        )


def choose(
    nodes: Sequence[Room], demand: Demand, ports_used: dict[str, int], strategy: Strategy
) -> tuple[list[str], list[Verdict]]:
    """The nodes that fit, best first, and every node's verdict."""
    verdicts = [judge(n, demand, ports_used.get(n.name, 0)) for n in nodes]
    fitting = [n for n, v in zip(nodes, verdicts, strict=True) if not v.reasons]
    key = _turn if strategy == "round-robin" else _fullness
    return [n.name for n in sorted(fitting, key=key)], verdicts


def explain(verdicts: Sequence[Verdict]) -> str:
    """Every node's reasons in one sentence."""
    if not verdicts:
        return "there are no nodes"
    return "; ".join(f"{v.node} {' and '.join(v.reasons)}" for v in verdicts if v.reasons)


def _turn(node: Room) -> tuple[float, str]:
    return (node.last_placed, node.name)


def _fullness(node: Room) -> tuple[float, str]:
    """How full the fuller of CPU and memory is: the emptiest node comes first."""
    cpu = node.claimed_cpus / max(node.cpus * node.cpu_overcommit, 1)
    memory = node.claimed_memory_mib / max(node.memory_mib * node.memory_overcommit, 1)
    return (max(cpu, memory), node.name)
