"""Pools: how many guests of an image nodes hold ready, restored and paused, for servers of a type to begin from."""

from collections.abc import Iterable
from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Router, Status
from pydantic import Field

from paddock.api.admin.warm import named
from paddock.api.auth import correlation, project
from paddock.api.paging import get
from paddock.api.v1 import actions
from paddock.api.v1.common import Body, IdOrName, Reply, Time
from paddock.cloud.flows import image_warm
from paddock.cloud.flows import pool as flow
from paddock.cloud.models import Image, Node, Pool, ServerType
from paddock.machine.warm import WarmImage, scope_of

MOST = 1000

router = Router(tags=["admin: pools"])


class Wanted(Body):
    """So many on this node; without one, on each."""

    image: IdOrName
    server_type: IdOrName
    node: IdOrName | None = None
    count: Annotated[int, Field(ge=0, le=MOST)]


class Held(Reply):
    """What a node holds of it, as it last said. `lacking`: why these are not as many as wanted."""

    node: str
    ready: int
    wanted: int
    lacking: str


class PoolReply(Reply):
    """A pool; `node` is null where it is one of each node."""

    id: int
    image: str
    image_id: int
    server_type: str
    node: str | None
    count: int
    nodes: list[Held]
    created: Time


class OnePool(Reply):
    """A pool, and the action that makes its image warm."""

    pool: PoolReply
    action: actions.ActionReply | None


class ManyPools(Reply):
    pools: list[PoolReply]


@router.get("/pools", response=ManyPools)
def list_pools(request: HttpRequest) -> ManyPools:
    """All pools, and what nodes hold."""
    rows = Pool.objects.select_related("image", "server_type", "node")
    return ManyPools(pools=_shown(rows.order_by("image__name", "server_type__name", "id")))


@router.put("/pools", response=OnePool)
def set_pool(request: HttpRequest, body: Wanted) -> OnePool:
    """Hold so many ready. The image is made warm first, where it is not."""
    image = named(Image.objects.filter(deleted=None, delete_requested=False, project=None), "image", body.image)
    plan = named(ServerType.objects.all(), "server_type", body.server_type)
    node = named(Node.objects.all(), "node", body.node) if body.node is not None else None
    action = None
    if body.count:
        chosen = [node] if node else list(Node.objects.exclude(state="down").order_by("name"))
        action = image_warm.ask(image, plan, chosen, correlation(request), project(request).pk)
    row, _ = Pool.objects.update_or_create(image=image, server_type=plan, node=node, defaults={"count": body.count})
    [shown] = _shown([row])
    return OnePool(pool=shown, action=actions.shown(action) if action else None)


@router.delete("/pools/{int:id}", response={204: None})
def delete_pool(request: HttpRequest, id: int) -> Status[None]:
    """Hold none ready any more. Servers that began from it go on."""
    get(Pool.objects.all(), "pool", id).delete()
    return Status(204, None)


def _shown(rows: Iterable[Pool]) -> list[PoolReply]:
    nodes = [(node, flow.of(node)) for node in Node.objects.order_by("name")]
    return [_reply(row, [_held(row, node) for node, pools in nodes if row in pools]) for row in rows]


def _reply(row: Pool, nodes: list[Held]) -> PoolReply:
    return PoolReply(
        id=row.pk,
        image=row.image.name,
        image_id=row.image_id,
        server_type=row.server_type.name,
        node=row.node.name if row.node else None,
        count=row.count,
        nodes=nodes,
        created=row.created,
    )


def _held(row: Pool, node: Node) -> Held:
    images = sorted((warm for warm in _warm(node) if _is_of(row, warm)), key=lambda warm: warm.wanted, reverse=True)
    found = next(iter(images), None)  # others are of servers that could grow to another size
    if found is None:
        return Held(node=node.name, ready=0, wanted=row.count, lacking="there is no warm image of it yet")
    lacking = found.unusable or found.lacking or ("its warm image is being made" if found.making else "")
    return Held(node=node.name, ready=found.ready, wanted=row.count, lacking=lacking)


def _warm(node: Node) -> list[WarmImage]:
    return [WarmImage.model_validate(warm) for warm in node.facts.get("warm", ())]


def _is_of(row: Pool, warm: WarmImage) -> bool:
    plan: Any = row.server_type
    about = (warm.image, warm.cpus, warm.memory_mib, warm.scope)
    return about == (row.image.sha256, plan.cores, plan.memory_mib, scope_of(row.image.project_id))
