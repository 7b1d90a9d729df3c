"""Images beyond /v1: import and build."""

from typing import Annotated

from django.db import IntegrityError, transaction
from django.http import HttpRequest
from ninja import Router, Status
from pydantic import Field

from paddock.api.auth import correlation, project
from paddock.api.errors import uniqueness
from paddock.api.paging import get
from paddock.api.v1 import actions, images
from paddock.api.v1.common import Body, Line
from paddock.cloud.flows import image as flow
from paddock.cloud.models import Image

router = Router(tags=["x: images"])


class CreateImage(Body):
    """An image whose disk will be uploaded."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
    description: Annotated[Line, Field(max_length=200)] = ""
    os_flavor: Annotated[str, Field(pattern=r"^[a-z]{1,20}$")] = "unknown"
    os_version: Annotated[Line, Field(max_length=20)] = ""
    default_user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "root"
    cloud_init: bool = True
    sha256: Annotated[str, Field(pattern=r"^([0-9a-fA-F]{64})?$")] = ""


@router.post("/images", response={201: images.OneImage})
def create_image(request: HttpRequest, body: CreateImage) -> Status[images.OneImage]:
    """Announce an image; its disk is then sent to /x/v1/images/{id}/content."""
    if Image.objects.filter(project=None, name=body.name).exists():
        raise uniqueness("name")
    image = Image(
        project=project(request),
        name=body.name,
        description=body.description,
        os_flavor=body.os_flavor,
        os_version=body.os_version,
        default_user=body.default_user,
        cloud_init=body.cloud_init,
        expected_sha256=body.sha256.lower(),
        type="snapshot",
        step="rest",
        next_at=None,
    )
    try:
        with transaction.atomic():
            image.save()
    except IntegrityError as e:
        raise uniqueness("name") from e
    image.refresh_from_db()
    return Status(201, images.OneImage(image=images.shown(image)))


@router.post("/images/{int:id}/build", response={201: actions.OneAction})
def build_image(request: HttpRequest, id: int) -> Status[actions.OneAction]:
    """Build an image of the catalogue now, rather than at its first use."""
    image: Image = get(images.visible(request), "image", id)
    action = flow.ask_build(image, correlation(request), project(request).pk)
    return Status(201, actions.OneAction(action=actions.shown(action)))
