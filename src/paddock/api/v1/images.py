"""Images: what servers are made from."""

from typing import Annotated, Any, Literal

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from ninja import Router, Status
from pydantic import Field

from paddock.api.auth import correlation, is_operator, project
from paddock.api.errors import ApiError, invalid, uniqueness
from paddock.api.paging import Meta, as_id, described, flag, get, many, page
from paddock.api.v1 import actions
from paddock.api.v1.common import Body, Labels, Line, Protection, Reply, Time
from paddock.cloud.flows import image as flow
from paddock.cloud.flows import origin
from paddock.cloud.models import Image
from paddock.machine.spec import GIB

router = Router(tags=["images"])
SORTABLE = {"id": "id", "name": "name", "created": "created"}
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]


class CreatedFrom(Reply):
    """The server that an image was made from."""

    id: int
    name: str


class ImageReply(Reply):
    """An image; sizes in GB. `x_frozen`: whether a snapshot's file systems were held still for its moment;
    `x_not_frozen` says why not, and it is like a disk after a power cut then. `x_used_at`: when a server last
    got it; of what all projects share, only operators see that."""

    id: int
    type: str
    status: str
    name: str | None
    description: str
    image_size: float | None
    disk_size: float
    created: Time
    created_from: CreatedFrom | None = None
    bound_to: int | None = None
    os_flavor: str
    os_version: str | None
    rapid_deploy: bool = False
    protection: Protection = Protection()
    deprecated: Time | None = None
    deleted: Time | None = None
    labels: dict[str, str]
    architecture: str = "x86"
    x_sha256: str | None
    x_state: str
    x_progress: int
    x_doing: str
    x_problem: str | None
    x_default_user: str
    x_cloud_init: bool
    x_cleaned: list[str] | None = None
    x_shared: list[str] = []
    x_used_at: Time | None = None
    x_published: str | None = None
    x_verified: str | None = None
    x_firmware: str | None
    x_cmdline: str | None = None
    x_frozen: bool | None
    x_not_frozen: str | None


class OneImage(Reply):
    image: ImageReply


class ManyImages(Reply):
    images: list[ImageReply]
    meta: Meta


class ChangeImage(Body):
    """What may be changed of a project's image. A backup becomes a snapshot by its type; nothing else changes type."""

    description: Annotated[Line, Field(min_length=1, max_length=200)] | None = None
    type: Literal["snapshot"] | None = None
    labels: Labels | None = None
    x_name: Name | None = None


class ProtectImage(Body):
    delete: bool | None = None


TYPES = ("system", "app", "snapshot", "backup")
ARCHITECTURES = ("x86", "arm")
STATUS = {"absent": "creating", "building": "creating", "ready": "available", "failed": "unavailable"}
STATES = ("available", "creating", "unavailable")


def shown(image: Image, *, operator: bool = False) -> ImageReply:
    """An image as it goes out: to an operator also with what says something of other projects."""
    files = image.manifest.get("files", ())
    size = sum(f["size"] for f in files) / GIB if files else None
    return ImageReply(
        id=image.pk,
        type=image.type,
        status=_status(image),
        name=image.name or None,
        description=image.description,
        image_size=size,
        disk_size=image.manifest.get("disk_size", 0) / GIB,
        created=image.created,
        created_from=_created_from(image),
        protection=Protection(delete=image.protect_delete),
        deprecated=origin.ended(image),
        deleted=image.deleted,
        os_flavor=image.os_flavor,
        os_version=image.os_version or None,
        labels=image.labels,
        x_sha256=image.sha256 or None,
        x_state=image.state,
        x_progress=image.percent,
        x_doing=image.doing,
        x_problem=image.problem or None,
        x_default_user=image.default_user,
        x_cloud_init=image.cloud_init,
        x_cleaned=image.cleaned,
        x_shared=image.shared,
        x_used_at=image.used_at if operator or image.project_id is not None else None,
        x_published=image.url or None if image.catalogue else None,
        x_verified=image.verified or None,
        x_firmware=_firmware(image),
        x_cmdline=_cmdline(image),
        x_frozen=image.frozen,
        x_not_frozen=image.not_frozen or None,
    )


def _firmware(image: Image) -> str | None:
    """What boots it, once that is known. An ISO says nothing of it."""
    known = image.manifest.get("firmware", "bios") if image.manifest and not image.announced else None
    return image.firmware or known


def _cmdline(image: Image) -> str | None:
    """The kernel arguments of an image whose kernel QEMU loads; None for one whose disk boots by itself."""
    if image.announced:
        return image.announced.cmdline
    return image.manifest.get("cmdline", "") if image.manifest.get("direct_boot") else None


def _status(image: Image) -> str:
    """An image of the catalogue can be used before it is built: a server waits for it. (Clients look for images that
    are available, so that one which is being built at its first use would not be there for the second.)"""
    status = STATUS[image.state]
    return "available" if status == "creating" and image.project_id is None else status


def _created_from(image: Image) -> CreatedFrom | None:
    if image.created_from_id is None:
        return None
    return CreatedFrom(id=image.created_from_id, name=image.created_from_name)


def visible(request: HttpRequest) -> "QuerySet[Image]":
    """The project's own images, and those that all share."""
    own = Q(project=project(request)) | Q(project=None)
    return Image.objects.filter(own, type__in=TYPES, delete_requested=False, deleted=None)


def _of_status(states: list[str]) -> Q:
    """The images that are shown in one of these states."""
    to_come = Q(state__in=[ours for ours, theirs in STATUS.items() if theirs == "creating"])
    wanted = Q(state__in=[ours for ours, theirs in STATUS.items() if theirs in states and theirs != "creating"])
    if "available" in states:
        wanted |= to_come & Q(project=None)
    if "creating" in states:
        wanted |= to_come & Q(project__isnull=False)
    return wanted


QUERY = described(
    SORTABLE,
    "name",
    "label_selector",
    "include_deprecated",
    "bound_to",
    type=TYPES,
    status=STATES,
    architecture=ARCHITECTURES,
)


@router.get("/images", response=ManyImages, openapi_extra=QUERY)
def list_images(request: HttpRequest) -> ManyImages:
    """All images that the project may use."""
    rows = visible(request)
    if not flag(request, "include_deprecated") and not many(request, "name"):
        rows = rows.exclude(catalogue=True, name__in=origin.old_names())
    if kinds := many(request, "type", TYPES):
        rows = rows.filter(type__in=kinds)
    if states := many(request, "status", STATES):
        rows = rows.filter(_of_status(states))
    if (architectures := many(request, "architecture", ARCHITECTURES)) and "x86" not in architectures:
        rows = rows.none()
    if bound := many(request, "bound_to"):  # backups are bound to servers; there are none yet
        if wrong := [given for given in bound if as_id(given) is None]:
            raise invalid("bound_to", f"must be a server's id, not '{wrong[0]}'")
        rows = rows.none()
    found, meta = page(request, rows, SORTABLE)
    return ManyImages(images=[shown(i, operator=is_operator(request)) for i in found], meta=meta)


@router.get("/images/{int:id}", response=OneImage)
def show_image(request: HttpRequest, id: int) -> OneImage:
    """One image."""
    return OneImage(image=shown(get(visible(request), "image", id), operator=is_operator(request)))


@router.put("/images/{int:id}", response=OneImage)
def change_image(request: HttpRequest, id: int, body: ChangeImage) -> OneImage:
    """Describe, relabel or (by `x_name`) name an image of the project: a snapshot has no name until it is given one."""
    image = _own(request, id, "changed")
    changes: dict[str, Any] = body.model_dump(exclude_unset=True)
    if (name := changes.pop("x_name", None)) and name != image.name:
        _rename(image, name)
    if changes:
        Image.objects.filter(pk=image.pk).update(**changes)
    return show_image(request, id)


def _rename(image: Image, name: str) -> None:
    """Raises ApiError for a name that is taken, or that everybody's images have, ISOs and all."""
    try:
        with transaction.atomic():
            if Image.objects.filter(project=None, name=name, deleted=None).exists():
                raise uniqueness("name")
            Image.objects.filter(pk=image.pk).update(name=name)
    except IntegrityError as e:
        raise uniqueness("name") from e


@router.delete("/images/{int:id}", response={204: None})
def delete_image(request: HttpRequest, id: int) -> HttpResponse:
    """Delete an image of the project. Servers that were made from it go on."""
    flow.delete(_own(request, id, "deleted"), correlation(request))
    return HttpResponse(status=204)


actions.serve(router, "image", visible)


@router.post("/images/{int:id}/actions/change_protection", response={201: actions.OneAction})
def change_image_protection(
    request: HttpRequest, id: int, body: ProtectImage | None = None
) -> Status[actions.OneAction]:
    """Protect an image of the project against being deleted, or no longer."""
    image = _own(request, id, "protected")
    wanted = image.protect_delete if body is None or body.delete is None else body.delete
    return Status(201, actions.asked(flow.protect(image, wanted, correlation(request))))


def _own(request: HttpRequest, id: int, what: str) -> Image:
    """An image of the project itself. Raises ApiError for one that all share."""
    image: Image = get(visible(request), "image", id)
    if image.project_id is None:
        raise ApiError(423, "protected", f"image {image.name} belongs to the catalogue and can't be {what}")
    return image
