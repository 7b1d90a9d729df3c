"""Has images built or fetched, once per cloud, for whoever needs them; and lets go of what was deleted meanwhile."""

from django.db import transaction

from paddock.base.errors import Refused
from paddock.cloud.flows import image as images
from paddock.cloud.flows.copying import copied, note_use
from paddock.cloud.flows.engine import wake
from paddock.cloud.flows.steps import Again
from paddock.cloud.models import Image, ImageCopy, Node, Server


def built(image: Image) -> Again | None:
    """None once the image has a content; an image of the catalogue is built or fetched for that. Raises Refused."""
    if image.state == "ready":
        return None
    if image.state == "failed":
        why = image.problem
        raise Refused(why if why.startswith(image.title) else f"{image.title} can't be used: {why}")
    images.want(image)
    return Again(0.5, f"{image.title}: {image.doing or 'waiting to be built'} ({image.percent} %)")


def surely(node: Node, image: Image) -> Again | None:
    """None once the image has a content and the node says that it has it: a node may lose what it had. Raises
    Refused."""
    if wait := built(image) or copied(node, image, image.sha256):
        return wait
    note_use(image)
    ImageCopy.objects.get_or_create(node=node, sha256=image.sha256, defaults={"image": image})
    return None


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
