"""Copies images to nodes, once per node. Asked again and again until it is done."""

from datetime import timedelta

from django.conf import settings

from paddock.base import clock
from paddock.base.errors import Refused
from paddock.cloud.flows.steps import Again
from paddock.cloud.models import Image, ImageCopy, Node
from paddock.cloud.nodes import hypervisor
from paddock.images.store import ImageStore

MIB = 2**20
USE_RESOLUTION = timedelta(minutes=1)  # how exactly an image's last use is kept: not a write per server


def to_node(node: Node, image: Image, sha256: str) -> Again | None:
    """None once the node has the image. What it is known to have is not asked for. Raises Refused."""
    note_use(image)
    if ImageCopy.objects.filter(node=node, sha256=sha256).exists():
        return None
    if wait := copied(node, image, sha256):
        return wait
    ImageCopy.objects.get_or_create(node=node, sha256=sha256, defaults={"image": image})
    return None


def note_use(image: Image) -> None:
    """For whoever wonders what nobody needs any more."""
    now = clock.now()
    if image.used_at is None or now - image.used_at > USE_RESOLUTION:
        Image.objects.filter(pk=image.pk).update(used_at=now)


def copied(node: Node, image: Image, sha256: str) -> Again | None:
    """None once the node says that it has it. Raises Refused."""
    store = ImageStore(settings.STATE.images)
    manifest = image.made_of if image.sha256 == sha256 else store.get(sha256)  # it may have got a newer content
    progress = hypervisor(node).disks.ensure_image(manifest, str(store.path(sha256)))
    if progress.error:
        raise Refused(f"{image.title} could not be brought to node {node.name}: {progress.error}")
    if progress.done:
        return None
    done, total = progress.bytes_done // MIB, progress.bytes_total // MIB
    return Again(0.1, f"{image.title}: {done} of {total} MiB copied")
