"""Warm images: what nodes keep of guests that have booted already, and having it made or dropped."""

from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Router, Status
from pydantic import Field

from paddock.api.auth import correlation, project
from paddock.api.errors import invalid
from paddock.api.paging import get
from paddock.api.v1 import actions
from paddock.api.v1.common import Body, IdOrName, Reply, Time
from paddock.cloud.flows import image_warm
from paddock.cloud.models import Image, Node, ServerType
from paddock.machine.warm import WarmImage

router = Router(tags=["admin: warm images"])


class Warm(Body):
    """For servers of that type, on these nodes; none: on all that are up."""

    server_type: IdOrName
    nodes: Annotated[list[IdOrName], Field(max_length=1000)] = []


class WarmReply(Reply):
    """A warm image on a node; sizes in bytes. `scope`: everybody's (public), or of one project. `shared`: servers share
    its memory until they write to it, else each reads all of it. `unusable`: there is none, and why."""

    id: str
    node: str
    image: str
    sha256: str
    scope: str
    cpus: int
    memory_mib: int
    disk_bytes: int
    bytes: int
    servers: int
    made: Time | None
    used: Time | None
    making: bool
    shared: bool
    unusable: str


class ManyWarm(Reply):
    warm_images: list[WarmReply]


def _image(id: int) -> Image:
    found: Image = get(Image.objects.filter(deleted=None, delete_requested=False), "image", id)
    return found


@router.get("/warm_images", response=ManyWarm)
def list_warm_images(request: HttpRequest) -> ManyWarm:
    """What all nodes keep, as they last said."""
    nodes = Node.objects.order_by("name")
    found = [(node, WarmImage.model_validate(warm)) for node in nodes for warm in node.facts.get("warm", ())]
    return ManyWarm(warm_images=[_shown(node, warm) for node, warm in found])


@router.post("/images/{int:id}/warm", response={201: actions.OneAction})
def warm_image(request: HttpRequest, id: int, body: Warm) -> Status[actions.OneAction]:
    """Boot a guest of nobody on each node, and keep it for servers of that type to begin from."""
    plan = named(ServerType.objects.all(), "server_type", body.server_type)
    nodes = [named(Node.objects.all(), "nodes", node) for node in body.nodes]
    chosen = nodes or list(Node.objects.exclude(state="down").order_by("name"))
    action = image_warm.ask(_image(id), plan, chosen, correlation(request), project(request).pk)
    return Status(201, actions.asked(action))


@router.post("/images/{int:id}/cool", response={201: actions.OneAction})
def cool_image(request: HttpRequest, id: int) -> Status[actions.OneAction]:
    """Drop what nodes keep of its guests. Servers that began from that go on."""
    return Status(201, actions.asked(image_warm.ask_cool(_image(id), correlation(request), project(request).pk)))


def named(rows: Any, field: str, wanted: int | str) -> Any:
    """The row of that id or name. Raises invalid input that names the field."""
    by = {"pk": wanted} if isinstance(wanted, int) else {"name": wanted}
    found = rows.filter(**by).first()
    if found is None:
        raise invalid(field, f"there is no {field.rstrip('s')} {wanted!r}")
    return found


def _shown(node: Node, warm: WarmImage) -> WarmReply:
    return WarmReply(
        id=warm.id,
        node=node.name,
        image=warm.name,
        sha256=warm.image,
        scope=warm.scope,
        cpus=warm.cpus,
        memory_mib=warm.memory_mib,
        disk_bytes=warm.disk,
        bytes=warm.size,
        servers=warm.machines,
        made=warm.made,
        used=warm.used,
        making=warm.making,
        shared=warm.shared,
        unusable=warm.unusable,
    )
