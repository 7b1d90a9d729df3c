"""An image's life: built, fetched or taken in once per cloud, used by many nodes.

A deleted one is hidden at once; its content goes when the last server that stands on it has left.
"""

from collections.abc import Callable

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from paddock.base.errors import Conflict, InUse, NotFound, PaddockError, Protected, Refused
from paddock.cloud.flows import actions, origin, prune
from paddock.cloud.flows.engine import from_now, register, wake
from paddock.cloud.flows.image_files import (
    IMAGE,
    about_of,
    boot_of,
    fetch_job,
    fetch_request,
    its_server,
    look_job,
    manifest_name,
    promised,
    remove_content,
    remove_files,
    upload_of,
)
from paddock.cloud.flows.image_warm import ImageWarm
from paddock.cloud.flows.steps import Again, Done, Gone, Next, Then, step
from paddock.cloud.models import Action, Image, ImageCopy, Server
from paddock.cloud.nodes import hypervisor
from paddock.images import address, build, fetch
from paddock.images.importer import import_disk, import_iso
from paddock.images.store import ImageStore
from paddock.machine.spec import GIB

BUILD_SECONDS = 3600.0
FOREVER = 10 * 365 * 86400.0  # a removal is tried until it is done: nobody sees the image any more
AGAIN_SECONDS = 30.0  # between two tries of it
DEATH = ("stop", "destroy", "forget")


def want(image: Image) -> None:
    """Have a catalogue image built or fetched unless it is ready or on its way. One that failed is tried again."""
    if image.state == "ready" or image.project_id is not None:
        return
    first, seconds = origin.first_step(image)
    with transaction.atomic():
        begun = Image.objects.filter(pk=image.pk, state__in=("absent", "failed")).update(
            state="building",
            percent=0,
            doing="waiting for a worker",
            problem="",
            step=first,
            step_since=Now(),
            deadline=from_now(seconds),
        )
        if begun:
            wake(image, ImageFlow.kind)


@register
class ImageFlow(ImageWarm):
    """Steps of an image."""

    kind = IMAGE
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
            raise Refused(f"{image.title} could not be built: {status.error}")
        if status.state != "ready":
            image.set(percent=status.percent, doing=status.doing)
            return Again(0.5, status.doing)
        self._adopt(image, status.sha256)
        return Then(self.rest, finishes=True)

    @step(seconds=60, by_hand=False)
    def fetch(self, image: Image) -> Next[Image]:
        """Start fetching it from its URL, in a process that outlives the worker."""
        fetch.start(fetch_job(image), origin.request(image, upload_of(image)) or fetch_request(image))
        return Then(self.await_fetched)

    @step(seconds=origin.FETCH_SECONDS, by_hand=False)
    def await_fetched(self, image: Image) -> Next[Image]:
        """Wait until its file is here, whole and unpacked. A fetcher that is gone is started again."""
        status = fetch.status(fetch_job(image))
        if status.state == "absent":
            return Then(self.fetch)
        if status.state == "failed":
            raise Refused(f"{image.title} could not be fetched: {status.error}")
        if status.state == "building":
            image.set(percent=status.percent, doing=status.doing)
            _running(image).update(progress=min(status.percent, 99))
            return Again(0.5, status.doing)
        if status.version:
            image.set(version=status.version, verified=status.verified, newer="", fetched_at=Now(), looked_at=Now())
        return Then(self.take_in)

    @step(seconds=BUILD_SECONDS, by_hand=False)
    def take_in(self, image: Image) -> Next[Image]:
        """Check the file that came, and make an image of it."""
        upload, store = upload_of(image), ImageStore(settings.STATE.images)
        name = manifest_name(image)
        if image.type == "iso":
            manifest = import_iso(upload, store, name, sha256=promised(image), **about_of(image))
        else:
            kernel_of = store.get(image.kernel_of) if image.kernel_of else None
            about = {**about_of(image), "max_size": settings.PADDOCK.images.max_gib * GIB}
            about |= {"sha256": promised(image), "kernel_of": kernel_of, "boot": boot_of(image)}
            manifest = import_disk(upload, store, name, **about)
        self._adopt(image, manifest.sha256)
        return Then(self.tidy)

    @step(by_hand=False)
    def tidy(self, image: Image) -> Next[Image]:
        """Remove the files that it was made of."""
        if not remove_files(image):
            return Again(0.1, "its download to end")
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

    @step(seconds=60, by_hand=False)
    def look(self, image: Image) -> Next[Image]:
        """Start asking its publisher what there is by now."""
        asked = origin.request(image, upload_of(image), only_look=True)
        if asked is None:
            raise Refused(f"{image.title} is not fetched from a publisher any more")
        fetch.start(look_job(image), asked)
        return Then(self.await_look)

    @step(seconds=origin.LOOK_SECONDS, by_hand=False)
    def await_look(self, image: Image) -> Next[Image]:
        """Wait for the answer, and compare it with what is here."""
        status = fetch.status(look_job(image))
        if status.state == "absent":
            return Then(self.look)
        if status.state == "building":
            return Again(0.2, status.doing)
        if not fetch.cancel(look_job(image)):  # done with, well or not
            return Again(0.1, "the look at its publisher to end")
        if status.state == "failed":
            raise Refused(f"the publisher of {image.title} can't be asked: {status.error}")
        image.set(looked_at=Now(), newer=status.version if status.version != image.version else "")
        return Then(self.rest, finishes=True)

    @step(by_hand=False, seconds=3600)
    def shed(self, image: Image) -> Next[Image]:
        """Remove the copies on which nothing stands, or all of it, as was asked."""
        asked = _running(image).filter(pk=image.action_id or 0).first()
        prune.shed(image, bool(asked and asked.arguments.get("everything")))
        return Then(self.rest, finishes=True)

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
        if not image.delete_requested or image.step in DEATH:
            return None
        return self.stop

    @step(seconds=FOREVER, by_hand=False)
    def stop(self, image: Image) -> Next[Image]:
        """End whatever makes it, and tell the servers that wait for it."""
        if image.state != "ready":
            image.set(state="failed", problem=image.problem or "it was deleted", doing="")
        if waits_for := _end_snapshot(image):
            return Again(0.3, waits_for)
        if not remove_files(image):
            return Again(0.2, "its download to end")
        return Then(self.destroy)

    @step(seconds=FOREVER, by_hand=False, destroys=True)
    def destroy(self, image: Image) -> Next[Image]:
        """Remove every copy, once no server stands on it. Who leaves it last wakes it."""
        if _stands_on(image):
            return Done()
        if other := Image.objects.filter(sha256=image.sha256).exclude(sha256="").exclude(pk=image.pk).first():
            ImageCopy.objects.filter(image=image).update(image=other)  # the same content, of another project
        for copy in ImageCopy.objects.filter(image=image).select_related("node"):
            try:
                hypervisor(copy.node).disks.remove_image(copy.sha256)
            except PaddockError as e:  # say a server's disk that is about to be replaced, or a node that is down
                return Again(AGAIN_SECONDS, f"node {copy.node.name} to remove it: {e.message}")
            copy.delete()
        return Then(self.forget)

    @step(seconds=FOREVER, by_hand=False)
    def forget(self, image: Image) -> Next[Image]:
        """Delete it from the store, and the row. Under its lock: who just makes a server of it has it still, or finds
        it gone."""
        with transaction.atomic():
            ours = Image.objects.select_for_update(of=("self",)).filter(pk=image.pk, epoch=image.epoch)
            if not ours.exists() or _stands_on(image):
                return Done()
            remove_content(image)
            ours.delete()
            why = {"error_code": "image_deleted", "error_message": f"{image.title} was deleted before this was done"}
            _running(image).update(status="error", progress=100, finished=Now(), **why)
        return Gone()

    def failed(self, image: Image, error: PaddockError) -> Next[Image]:
        """Say why; asking for it again tries again."""
        if image.step in ("look", "await_look", "shed", "warm", "cool"):  # nothing is wrong with it
            return Then(self.rest)
        image.set(state="ready" if image.sha256 else "failed", problem=error.message, doing="")
        if image.step in ("fetch", "await_fetched", "take_in") and (image.url or image.uuid):
            return Then(self.drop)
        return Then(self.rest)

    @step(by_hand=False)
    def drop(self, image: Image) -> Next[Image]:
        """Remove what there is of one that came to nothing. An upload stays, to be checked again or sent anew."""
        if not remove_files(image):
            return Again(0.2, "its download to end")
        return Then(self.rest)


# What the steps ask


def _stands_on(image: Image) -> bool:
    """Whether a server does."""
    return Server.objects.filter(Q(image=image) | Q(iso=image)).exists()


def _end_snapshot(image: Image) -> str:
    """Have its server give up the copy that is being taken. Returns what that waits for; empty: there is none."""
    server = its_server(image)
    if server is None or image.uuid is None or image.sha256:
        return ""
    if actions.running("server", server.pk).filter(command="create_image", arguments__image=image.pk).exists():
        wake(server, "server")
        return f"server {server.name} to end its snapshot"
    if server.node is not None:
        try:
            hypervisor(server.node).disks.drop_snapshot(server.uuid, image.uuid, server.epoch)
        except NotFound:
            return ""
        except PaddockError as e:  # a newer worker has the server, or its node is down
            return f"node {server.node.name} to drop its copy: {e.message}"
    return ""


# What is asked from outside


def ask_build(image: Image, correlation_id: str, project_id: int) -> Action:
    """Have a catalogue image built. Raises Conflict when it is ready, or no image that can be built."""
    if image.project_id is not None:
        raise Conflict(f"{image.title} was imported; only catalogue images are built")
    if image.state == "ready":
        raise Conflict(f"{image.title} is already built")
    with transaction.atomic():
        Image.objects.select_for_update().get(pk=image.pk)
        if asked := _running(image).filter(project_id=project_id).first():
            return asked
        action = actions.begin(ImageFlow.kind, image, "build_image", correlation_id)
        Action.objects.filter(pk=action.pk).update(project_id=project_id)  # its own has none
        action.project_id = project_id
        want(image)
        Image.objects.filter(pk=image.pk, action_id=None).update(action_id=action.pk)
    return action


def ask_take_in(image: Image, correlation_id: str) -> Action:
    """Have an uploaded file checked and made an image of."""
    return _begin(image, "take_in", "checking what was uploaded", correlation_id)


def ask_fetch(image: Image, correlation_id: str, *, anywhere: bool = False) -> Action:
    """Have an image fetched from `image.url`, and checked by `image.expected_sha256` if it has one. `anywhere`: an
    operator asks, also for addresses that are not of the open internet. Raises Invalid (field `url`), Conflict when it
    is there or on its way."""
    address.checked(image.url)
    return _begin(image, "fetch", "waiting for a worker", correlation_id, {"anywhere": anywhere})


def _begin(
    image: Image, first: str, doing: str, correlation_id: str, arguments: dict[str, object] | None = None
) -> Action:
    with transaction.atomic():
        locked = Image.objects.select_for_update().get(pk=image.pk)
        if locked.state not in ("absent", "failed") or locked.delete_requested:
            raise Conflict(f"{image.title} is {locked.state} already")
        action = actions.begin(ImageFlow.kind, image, "create_image", correlation_id, arguments)
        Image.objects.filter(pk=image.pk).update(
            state="building",
            percent=0,
            doing=doing,
            problem="",
            step=first,
            step_since=Now(),
            deadline=from_now(ImageFlow.steps()[first].seconds),
            action_id=action.pk,
        )
        wake(image, ImageFlow.kind)
    return action


def protect(image: Image, delete: bool, correlation_id: str) -> Action:
    """Protect an image against deletion, or no longer."""
    with transaction.atomic():
        Image.objects.filter(pk=image.pk).update(protect_delete=delete)
        return actions.finished(ImageFlow.kind, image, "change_protection", correlation_id)


def delete(image: Image, correlation_id: str) -> None:
    """Delete an image, or end its making: it is hidden at once, and its content goes when no server stands on it.

    Raises Protected, and InUse for one of the catalogue on which servers stand. Asking again changes nothing."""
    with transaction.atomic():
        locked = Image.objects.select_for_update(of=("self",)).get(pk=image.pk)
        if locked.deleted is not None:
            return
        if locked.protect_delete:
            raise Protected(f"{locked.type} deletion is protected", hint=f"take the protection of {locked.title} away")
        users = Server.objects.filter(Q(image=locked) | Q(iso=locked)).count() if locked.project_id is None else 0
        if users:
            raise InUse(f"{locked.title} is used by {users} servers", hint="delete them first")
        Image.objects.filter(pk=image.pk).update(delete_requested=True, deleted=Now())
        actions.finished(ImageFlow.kind, image, "delete_image", correlation_id)
        wake(image, ImageFlow.kind, urgent=True)


def _running(image: Image) -> "QuerySet[Action]":
    return actions.running(ImageFlow.kind, image.pk)
