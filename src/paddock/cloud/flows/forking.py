"""Asking for forks of a server: rows, actions and wake-ups of all of them in one transaction."""

from dataclasses import dataclass, field

from paddock.base.errors import Conflict, NoRoom, Unsupported
from paddock.base.ids import new_uuid
from paddock.cloud.flows import actions, claim, quota
from paddock.cloud.flows.engine import wake
from paddock.cloud.flows.server import create
from paddock.cloud.flows.server_node import KIND, node_of
from paddock.cloud.models import Action, Server, Volume
from paddock.cloud.models.server import Status


@dataclass(frozen=True)
class Wanted:
    """What the forks shall be that the server is not."""

    names: list[str]
    public_keys: list[str] = field(default_factory=list)  # besides those that it lets in
    labels: dict[str, str] = field(default_factory=dict)


def fork(server: Server, wanted: Wanted, correlation_id: str) -> tuple[Action, list[tuple[Server, Action]]]:
    """Fork a server that runs: its action, and each new server with its own. Raises Conflict, Unsupported, NoRoom,
    Locked, NameTaken, LimitExceeded."""
    with quota.held(server.project_id), actions.alone(KIND, server) as row:
        _refuse_unfit(row)
        _check_room(row, len(wanted.names))
        point = new_uuid()
        action = actions.begin(KIND, row, "fork_server", correlation_id, {"point": str(point)})
        forks = [_child(row, name, wanted) for name in wanted.names]
        made = []
        for child in forks:
            child.fork, child.forked_by = point, action.pk
            made.append((child, create(child, correlation_id, node=node_of(row).name)))
        Action.objects.filter(pk=action.pk).update(more=[actions.about(KIND, child) for child in forks])
        action.refresh_from_db()
        wake(row, KIND, urgent=True)
    return action, made


def _refuse_unfit(server: Server) -> None:
    """What the rows know already; the rest is the node's to say."""
    if server.status != Status.RUNNING:
        raise Conflict(f"server {server.name} is {server.status}", hint="have it run first")
    if server.in_rescue:
        raise Conflict(f"server {server.name} runs the rescue system", hint="reboot it first")
    if Volume.objects.filter(server=server).exists():
        raise Conflict(f"server {server.name} has volumes, which can't be forked", hint="detach them first")
    if server.iso_id is not None:
        raise Conflict(f"server {server.name} has a CD in its drive", hint="detach the ISO first")
    if server.firmware == "uefi":
        raise Unsupported(f"server {server.name} boots by UEFI, and what that remembers can't be forked")


def _check_room(server: Server, count: int) -> None:
    """All of them come to its node: its memory is there."""
    node = node_of(server)
    shape = claim.Shape(server.cores * count, server.memory_mib * count, server.disk_gib * count)
    if why := claim.lacks_room(node, shape):
        raise NoRoom(
            f"its forks begin on its own node {node.name}, which {why}", hint="ask for fewer, or delete servers there"
        )


def _child(server: Server, name: str, wanted: Wanted) -> Server:
    """The row of a fork. What it has in its guest is the server's; its next disk is its own."""
    alike = (
        "server_type", "image", "image_sha256", "cores", "memory_mib", "disk_gib", "machine_type", "layout",
        "max_cores", "max_memory_mib", "firmware", "kernel_args", "password_hash", "restart", "warm", "base_config",
        "vendor_data",
    )  # fmt: skip
    keys = dict.fromkeys([*server.public_keys, *wanted.public_keys])
    return Server(
        project_id=server.project_id, name=name, public_keys=list(keys), labels=wanted.labels,
        **{column: getattr(server, column) for column in alike},
    )  # fmt: skip
