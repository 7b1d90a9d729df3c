"""Keeping the catalogue's images: what is newer, fetching that, and removing what nothing stands on."""

from django.http import HttpRequest
from ninja import Router, Status

from paddock.api.auth import correlation, project
from paddock.api.paging import get
from paddock.api.v1 import actions
from paddock.api.v1.common import Body, Reply, Time
from paddock.cloud.flows import origin, prune
from paddock.cloud.models import Image

router = Router(tags=["admin: catalogue"])


class Prune(Body):
    """`everything`: also images of the catalogue that no server uses. `dry_run`: only say what would go."""

    everything: bool = False
    dry_run: bool = False


class PruneItem(Reply):
    """Something that goes: a copy on a node, an image of the catalogue, or a content that no image has any more."""

    kind: str
    name: str
    image: int | None
    node: str | None
    bytes: int
    why: str
    used_at: Time | None


class Pruned(Reply):
    """What goes, and the actions that remove it."""

    items: list[PruneItem]
    actions: list[actions.ActionReply]


def _image(id: int) -> Image:
    found: Image = get(Image.objects.filter(catalogue=True, deleted=None), "image", id)
    return found


@router.post("/images/{int:id}/look", response={201: actions.OneAction})
def look_for_newer(request: HttpRequest, id: int) -> Status[actions.OneAction]:
    """Ask the publisher of an image of the catalogue whether it has a newer one; `newer` in the catalogue says it."""
    action = origin.ask_look(_image(id), correlation(request), project(request).pk)
    return Status(201, actions.asked(action))


@router.post("/images/{int:id}/refresh", response={201: actions.OneAction})
def fetch_newest(request: HttpRequest, id: int) -> Status[actions.OneAction]:
    """Fetch what its publisher has now. Servers keep their disks; new and rebuilt ones get the new image."""
    action = origin.ask_refresh(_image(id), correlation(request), project(request).pk)
    return Status(201, actions.asked(action))


@router.post("/images/prune", response={201: Pruned})
def prune_images(request: HttpRequest, body: Prune | None = None) -> Status[Pruned]:
    """Remove what no server stands on and can be had again."""
    wish = body or Prune()
    items = prune.plan(wish.everything)
    begun = []
    if not wish.dry_run:
        images = dict.fromkeys(item.image for item in items if item.image)
        begun = origin.ask_shed(images, wish.everything, correlation(request), project(request).pk)
        prune.remove_strays()
    shown = [
        PruneItem(
            kind=item.kind,
            name=item.name,
            image=item.image.pk if item.image else None,
            node=item.node or None,
            bytes=item.bytes,
            why=item.why,
            used_at=item.image.used_at if item.image else None,
        )
        for item in items
    ]
    return Status(201, Pruned(items=shown, actions=[actions.shown(action) for action in begun]))
