"""What of all images may be removed, since nothing stands on it and it can be had again; and removing it.

A server stands on a content by its hash, also after its image got a newer one. What a project imported or took a
snapshot of is never touched: it can't be had again.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from paddock.base import clock
from paddock.base.errors import Conflict
from paddock.cloud.models import Image, ImageCopy, Node, Server
from paddock.cloud.nodes import hypervisor
from paddock.images.store import ImageStore
from paddock.machine.image import ImageManifest

STRAY_SECONDS = 24 * 3600.0  # a content that no row names may be one that is just being taken in


@dataclass(frozen=True)
class Item:
    """Something that may go. `bytes` is its size; what is shared by hard links is freed with the last of them."""

    kind: str  # copy: on a node; content: of the catalogue; stray: in the store, and of no image
    name: str
    image: Image | None
    node: str
    bytes: int
    why: str


def plan(everything: bool) -> list[Item]:
    """All that may go. Without `everything` only what no new server would be made from."""
    images = Image.objects.filter(deleted=None, state="ready", step="rest").order_by("name", "pk")
    found = [item for image in images for item in _of(image, everything)]
    return [*found, *(_stray(manifest) for manifest in _strays())]


def _of(image: Image, everything: bool) -> Iterator[Item]:
    for copy in _copies(image, everything):
        why = "a newer one is here" if copy.sha256 != image.sha256 else "no server there uses it"
        yield Item("copy", image.name, image, copy.node.name, _bytes(copy.sha256), why)
    if everything and _may_go(image):
        yield Item("content", image.name, image, "", _bytes(image.sha256), "no server uses it; it can be had again")


def shed(image: Image, everything: bool) -> None:
    """Remove what may go of an image. A node that still needs its copy keeps it. Raises PaddockError when a node does
    not answer."""
    for copy in _copies(image, everything):
        _remove_copy(copy)
    if everything:
        _remove_content(image)


def remove_strays() -> None:
    """Remove from the store what belongs to no image: what was replaced by a newer one, or left by a fall."""
    for manifest in _strays():
        ImageStore(settings.STATE.images).remove(manifest.sha256)


def _copies(image: Image, everything: bool) -> list[ImageCopy]:
    """The copies on nodes on which no server of that node stands, or is about to."""
    copies = ImageCopy.objects.filter(image=image, node__state="up").select_related("node")
    return [c for c in copies if (everything or c.sha256 != image.sha256) and not _used(c.sha256, image, c.node)]


def _used(sha256: str, image: Image, node: Node | None = None) -> bool:
    stands = Q(image_sha256=sha256) | Q(rescue_sha256=sha256) | Q(iso__sha256=sha256)
    if sha256 == image.sha256:
        stands |= Q(image=image)
    servers = Server.objects.filter(stands)
    return (servers.filter(Q(node=node) | Q(node=None)) if node else servers).exists()


def _may_go(image: Image) -> bool:
    """Whether all of it can be had again, and nobody needs it now."""
    if not image.catalogue or image.state != "ready" or _used(image.sha256, image):
        return False
    return not Image.objects.filter(kernel_of=image.sha256, state="building").exists()


def _remove_copy(copy: ImageCopy) -> None:
    """The row goes first: whoever wants the image there after that, asks the node."""
    copy.delete()
    try:
        hypervisor(copy.node).disks.remove_image(copy.sha256)
    except Conflict:  # a disk stands on it, of a server that we know nothing of
        ImageCopy.objects.get_or_create(node=copy.node, sha256=copy.sha256, defaults={"image": copy.image})


def _remove_content(image: Image) -> None:
    """Back to what it was before it was first used. Who makes a server of it waits for the lock, and then has it made
    again."""
    with transaction.atomic():
        locked = Image.objects.select_for_update(of=("self",)).get(pk=image.pk)
        if not _may_go(locked):
            return
        sha256 = locked.sha256
        gone = {"state": "absent", "sha256": "", "manifest": {}, "percent": 0, "version": "", "verified": ""}
        Image.objects.filter(pk=image.pk).update(**gone, newer="", fetched_at=None)
    image.state = "absent"
    if not _is_named(sha256):
        ImageStore(settings.STATE.images).remove(sha256)


def _strays() -> list[ImageManifest]:
    store = ImageStore(settings.STATE.images)
    return [m for m in store.list() if not _is_named(m.sha256) and _age(store, m.sha256) > STRAY_SECONDS]


def _is_named(sha256: str) -> bool:
    """Whether an image or a server has it."""
    images = Image.objects.filter(Q(sha256=sha256) | Q(kernel_of=sha256))
    return images.exists() or Server.objects.filter(Q(image_sha256=sha256) | Q(rescue_sha256=sha256)).exists()


def _age(store: ImageStore, sha256: str) -> float:
    try:
        return clock.now().timestamp() - store.path(sha256).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _stray(manifest: ImageManifest) -> Item:
    size = sum(f.size for f in manifest.files)
    return Item("stray", manifest.name, None, "", size, "no image has this content any more")


def _bytes(sha256: str) -> int:
    manifests = {m.sha256: m for m in ImageStore(settings.STATE.images).list()}
    return sum(f.size for f in manifests[sha256].files) if sha256 in manifests else 0
