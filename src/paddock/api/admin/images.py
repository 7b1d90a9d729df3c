"""Images and ISOs of all projects, for operators; publishing one makes it everybody's."""

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from ninja import Router
from pydantic import Field

from paddock.api.auth import correlation
from paddock.api.errors import ApiError, invalid, uniqueness
from paddock.api.paging import Meta, get, many, page
from paddock.api.v1.common import Body, Reply, Time
from paddock.base.errors import Conflict
from paddock.cloud.flows import image as flow
from paddock.cloud.models import Image

router = Router(tags=["admin: images"])
SORTABLE = {"id": "id", "name": "name", "created": "created"}
TYPES = ("system", "app", "snapshot", "backup", "iso", "rescue", "blank")


class Owner(Reply):
    """The project that an image belongs to."""

    id: int
    name: str


class AdminImageReply(Reply):
    """An image; sizes in bytes. Without a project it is everybody's."""

    id: int
    name: str
    description: str
    type: str
    state: str
    problem: str
    project: Owner | None
    bytes: int
    disk_bytes: int
    sha256: str | None
    nodes: int | None = None
    created: Time
    used_at: Time | None


class OneAdminImage(Reply):
    image: AdminImageReply


class ManyAdminImages(Reply):
    images: list[AdminImageReply]
    meta: Meta


class Publish(Body):
    """Its name for everybody; without one it keeps its own."""

    name: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9.-]{0,62})?$")


def rows() -> "QuerySet[Image]":
    """All that are not on their way out."""
    return Image.objects.select_related("project").filter(delete_requested=False, deleted=None)


def shown(image: Image, nodes: int | None = None) -> AdminImageReply:
    """An image as operators see it; `nodes` is on how many it lies."""
    return AdminImageReply(
        id=image.pk,
        name=image.name,
        description=image.description,
        type=image.type,
        state=image.state,
        problem=image.problem,
        project=Owner(id=image.project.pk, name=image.project.name) if image.project else None,
        bytes=sum(f["size"] for f in image.manifest.get("files", ())),
        disk_bytes=image.manifest.get("disk_size", 0),
        sha256=image.sha256 or None,
        nodes=nodes,
        created=image.created,
        used_at=image.used_at,
    )


@router.get("/images", response=ManyAdminImages)
def list_images(request: HttpRequest) -> ManyAdminImages:
    """The images of all projects."""
    found_rows = rows()
    if kinds := many(request, "type", TYPES):
        found_rows = found_rows.filter(type__in=kinds)
    found, meta = page(request, found_rows, SORTABLE)
    return ManyAdminImages(images=[shown(i) for i in found], meta=meta)


@router.get("/images/{int:id}", response=OneAdminImage)
def show_image(request: HttpRequest, id: int) -> OneAdminImage:
    """One image, and on how many nodes it lies."""
    image: Image = get(rows(), "image", id)
    return OneAdminImage(image=shown(image, image.imagecopy_set.count()))


@router.post("/images/{int:id}/publish", response=OneAdminImage)
def publish_image(request: HttpRequest, id: int, body: Publish) -> OneAdminImage:
    """Make a project's image everybody's. It no longer counts for the project, nor can that delete it."""
    with transaction.atomic():
        image: Image = get(rows().select_for_update(of=("self",)), "image", id)
        if image.state != "ready":
            raise Conflict(f"{image.title} has no content yet: it is {image.state}")
        image.name = body.name or image.name
        if not image.name:
            raise invalid("name", "this image has none, and everybody must be able to call it by one")
        image.project = None
        image.type = "system" if image.type in ("snapshot", "backup") else image.type
        try:
            with transaction.atomic():
                image.save(update_fields=["name", "project", "type"])
        except IntegrityError as e:
            raise uniqueness("name") from e
    return OneAdminImage(image=shown(image))


@router.delete("/images/{int:id}", response={204: None})
def delete_image(request: HttpRequest, id: int) -> HttpResponse:
    """Delete an image of any project, or one that was published. What the catalogue builds stays."""
    image: Image = get(rows(), "image", id)
    if image.catalogue:
        raise ApiError(423, "protected", f"image {image.name} belongs to the catalogue and can't be deleted")
    flow.delete(image, correlation(request))
    return HttpResponse(status=204)
