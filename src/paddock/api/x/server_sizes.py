"""How much of the disk a server really takes: its disk, its logs, its memory while it sleeps, and its snapshots."""

from django.db.models import QuerySet
from django.http import HttpRequest
from ninja import Router

from paddock.api.auth import project
from paddock.api.paging import get
from paddock.api.v1.common import Reply
from paddock.base.errors import NotFound
from paddock.cloud.models import Image, Server
from paddock.cloud.nodes import hypervisor
from paddock.machine.spec import GIB
from paddock.machine.state import Sizes

router = Router(tags=["x: servers"])


class SnapshotSize(Reply):
    """A snapshot or backup of the server; it stands on nothing else."""

    id: int
    name: str | None
    description: str
    bytes: int


class SizesReply(Reply):
    """All in bytes. `disk` is what the disk takes on its node beyond its image, `disk_limit` what it may grow to."""

    disk: int
    disk_limit: int
    logs: int
    memory: int
    other: int
    snapshots: list[SnapshotSize]


class OneSizes(Reply):
    sizes: SizesReply


def _servers(request: HttpRequest) -> "QuerySet[Server]":
    return Server.objects.filter(project=project(request)).select_related("node")


@router.get("/servers/{int:id}/sizes", response=OneSizes)
def show_sizes(request: HttpRequest, id: int) -> OneSizes:
    """What a server takes on its node, and its snapshots in the cloud's store."""
    server: Server = get(_servers(request), "server", id)
    taken = _ask(server)
    images = Image.objects.filter(project=server.project_id, created_from_id=server.pk, deleted=None, state="ready")
    snapshots = [
        SnapshotSize(
            id=image.pk,
            name=image.name or None,
            description=image.description,
            bytes=sum(f["size"] for f in image.manifest.get("files", ())),
        )
        for image in images.order_by("pk")
    ]
    limit = server.disk_gib * GIB
    return OneSizes(sizes=SizesReply(**taken.model_dump(), disk_limit=limit, snapshots=snapshots))


def _ask(server: Server) -> Sizes:
    """The node's answer; nothing where the server never was on one."""
    nothing = Sizes(disk=0, logs=0, memory=0, other=0)
    if server.node is None:
        return nothing
    try:
        return hypervisor(server.node).machines.sizes(server.uuid)
    except NotFound:  # it was placed, and not yet made
        return nothing
