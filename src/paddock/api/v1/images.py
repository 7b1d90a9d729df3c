"""Images: what servers are made from."""

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from ninja import Router

from paddock.api.auth import correlation, project
from paddock.api.errors import ApiError
from paddock.api.paging import Meta, get, many, page
from paddock.api.v1.common import Protection, Reply, Time
from paddock.cloud.flows import image as flow
from paddock.cloud.models import Image
from paddock.machine.spec import GIB

router = Router(tags=["images"])
SORTABLE = {"id": "id", "name": "name", "created": "created"}


class CreatedFrom(Reply):
    """The server that an image was made from."""

    id: int
    name: str


class ImageReply(Reply):
    """An image; sizes in GB."""

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


class OneImage(Reply):
    image: ImageReply


class ManyImages(Reply):
    images: list[ImageReply]
    meta: Meta


TYPES = ("system", "app", "snapshot", "backup")
STATUS = {"absent": "available", "building": "creating", "ready": "available", "failed": "unavailable"}


def shown(image: Image) -> ImageReply:
    """An image as it goes out."""
    files = image.manifest.get("files", ())
    size = sum(f["size"] for f in files) / GIB if files else None
    return ImageReply(
        id=image.pk,
        type=image.type,
        status=STATUS[image.state],
        name=image.name,
        description=image.description,
        image_size=size,
        disk_size=image.manifest.get("disk_size", 0) / GIB,
        created=image.created,
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
    )


def visible(request: HttpRequest) -> "QuerySet[Image]":
    """The project's own images, and those that all share."""
    return Image.objects.filter(Q(project=project(request)) | Q(project=None), delete_requested=False)


@router.get("/images", response=ManyImages)
def list_images(request: HttpRequest) -> ManyImages:
    """All images that the project may use."""
    rows = visible(request)
    if kinds := many(request, "type", TYPES):
        rows = rows.filter(type__in=kinds)
    if states := many(request, "status", STATUS.values()):
        rows = rows.filter(state__in=[ours for ours, theirs in STATUS.items() if theirs in states])
    if (architectures := many(request, "architecture", ("x86", "arm"))) and "x86" not in architectures:
        rows = rows.none()
    if many(request, "bound_to"):  # backups are bound to servers; there are none yet
        rows = rows.none()
    found, meta = page(request, rows, SORTABLE)
    return ManyImages(images=[shown(i) for i in found], meta=meta)


@router.get("/images/{int:id}", response=OneImage)
def show_image(request: HttpRequest, id: int) -> OneImage:
    """One image."""
    return OneImage(image=shown(get(visible(request), "image", id)))


@router.delete("/images/{int:id}", response={204: None})
def delete_image(request: HttpRequest, id: int) -> HttpResponse:
    """Delete an image of the project. Refused while servers stand on it."""
    image: Image = get(visible(request), "image", id)
    if image.project_id is None:
        raise ApiError(423, "protected", f"image {image.name} belongs to the catalogue and can't be deleted")
    flow.delete(image, correlation(request))
    return HttpResponse(status=204)
