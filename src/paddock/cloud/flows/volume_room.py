"""Where volumes lie: the room that they claim on nodes, and what their servers' machines are to be told of them.

A volume that has a node has claimed room for `size_gib` there, no more and no less: node and claim, and size and claim,
change in one transaction.
"""

from django.db import transaction
from django.db.models import F

from paddock.base.errors import NoSpace, Refused, Unsupported
from paddock.cloud.flows import actions, claim
from paddock.cloud.flows.engine import LeaseLost, wake
from paddock.cloud.models import Node, Server, Volume
from paddock.cloud.models.server import Status

BUSY_SECONDS = 600.0  # for a server that is no new one to be told
REFUSED_SECONDS = 60.0  # the same, when its node answers, and does not take it


def never_had_machine(server: Server) -> bool:
    """Whether its node has never been told of its machine: that knows no image, or no place."""
    return server.node is None or not server.image_sha256


def check_has_future(server: Server) -> None:
    """Raises Refused for a server whose creation failed: it gets no machine until somebody starts it again."""
    if never_had_machine(server) and not actions.running("server", server.pk).exists():
        raise Refused(f"server {server.name} has no machine: {server.problem or 'it was never started'}")


def check_patience(volume: Volume, server: Server) -> None:
    """Raises Refused when a server that is no new one has not come to it for long, say since its node is down."""
    up = server.node is not None and server.node.state == "up"
    limit = REFUSED_SECONDS if server.step == "adapt" and up else BUSY_SECONDS
    if server.status != Status.INITIALIZING and volume.waited > limit:
        raise Refused(f"server {server.name} did not come to it within {limit:g} s: {_state_of(server)}")


def _state_of(server: Server) -> str:
    node = f"node {server.node.name} is {server.node.state}" if server.node else "it has no node"
    return f"{server.waiting_for or server.problem or server.step}; {node}"


def hold(volume: Volume) -> None:
    """Keep the row as it is until the transaction ends. Raises LeaseLost when another worker has it."""
    if not Volume.objects.select_for_update().filter(pk=volume.pk, epoch=volume.epoch).exists():
        raise LeaseLost(f"epoch {volume.epoch} is over")


def tell(server_id: int | None) -> None:
    """What the server's machine shall be has changed: have its node told."""
    if server_id and Server.objects.filter(pk=server_id).update(revision=F("revision") + 1):
        wake(Server(pk=server_id), "server")


def lie_on(volume: Volume, node: Node, server: Server) -> None:
    """Claim room on the node, and write down that the volume lies there. Raises NoSpace, Unsupported."""
    if volume.node is not None:
        return check_same_node(volume, server)
    with transaction.atomic():
        hold(volume)
        claim_room(volume, node)
    volume.node = node
    return None


def claim_room(volume: Volume, node: Node) -> None:
    """Take room for all of it on a node, and write down that it lies there, within the caller's transaction. Raises
    NoSpace."""
    _refuse_full(node, f"volume {volume.name} of {volume.size_gib} GiB")
    if not node.claim_disk(volume.size_gib):
        raise _no_room(node, f"volume {volume.name} of {volume.size_gib} GiB")
    Volume.objects.filter(pk=volume.pk).update(node=node)


def check_same_node(volume: Volume, server: Server) -> None:
    """Raises Unsupported when the volume lies on another node than the server is on."""
    if volume.node is None or server.node is None or volume.node_id == server.node_id:
        return
    raise Unsupported(
        f"volume {volume.name} lies on node {volume.node.name}, and server {server.name} is on {server.node.name}",
        hint=f"attach it to a server on {volume.node.name}",
        field="server",
    )


def give_back(volume: Volume) -> None:
    """The node would not make it: the volume lies nowhere then, and has claimed nothing."""
    if volume.made_gib or volume.node is None:
        return
    with transaction.atomic():
        hold(volume)
        Volume.objects.filter(pk=volume.pk).update(node=None)
        volume.node.release(0, 0, volume.size_gib)
    volume.node = None


def take_growth_back(volume: Volume) -> None:
    """The node would not grow it: it is as large as it was, and has claimed no more."""
    if volume.node is None or not volume.made_gib:
        return
    with transaction.atomic():
        hold(volume)
        Volume.objects.filter(pk=volume.pk).update(size_gib=volume.made_gib)
        volume.node.release(0, 0, volume.size_gib - volume.made_gib)
    volume.size_gib = volume.made_gib


def claim_growth(volume: Volume, node: Node, size_gib: int) -> None:
    """Take the room by which it grows, within the caller's transaction. Raises NoSpace."""
    more = size_gib - volume.size_gib
    _refuse_full(node, f"volume {volume.name} to grow by {more} GiB")
    if not node.claim_disk(more):
        raise _no_room(node, f"volume {volume.name} to grow by {more} GiB")


def _refuse_full(node: Node, what: str) -> None:
    """Raises NoSpace when a node's disk takes no more, whatever is claimed of it."""
    if why := next(claim.full(node), ""):
        raise NoSpace(f"node {node.name} has no room for {what}: it {why}", field="size")


def _no_room(node: Node, what: str) -> NoSpace:
    node.refresh_from_db()
    free = max(node.disk_gib - node.claimed_disk_gib, 0)
    return NoSpace(f"node {node.name} has no room for {what}: {free} GiB are free", field="size")
