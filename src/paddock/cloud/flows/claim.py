"""Claiming a place: room, a number and an SSH port on a node, in one transaction."""

from django.conf import settings
from django.db import transaction
from django.db.models import Count, F

from paddock.base.errors import Conflict, NoRoom
from paddock.cloud import placement
from paddock.cloud.models import Node, Server

PLACEMENT_TRIES = 5


def demand(server: Server) -> placement.Demand:
    """What a server needs of a node."""
    return placement.Demand(server.cores, server.memory_mib, server.disk_gib)


def verdicts(server: Server) -> tuple[list[str], list[placement.Verdict]]:
    """The names of the nodes that fit, best first, and what each node says."""
    nodes = list(Node.objects.order_by("name"))
    return placement.choose(nodes, demand(server), _ports_used(), settings.PLACEMENT)


def explain(server: Server) -> str:
    """Why no node fits, node by node."""
    return placement.explain(verdicts(server)[1]) or "others were faster; try again"


def only_down(server: Server) -> str:
    """The names of the nodes that would fit if they were up; empty when there is none."""
    return ", ".join(v.node for v in verdicts(server)[1] if v.down and len(v.reasons) == 1)


def _ports_used() -> dict[str, int]:
    counted = Server.objects.filter(node__isnull=False).values_list("node__name").annotate(Count("id")).order_by()
    return {str(name): int(used) for name, used in counted}


def claim(server: Server) -> bool:
    """Claim a place on the best node that still has room, and write it down in the same transaction."""
    for _ in range(PLACEMENT_TRIES):
        fitting, _verdicts = verdicts(server)
        if not fitting:
            return False
        with transaction.atomic():
            if _claim_on(server, Node.objects.get(name=fitting[0])):
                return True
    return False


def _claim_on(server: Server, node: Node) -> bool:
    if not node.claim(server.cores, server.memory_mib, server.disk_gib):
        return False
    turn = (Node.objects.order_by("-last_placed").values_list("last_placed", flat=True).first() or 0) + 1
    Node.objects.filter(pk=node.pk).update(last_placed=turn, last_number=F("last_number") + 1)
    node.refresh_from_db()
    place = {
        "node": node,
        "number": node.first_id + node.last_number - 1,
        "ssh_port": _free_port(node, node.first_ssh_port),
    }
    if not Server.objects.filter(pk=server.pk, epoch=server.epoch, node=None).update(**place):
        transaction.set_rollback(True)
        return False
    for name, value in place.items():
        setattr(server, name, value)
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
