"""Claiming a place: room, a number and an SSH port on a node, in one transaction; and claiming more there later.

The claim locks the node's row. What is asked after that sees whoever claimed it before, so that two servers of a
placement group, or of two projects that must not meet, never get the same node.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import BigIntegerField, Exists, F, Q, QuerySet, Subquery, Sum, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Greatest, Least

from paddock.base.errors import Conflict, Invalid, NoRoom, PaddockError, PlacementFailed
from paddock.cloud import placement
from paddock.cloud.models import Node, Server, ServerType, Volume
from paddock.machine.spec import GIB, MIB

PLACEMENT_TRIES = 5
KEPT_FREE = GIB  # bytes of a node's disk: with less really free, nothing new comes there
GROWING_MIB = 512  # machines with less memory get no more while they run
GROWTH = 8  # times the CPUs and memory that a server begins with, to which it can be given more while it runs
_USED = "SELECT count(*) FROM cloud_server s WHERE s.node_id = cloud_node.id"
_STRANGERS = "SELECT EXISTS (SELECT FROM cloud_server s WHERE s.node_id = cloud_node.id AND s.project_id <> %s)"
_ASKED = """
SELECT a.arguments ->> 'node' FROM cloud_action a
WHERE a.kind = 'server' AND a.row_id = %s AND a.command = 'create_server' LIMIT 1
"""


@dataclass(frozen=True)
class Shape:
    """How much of a node; of a difference: how much more, or less."""

    cores: int = 0
    memory_mib: int = 0
    disk_gib: int = 0


# Choosing


def verdicts(
    server: Server, volumes: Iterable[Volume] = (), asked: str = ""
) -> tuple[list[str], list[placement.Verdict]]:
    """The names of the nodes that fit, best first, and what each node says. `volumes`: those that it shall have;
    `asked`: the only node that will do."""
    return _choose(_nodes(server), server, _where(volumes), asked)


def refuse_hopeless(server: Server, volumes: Iterable[Volume] = (), asked: str = "") -> None:
    """Raises NoRoom or PlacementFailed when no node can hold a server that was asked for. Nodes that are only down may
    come back, unless one that is up says no: then that is said at once."""
    fitting, said = verdicts(server, volumes, asked)
    if not fitting and not (only_down(said) and not any(v.ever and not v.down for v in said)):
        raise _refusal(said)


def waited_for(server: Server) -> str:
    """The names of the nodes that would fit if they were up. Raises NoRoom or PlacementFailed when there is none."""
    said = verdicts(server, volumes_of(server))[1]
    if names := only_down(said):
        return names
    raise _refusal(said)


def _refusal(said: list[placement.Verdict]) -> PaddockError:
    if any(not v.reasons for v in said):
        return NoRoom("no node has room: others were faster", hint="try again")
    why = placement.explain(said)
    if any(v.spread for v in said):
        return PlacementFailed(f"no node keeps the placement group's servers apart: {why}", field="placement_group")
    if all(not v.ever for v in said):
        return NoRoom(f"no node can hold this server: {why}", hint="choose a smaller server type")
    return NoRoom(f"no node has room: {why}", hint="delete a server, or choose a smaller type")


def only_down(said: Iterable[placement.Verdict]) -> str:
    """The names of the nodes that would fit if they were up; empty when there is none."""
    return ", ".join(v.node for v in said if v.down and len(v.reasons) == 1)


def _nodes(server: Server) -> list[Any]:
    """All nodes: how many servers (so SSH ports) each has, whether another project's are among them, and which node was
    asked for when the server was created.

    All is said to PostgreSQL in its own words: Django takes longer over its words for it than it to answer.
    """
    return list(
        Node.objects.order_by("name").annotate(
            used=RawSQL(_USED, ()),  # noqa: S611  # all three are constants
            strangers=RawSQL(_STRANGERS, (server.project_id,)),  # noqa: S611
            asked=RawSQL(_ASKED, (server.pk,)),  # noqa: S611
        )
    )


def _choose(nodes: list[Any], server: Server, only: str, asked: str = "") -> tuple[list[str], list[placement.Verdict]]:
    demand = placement.Demand(
        cpus=server.cores,
        memory_mib=server.memory_mib,
        disk_gib=server.disk_gib,
        only=only,
        asked=asked or next((n.asked for n in nodes if n.asked), ""),
        apart=_nodes_of_group(server),
        lacks={n.name: tuple(lacks(n, server, server.server_type)) for n in nodes} if _special(server) else {},
        full={n.name: why for n in nodes for why in full(n)},
        strange=frozenset(n.name for n in nodes if n.strangers and not _shared(n)),
    )
    return placement.choose(nodes, demand, {n.name: n.used for n in nodes}, settings.PLACEMENT)


def full(node: Node) -> Iterator[str]:
    """Why a node's disk takes no more, whatever is claimed of it: others may fill it too. As the node last said."""
    free = node.facts.get("disk_free")
    if free is not None and free < KEPT_FREE:
        yield f"has {free // MIB} MiB of its disk really free, and {KEPT_FREE // MIB} are kept free"


def _special(server: Server) -> bool:
    plan = server.server_type
    return plan.nested or plan.huge_pages or plan.dedicated_cpus


def lacks(node: Node, server: Server, plan: ServerType) -> Iterator[str]:
    """What this type of server needs of a host besides room, and the node has not, each in words."""
    facts, others = node.facts, Server.objects.filter(node=node).exclude(pk=server.pk)
    if plan.nested and (why := facts.get("no_nested", "its node agent does not say")):
        yield f"can't run virtual machines in virtual machines: {why}"
    for has, what, needs, claimed in (
        (plan.huge_pages, "MiB in huge pages", plan.memory_mib, others.filter(server_type__huge_pages=True)),
        (plan.dedicated_cpus, "CPUs to dedicate", plan.cores, others.filter(server_type__dedicated_cpus=True)),
    ):
        if not has:
            continue
        pages = what.endswith("pages")
        whole = facts.get("huge_pages_mib" if pages else "dedicated_cpus", 0)
        left = whole - (claimed.aggregate(sum=Sum("memory_mib" if pages else "cores"))["sum"] or 0)
        if left < needs:
            yield f"has {max(0, left)} of {whole} {what} left, {needs} are needed"


def _nodes_of_group(server: Server) -> frozenset[str]:
    if server.placement_group_id is None:
        return frozenset()
    return frozenset(_others_of_group(server).values_list("node__name", flat=True))


def _others_of_group(server: Server) -> "QuerySet[Server]":
    placed = Server.objects.filter(placement_group=server.placement_group_id, node__isnull=False)
    return placed.exclude(pk=server.pk)


def volumes_of(server: Server) -> Iterable[Volume]:
    """Its volumes; a server that no volume was ever given has revision 0, and costs no query."""
    return server.volumes.select_related("node") if server.revision else ()


def _where(volumes: Iterable[Volume]) -> str:
    """The node that volumes lie on; empty when they lie nowhere yet. Raises Invalid when it is more than one."""
    names = {v.name: v.node.name for v in volumes if v.node is not None}
    if len(set(names.values())) > 1:
        told = ", ".join(f"{volume} on {node}" for volume, node in names.items())
        raise Invalid(f"the volumes lie on different nodes: {told}", field="volumes")
    return next(iter(names.values()), "")


# Claiming


def claim(server: Server) -> bool:
    """Claim a place on the best node that still has room, and write it down in the same transaction."""
    only = _where(volumes_of(server))
    for _ in range(PLACEMENT_TRIES):
        nodes = _nodes(server)
        fitting, _verdicts = _choose(nodes, server, only)
        if not fitting:
            return False
        with transaction.atomic():
            if _claim_on(server, next(n for n in nodes if n.name == fitting[0])):
                return True
    return False


def _claim_on(server: Server, node: Node) -> bool:
    if not node.claim(server.cores, server.memory_mib, server.disk_gib):
        return False
    port = _free_port(node, node.first_ssh_port)
    number = Node.objects.filter(pk=node.pk).values(number=F("first_id") + F("last_number") - 1)
    unplaced = _if_alone(server, node, Server.objects.filter(pk=server.pk, epoch=server.epoch, node=None))
    # A fork has what it was forked of has.
    room = {} if server.fork else room_to_grow(node, server.layout, server.cores, server.memory_mib)
    if not unplaced.update(node=node, number=Subquery(number), ssh_port=port, **room):
        transaction.set_rollback(True)
        return False
    server.node, server.ssh_port = node, port  # the rest comes with the next look at the row
    return True


def _if_alone(server: Server, node: Node, row: "QuerySet[Server]") -> "QuerySet[Server]":
    """The row, unless one that it must not meet came to the node since we looked."""
    if server.placement_group_id is not None:
        row = row.filter(~Exists(_others_of_group(server).filter(node=node)))
    if not _shared(node):
        row = row.filter(~Exists(Server.objects.filter(node=node).exclude(project=server.project_id)))
    return row


def _shared(node: Node) -> bool:
    """A node lets projects meet where its driver keeps them apart, or its operator said that they may."""
    said = node.settings.get("shared", node.driver == "fake")
    return bool(said or node.facts.get("isolated"))


def _free_port(node: Node, start: int) -> int:
    """The lowest free SSH port of the node from `start` on, going round. The node's row is locked by the claim."""
    used = set(Server.objects.filter(node=node, ssh_port__isnull=False).values_list("ssh_port", flat=True))
    for offset in range(node.ssh_ports):
        port = node.first_ssh_port + (start - node.first_ssh_port + offset) % node.ssh_ports
        if port not in used:
            return port
    raise NoRoom(f"node {node.name} has no SSH port left")


def take_next_port(server: Server) -> None:
    """Somebody outside Paddock has our port: take the next one."""
    node = server.node
    if node is None:
        raise Conflict(f"server {server.name} has no node yet")
    with transaction.atomic():
        Server.objects.select_for_update(no_key=True, of=("self",)).filter(pk=server.pk).first()  # before its node
        Node.objects.select_for_update(no_key=True).get(pk=node.pk)
        port = _free_port(node, (server.ssh_port or node.first_ssh_port) + 1)
        if not Server.objects.filter(pk=server.pk, epoch=server.epoch).update(ssh_port=port):
            raise Conflict("another worker has this server")
    server.ssh_port = port


# More of it, later


def more(node: Node, shape: Shape) -> bool:
    """Take more of a node (or give back, where less than nothing is wanted), if there is room: all of it or nothing."""
    return bool(
        Node.objects.filter(
            Q(claimed_cpus__lte=F("cpus") * F("cpu_overcommit") - shape.cores) if shape.cores > 0 else Q(),
            Q(claimed_memory_mib__lte=F("memory_mib") * F("memory_overcommit") - shape.memory_mib)
            if shape.memory_mib > 0
            else Q(),
            Q(claimed_disk_gib__lte=F("disk_gib") - shape.disk_gib) if shape.disk_gib > 0 else Q(),
            pk=node.pk,
        ).update(
            claimed_cpus=F("claimed_cpus") + shape.cores,
            claimed_memory_mib=F("claimed_memory_mib") + shape.memory_mib,
            claimed_disk_gib=F("claimed_disk_gib") + shape.disk_gib,
        )
    )


def short_of(node: Node, shape: Shape) -> str:
    """What a node has too little of for that much more, as a sentence."""
    return lacks_room(node, shape) or "others were faster; try again"


def lacks_room(node: Node, shape: Shape) -> str:
    """Why a node can't take that much more now, as a sentence; empty: it can."""
    wanted = placement.Demand(shape.cores, shape.memory_mib, shape.disk_gib)
    return " and ".join([*placement.judge(node, wanted, 0).reasons, *full(node)])


def room_to_grow(node: Node | None, layout: int, cores: int, memory_mib: int) -> dict[str, Any]:
    """Up to which CPUs and memory a server can be given more while it runs, as columns.

    The rule: eight times what it begins with, but never more than its node has, nor than the biggest server type;
    nothing where the node's driver can't add to a running machine, or the machine is of the older layout. No memory
    for the smallest: Linux keeps 64 MiB for bounce buffers where memory may come to lie above 4 GiB, and a guest of
    128 MiB does not boot with what is left.
    """
    if node is None or layout < 2 or not node.facts.get("hot_add", True):
        return {"max_cores": 0, "max_memory_mib": 0}
    return {
        "max_cores": _at_most(cores, node.cpus, "cores"),
        "max_memory_mib": _at_most(memory_mib, node.memory_mib, "memory_mib") if memory_mib >= GROWING_MIB else 0,
    }


def _at_most(begins: int, node_has: int, column: str) -> Greatest:
    biggest = Subquery(ServerType.objects.order_by(f"-{column}").values(column)[:1])
    whole = BigIntegerField()
    least = Least(Value(min(begins * GROWTH, node_has)), biggest, output_field=whole)
    return Greatest(Value(begins), least, output_field=whole)
