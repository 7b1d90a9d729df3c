"""Where the images of the catalogue come from: what is known of each, and how it is to be fetched."""

from collections.abc import Iterable
from datetime import datetime, time, timezone
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from paddock.base import clock
from paddock.base.errors import Conflict
from paddock.cloud.flows import actions
from paddock.cloud.flows.engine import from_now, wake
from paddock.cloud.models import Action, Image
from paddock.images import fetch
from paddock.images.catalogue import Catalogue, Entry
from paddock.images.published import mirrored
from paddock.machine.spec import GIB

KIND = "image"
LOOK_SECONDS = 900.0
FETCH_SECONDS = 24 * 3600.0


def catalogue() -> Catalogue:
    """All that this cloud knows, the operator's own included."""
    found: Catalogue = settings.CATALOGUE
    return found


def entry_of(image: Image) -> Entry | None:
    """What the catalogue says of an image; None: it is none of the catalogue, or no longer in it."""
    return catalogue().find(image.name) if image.catalogue else None


def ended(image: Image) -> datetime | None:
    """Since when its publisher has not looked after it; None while it does, or nobody knows."""
    entry = entry_of(image)
    return datetime.combine(entry.ended, time(), timezone.utc) if entry and entry.ended else None  # noqa: UP017


def old_names() -> list[str]:
    """The names of those that nobody looks after any more."""
    today = clock.now().date()
    return [entry.name for entry in catalogue().offered if entry.ended and entry.ended < today]


def first_step(image: Image) -> tuple[str, float]:
    """How its making begins: the step, and its seconds."""
    entry = entry_of(image)
    return ("fetch", FETCH_SECONDS) if entry and not entry.built else ("build", 3600.0)


def request(image: Image, target: Path, *, only_look: bool = False) -> fetch.Request | None:
    """How an image of the catalogue is fetched; None: it is not."""
    entry = entry_of(image)
    if entry is None or not entry.url:
        return None
    said = settings.PADDOCK.images
    source = catalogue().source(entry, settings.STATE.keys)
    source = source.model_copy(update={
        "url": mirrored(source.url, said.mirror),
        "signature": mirrored(source.signature, said.mirror),
        "required": said.require_signatures,
    })  # fmt: skip
    return fetch.Request(
        url=mirrored(entry.url, said.mirror),
        target=target,
        anywhere=bool(said.mirror) or said.allow_private_addresses,
        trust=settings.STATE.root / said.ca_file if said.ca_file else None,
        max_size=said.max_gib * GIB,
        source=source,
        only_look=only_look,
    )


# What is asked from outside


def ask_look(image: Image, correlation_id: str, project_id: int) -> Action:
    """Have its publisher asked whether there is something newer. Raises Conflict for one that nobody publishes, or that
    is busy."""
    _refuse_unpublished(image)
    return ask(image, "look_image", "look", LOOK_SECONDS, correlation_id, project_id)


def ask_refresh(image: Image, correlation_id: str, project_id: int) -> Action:
    """Have what is newest fetched. Servers keep the disks that they have; new ones, and those that are rebuilt, get the
    new image. Raises Conflict as `ask_look`, and for one that is not here."""
    _refuse_unpublished(image)
    if image.state != "ready":
        raise Conflict(f"image {image.name} is {image.state}", hint="it is fetched when it is first used, or built")
    return ask(image, "refresh_image", "fetch", FETCH_SECONDS, correlation_id, project_id)


def ask_shed(images: Iterable[Image], everything: bool, correlation_id: str, project_id: int) -> list[Action]:
    """Have the copies removed on which nothing stands; with `everything` the images of the catalogue too."""
    found = []
    for image in images:
        try:
            found.append(
                ask(image, "prune_image", "shed", 3600.0, correlation_id, project_id, {"everything": everything})
            )
        except Conflict:
            continue  # it is being made, or looked at: whoever uses it may want its copies
    return found


def _refuse_unpublished(image: Image) -> None:
    entry = entry_of(image)
    if entry is None or not entry.url:
        raise Conflict(f"image {image.name or image.pk} is none that is fetched from its publisher")


def ask(
    image: Image,
    command: str,
    first: str,
    seconds: float,
    correlation_id: str,
    project_id: int,
    arguments: dict[str, object] | None = None,
) -> Action:
    """Begin with a step at a row that rests. Raises Conflict for one that is busy."""
    with transaction.atomic():
        locked = Image.objects.select_for_update(of=("self",)).get(pk=image.pk)
        if locked.state == "building" or locked.step != "rest" or locked.delete_requested:
            raise Conflict(f"image {locked.name or locked.pk} is busy: {locked.doing or locked.step}", hint="try later")
        action = actions.begin(KIND, locked, command, correlation_id, arguments)
        if locked.project_id is None:  # its own has none
            Action.objects.filter(pk=action.pk).update(project_id=project_id)
            action.project_id = project_id
        Image.objects.filter(pk=locked.pk).update(
            step=first, step_since=Now(), deadline=from_now(seconds), action_id=action.pk, problem="", doing=""
        )
        wake(locked, KIND)
    return action
