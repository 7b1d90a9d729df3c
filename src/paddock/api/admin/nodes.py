"""Nodes and what the whole cluster holds, for operators."""

from typing import Any

from django.db.models import Count, Q, QuerySet, Sum
from django.http import HttpRequest
from ninja import Router

from paddock.api.paging import Meta, get, page
from paddock.api.v1.common import Reply, Time
from paddock.cloud.models import Node, Server

router = Router(tags=["admin: nodes"])
SORTABLE = {"id": "id", "name": "name"}
UP = ("running", "paused")


class SshPorts(Reply):
    """The range that forwards to guests' port 22."""

    first: int
    count: int
    used: int


class NodeUse(Reply):
    """What of a node is really used, as it last said: bytes of disk, MiB of memory, and the load of its host (how many
    wanted a CPU in the last minute). `disk_others` is what is neither free nor ours."""

    load: float
    memory_mib: int
    memory_free_mib: int
    disk: int
    disk_free: int
    disk_machines: int
    disk_images: int
    disk_volumes: int
    disk_others: int
    images: int


class NodeReply(Reply):
    """A node: what it has, what of it is claimed, and what is really used (null: it never said)."""

    id: int
    name: str
    driver: str
    state: str
    problem: str
    cpus: int
    memory_mib: int
    disk_gib: int
    claimed_cpus: int
    claimed_memory_mib: int
    claimed_disk_gib: int
    cpu_overcommit: float
    memory_overcommit: float
    servers: int
    running: int
    accelerator: str
    accelerator_reason: str
    hypervisor: str
    version: str
    ssh_ports: SshPorts
    last_seen: Time | None
    use: NodeUse | None


class OneNode(Reply):
    node: NodeReply


class ManyNodes(Reply):
    nodes: list[NodeReply]
    meta: Meta


class Usage(Reply):
    """How much there is, overcommit included, and how much is claimed."""

    total: int
    claimed: int
    utilization_pct: float


class Statistics(Reply):
    """The whole cluster (D29)."""

    vcpus: Usage
    memory_mib: Usage
    disk_gib: Usage
    servers: dict[str, int]
    nodes: dict[str, int]


def rows() -> "QuerySet[Node]":
    """All nodes with the number of their servers."""
    running = Count("server", filter=Q(server__status__in=UP))
    return Node.objects.annotate(servers=Count("server"), running=running)


def shown(node: Any) -> NodeReply:
    """A node as it goes out."""
    facts = node.facts
    return NodeReply(
        id=node.pk,
        name=node.name,
        driver=node.driver,
        state=node.state,
        problem=node.problem,
        cpus=node.cpus,
        memory_mib=node.memory_mib,
        disk_gib=node.disk_gib,
        claimed_cpus=node.claimed_cpus,
        claimed_memory_mib=node.claimed_memory_mib,
        claimed_disk_gib=node.claimed_disk_gib,
        cpu_overcommit=node.cpu_overcommit,
        memory_overcommit=node.memory_overcommit,
        servers=node.servers,
        running=node.running,
        accelerator=facts.get("accelerator", ""),
        accelerator_reason=facts.get("accelerator_reason", ""),
        hypervisor=facts.get("hypervisor", ""),
        version=facts.get("version", ""),
        last_seen=node.last_seen,
        use=_use(facts) if "disk" in facts else None,
        ssh_ports=SshPorts(first=node.first_ssh_port, count=node.ssh_ports, used=node.servers),
    )


def _use(facts: dict[str, Any]) -> NodeUse:
    ours = facts.get("use") or {}
    taken = {name: ours.get(name, 0) for name in ("machines", "images", "volumes")}
    return NodeUse(
        load=facts.get("load", 0.0),
        memory_mib=facts.get("memory_mib", 0),
        memory_free_mib=facts.get("memory_free_mib", 0),
        disk=facts["disk"],
        disk_free=facts.get("disk_free", 0),
        disk_machines=taken["machines"],
        disk_images=taken["images"],
        disk_volumes=taken["volumes"],
        disk_others=max(facts["disk"] - facts.get("disk_free", 0) - sum(taken.values()), 0),
        images=ours.get("image_count", 0),
    )


@router.get("/nodes", response=ManyNodes)
def list_nodes(request: HttpRequest) -> ManyNodes:
    """All nodes."""
    found, meta = page(request, rows(), SORTABLE)
    return ManyNodes(nodes=[shown(n) for n in found], meta=meta)


@router.get("/nodes/{int:id}", response=OneNode)
def show_node(request: HttpRequest, id: int) -> OneNode:
    """One node."""
    return OneNode(node=shown(get(rows(), "node", id)))


@router.get("/statistics", response=Statistics)
def show_statistics(request: HttpRequest) -> Statistics:
    """How full the cluster is."""
    claimed = Node.objects.aggregate(
        cpus=Sum("claimed_cpus", default=0),
        memory=Sum("claimed_memory_mib", default=0),
        disk=Sum("claimed_disk_gib", default=0),
    )
    nodes = list(Node.objects.all())
    return Statistics(
        vcpus=_usage(sum(int(n.cpus * n.cpu_overcommit) for n in nodes), claimed["cpus"]),
        memory_mib=_usage(sum(int(n.memory_mib * n.memory_overcommit) for n in nodes), claimed["memory"]),
        disk_gib=_usage(sum(n.disk_gib for n in nodes), claimed["disk"]),
        servers={"total": Server.objects.count(), "running": Server.objects.filter(status__in=UP).count()},
        nodes={"total": len(nodes), "up": sum(n.state == "up" for n in nodes)},
    )


def _usage(total: int, claimed: int) -> Usage:
    return Usage(total=total, claimed=claimed, utilization_pct=round(100 * claimed / total, 1) if total else 0.0)
