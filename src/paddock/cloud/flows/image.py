"""An image's life: built or taken in once per cloud, used by many nodes, deleted when nobody stands on it."""

from collections.abc import Callable

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from paddock.base import clock
from paddock.base.errors import Conflict, InUse, PaddockError, Refused
from paddock.cloud.flows.engine import Flow, from_now, register, wake
from paddock.cloud.flows.steps import Again, Done, Gone, Next, Then, step
from paddock.cloud.models import Action, Image, ImageCopy, Server
from paddock.cloud.nodes import hypervisor
from paddock.images import build
from paddock.images.importer import import_disk
from paddock.images.store import ImageStore

BUILD_SECONDS = 3600.0


def want(image: Image) -> None:
    """Have a catalogue image built unless it is ready or on its way. One that failed is tried again."""
    if image.state == "ready" or image.project_id is not None:
        return
    with transaction.atomic():
        begun = Image.objects.filter(pk=image.pk, state__in=("absent", "failed")).update(
            state="building",
            percent=0,
            doing="waiting for a worker",
            problem="",
            step="build",
            step_since=Now(),
            deadline=from_now(BUILD_SECONDS),
        )
        if begun:
            wake(image, ImageFlow.kind)


@register
class ImageFlow(Flow[Image]):
    """Steps of an image."""

    kind = "image"
    lock_class = 2
    model = Image

    @step(seconds=BUILD_SECONDS, by_hand=False)
    def build(self, image: Image) -> Next[Image]:
        """Start building it from Debian's packages, in a process that outlives the worker."""
        build.start_build(image.name, settings.STATE.images, settings.STATE.uploads)
        return Then(self.await_built)

    @step(seconds=BUILD_SECONDS, by_hand=False)
    def await_built(self, image: Image) -> Next[Image]:
        """Wait for the builder."""
        status = build.build_status(image.name, settings.STATE.images, settings.STATE.uploads)
        if status.state == "failed":
            raise Refused(f"image {image.name} could not be built: {status.error}")
        if status.state != "ready":
            image.set(percent=status.percent, doing=status.doing)
            return Again(0.5, status.doing)
        self._adopt(image, status.sha256)
        return Then(self.rest, finishes=True)

    @step(seconds=BUILD_SECONDS, by_hand=False)
    def take_in(self, image: Image) -> Next[Image]:
        """Check what was uploaded, and make an image of it."""
        upload = settings.STATE.uploads / f"image-{image.pk}"
        manifest = import_disk(
            upload,
            ImageStore(settings.STATE.images),
            image.name,
            sha256=image.expected_sha256,
            description=image.description,
            os_flavor=image.os_flavor,
            os_version=image.os_version,
            default_user=image.default_user,
            cloud_init=image.cloud_init,
        )
        self._adopt(image, manifest.sha256)
        upload.unlink(missing_ok=True)
        return Then(self.rest, finishes=True)

    def _adopt(self, image: Image, sha256: str) -> None:
        manifest = ImageStore(settings.STATE.images).get(sha256)
        image.set(
            state="ready",
            percent=100,
            doing="",
            problem="",
            sha256=sha256,
            manifest=manifest.model_dump(mode="json"),
            default_user=manifest.default_user,
            cloud_init=manifest.cloud_init,
        )

    @step(by_hand=False)
    def rest(self, image: Image) -> Next[Image]:
        """Nothing to do until somebody wants it. What was asked of it, by however many, has ended with it."""
        asked = _running(image)
        if image.state == "ready" and not image.problem:
            asked.update(status="success", progress=100, finished=Now())
        elif image.state != "building":
            why = image.problem or "nothing came of it"
            asked.update(status="error", progress=100, finished=Now(), error_code="refused", error_message=why)
        return Done()

    def divert(self, image: Image) -> "Callable[[Image], Next[Image]] | None":
        """Delete comes first."""
        if not image.delete_requested or image.step in ("destroy", "forget"):
            return None
        return self.destroy

    @step(by_hand=False, destroys=True)
    def destroy(self, image: Image) -> Next[Image]:
        """Remove every copy."""
        if other := Image.objects.filter(sha256=image.sha256).exclude(sha256="").exclude(pk=image.pk).first():
            ImageCopy.objects.filter(image=image).update(image=other)  # the same content, of another project
        for copy in ImageCopy.objects.filter(image=image).select_related("node"):
            hypervisor(copy.node).disks.remove_image(copy.sha256)
            copy.delete()
        return Then(self.forget)

    @step(by_hand=False)
    def forget(self, image: Image) -> Next[Image]:
        """Delete it from the store, and the row."""
        (settings.STATE.uploads / f"image-{image.pk}").unlink(missing_ok=True)
        if image.sha256 and not Image.objects.filter(sha256=image.sha256).exclude(pk=image.pk).exists():
            ImageStore(settings.STATE.images).remove(image.sha256)
        with transaction.atomic():
            _running(image).update(status="success", progress=100, finished=Now())
            Image.objects.filter(pk=image.pk, epoch=image.epoch).delete()
        return Gone()

    def failed(self, image: Image, error: PaddockError) -> Next[Image]:
        """Say why; asking for it again tries again."""
        state = "ready" if image.sha256 else "failed"  # only its removal failed
        image.set(state=state, problem=error.message, doing="", delete_requested=False)
        return Then(self.rest)


# What is asked from outside


def ask_build(image: Image, correlation_id: str, project_id: int) -> Action:
    """Have a catalogue image built. Raises Conflict when it is ready, or no image that can be built."""
    if image.project_id is not None:
        raise Conflict(f"image {image.name} was imported; only catalogue images are built")
    if image.state == "ready":
        raise Conflict(f"image {image.name} is already built")
    with transaction.atomic():
        Image.objects.select_for_update().get(pk=image.pk)
        if asked := _running(image).filter(project_id=project_id).first():
            return asked
        action = _action(image, "build_image", correlation_id, project_id)
        want(image)
        Image.objects.filter(pk=image.pk, action_id=None).update(action_id=action.pk)
    return action


def ask_take_in(image: Image, correlation_id: str) -> Action:
    """Have an uploaded file checked and made an image of."""
    with transaction.atomic():
        action = _action(image, "create_image", correlation_id, image.project_id)
        Image.objects.filter(pk=image.pk).update(
            state="building", doing="checking what was uploaded", step="take_in", step_since=Now(), action_id=action.pk
        )
        wake(image, ImageFlow.kind)
    return action


def delete(image: Image, correlation_id: str) -> None:
    """Delete an image. Raises Conflict while servers stand on it."""
    with transaction.atomic():
        Image.objects.select_for_update().get(pk=image.pk)
        users = Server.objects.filter(image=image).count()
        if users:
            raise InUse(f"image {image.name} is used by {users} servers", hint="delete them first")
        Image.objects.filter(pk=image.pk).update(delete_requested=True)
        _action(image, "delete_image", correlation_id, image.project_id)
        wake(image, ImageFlow.kind, urgent=True)


def _running(image: Image) -> "QuerySet[Action]":
    return Action.objects.filter(kind=ImageFlow.kind, row_id=image.pk, status="running")


def _action(image: Image, command: str, correlation_id: str, project_id: int | None) -> Action:
    return Action.objects.create(
        project_id=project_id,
        command=command,
        kind="image",
        row_id=image.pk,
        correlation_id=correlation_id,
        started=clock.now(),
    )
