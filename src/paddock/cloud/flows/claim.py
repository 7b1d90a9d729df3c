"""Claiming a place: room, a number and an SSH port on a node, in one transaction."""

from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Count, F, Subquery

from paddock.base.errors import Conflict, NoRoom
from paddock.cloud import placement
from paddock.cloud.models import Node, Server

PLACEMENT_TRIES = 5


def demand(server: Server) -> placement.Demand:
    """What a server needs of a node."""
    return placement.Demand(server.cores, server.memory_mib, server.disk_gib)


def verdicts(server: Server) -> tuple[list[str], list[placement.Verdict]]:
    """The names of the nodes that fit, best first, and what each node says."""
    return _choose(_nodes(), server)


def _nodes() -> list[Any]:
    """All nodes, and how many servers (so SSH ports) each has."""
    return list(Node.objects.order_by("name").annotate(used=Count("server")))


def _choose(nodes: list[Any], server: Server) -> tuple[list[str], list[placement.Verdict]]:
    return placement.choose(nodes, demand(server), {n.name: n.used for n in nodes}, settings.PLACEMENT)


def explain(server: Server) -> str:
    """Why no node fits, node by node."""
    return placement.explain(verdicts(server)[1]) or "others were faster; try again"


def only_down(server: Server) -> str:
    """The names of the nodes that would fit if they were up; empty when there is none."""
    return ", ".join(v.node for v in verdicts(server)[1] if v.down and len(v.reasons) == 1)


def claim(server: Server) -> bool:
    """Claim a place on the best node that still has room, and write it down in the same transaction."""
    for _ in range(PLACEMENT_TRIES):
        nodes = _nodes()
        fitting, _verdicts = _choose(nodes, server)
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
    unplaced = Server.objects.filter(pk=server.pk, epoch=server.epoch, node=None)
    if not unplaced.update(node=node, number=Subquery(number), ssh_port=port):
        transaction.set_rollback(True)
        return False
    server.node, server.ssh_port = node, port  # the number comes with the next look at the row
    return True


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
        Node.objects.select_for_update().get(pk=node.pk)
        port = _free_port(node, (server.ssh_port or node.first_ssh_port) + 1)
        if not Server.objects.filter(pk=server.pk, epoch=server.epoch).update(ssh_port=port):
            raise Conflict("another worker has this server")
    server.ssh_port = port
