"""Brings images to nodes: built once per cloud, copied once per node. Asked again and again until it is done."""

from datetime import timedelta

from django.conf import settings
from django.db import transaction

from paddock.base import clock
from paddock.base.errors import Refused
from paddock.cloud.flows import image as images
from paddock.cloud.flows.engine import wake
from paddock.cloud.flows.steps import Again
from paddock.cloud.models import Image, ImageCopy, Node, Server
from paddock.cloud.nodes import hypervisor
from paddock.images.store import ImageStore

MIB = 2**20
USE_RESOLUTION = timedelta(minutes=1)  # how exactly an image's last use is kept: not a write per server


def built(image: Image) -> Again | None:
    """None once the image has a content; an image of the catalogue is built or fetched for that. Raises Refused."""
    if image.state == "ready":
        return None
    if image.state == "failed":
        why = image.problem
        raise Refused(why if why.startswith(image.title) else f"{image.title} can't be used: {why}")
    images.want(image)
    return Again(0.5, f"{image.title}: {image.doing or 'waiting to be built'} ({image.percent} %)")


def to_node(node: Node, image: Image, sha256: str) -> Again | None:
    """None once the node has the image. What it is known to have is not asked for. Raises Refused."""
    _note_use(image)
    if ImageCopy.objects.filter(node=node, sha256=sha256).exists():
        return None
    if wait := _copied(node, image, sha256):
        return wait
    ImageCopy.objects.get_or_create(node=node, sha256=sha256, defaults={"image": image})
    return None


def surely(node: Node, image: Image) -> Again | None:
    """None once the image has a content and the node says that it has it: a node may lose what it had. Raises
    Refused."""
    if wait := built(image) or _copied(node, image, image.sha256):
        return wait
    _note_use(image)
    ImageCopy.objects.get_or_create(node=node, sha256=image.sha256, defaults={"image": image})
    return None


def _note_use(image: Image) -> None:
    """For whoever wonders what nobody needs any more."""
    now = clock.now()
    if image.used_at is None or now - image.used_at > USE_RESOLUTION:
        Image.objects.filter(pk=image.pk).update(used_at=now)


def _copied(node: Node, image: Image, sha256: str) -> Again | None:
    store = ImageStore(settings.STATE.images)
    manifest = image.made_of if image.sha256 == sha256 else store.get(sha256)  # it may have got a newer content
    progress = hypervisor(node).disks.ensure_image(manifest, str(store.path(sha256)))
    if progress.error:
        raise Refused(f"{image.title} could not be brought to node {node.name}: {progress.error}")
    if progress.done:
        return None
    done, total = progress.bytes_done // MIB, progress.bytes_total // MIB
    return Again(0.1, f"{image.title}: {done} of {total} MiB copied")


def left(*images_left: int | None) -> None:
    """A server has left these images: those that were deleted may have waited for that. Call it in a transaction."""
    gone = Image.objects.filter(pk__in=[pk for pk in images_left if pk], deleted__isnull=False)
    for image in gone.order_by("pk"):
        wake(image, images.ImageFlow.kind)


def left_by(server: Server) -> None:
    """A server stands on another image now: wake those of its project that were deleted and may have waited for it."""
    with transaction.atomic():
        for image in Image.objects.filter(project=server.project_id, deleted__isnull=False).order_by("pk"):
            wake(image, images.ImageFlow.kind)
