"""Images beyond /v1: import and build."""

from typing import Annotated, Literal

from django.db import IntegrityError, transaction
from django.http import HttpRequest
from ninja import Router, Status
from pydantic import Field

from paddock.api.auth import correlation, project
from paddock.api.errors import invalid, uniqueness
from paddock.api.paging import get
from paddock.api.v1 import actions, images
from paddock.api.v1.common import Body, Line, Reply
from paddock.cloud.flows import image as flow
from paddock.cloud.flows import quota
from paddock.cloud.models import Action, Image
from paddock.cloud.models.image import OwnKernel
from paddock.machine.image import Role

router = Router(tags=["x: images"])


Sha256 = Annotated[str, Field(pattern=r"^([0-9a-fA-F]{64})?$")]
Url = Annotated[str, Field(max_length=2000, pattern=r"^(https?://[^\s/]+(/\S*)?)?$")]


class BootFile(Body):
    """A file that is to come beside the disk."""

    sha256: Sha256 = ""


class Boot(Body):
    """QEMU loads this kernel itself. The files are sent before the disk, to `content?file=kernel` and `?file=initrd`;
    `cmdline`: the kernel's arguments, to which a server may add its own."""

    kernel: BootFile
    initrd: BootFile | None = None
    cmdline: Annotated[Line, Field(max_length=1024)] = ""

    def announced(self) -> OwnKernel:
        """As the image's row has it."""
        files = {Role.KERNEL: self.kernel} | ({Role.INITRD: self.initrd} if self.initrd else {})
        return OwnKernel(files={role: file.sha256.lower() for role, file in files.items()}, cmdline=self.cmdline)


class CreateImage(Body):
    """An image whose disk is fetched from `url`; without one it will be uploaded. With `boot` it has a kernel of its
    own, and all of it is uploaded."""

    name: images.Name
    url: Url = ""
    description: Annotated[Line, Field(max_length=200)] = ""
    os_flavor: Annotated[str, Field(pattern=r"^[a-z]{1,20}$")] = "unknown"
    os_version: Annotated[Line, Field(max_length=20)] = ""
    default_user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "root"
    cloud_init: bool = True
    sha256: Sha256 = ""
    firmware: Literal["bios", "uefi"] | None = None  # what boots it; left out: found out by its partition table
    boot: Boot | None = None


class NewImage(Reply):
    """A new image, and the action that fetches it if it has an address."""

    image: images.ImageReply
    action: actions.ActionReply | None


@router.post("/images", response={201: NewImage})
def create_image(request: HttpRequest, body: CreateImage) -> Status[NewImage]:
    """Announce an image. Its disk is fetched from `url`, or is then sent to /x/v1/images/{id}/content."""
    if body.boot and body.url:
        raise invalid("url", "can't be used with boot: a disk with a kernel of its own is uploaded")
    image = Image(
        project=project(request),
        name=body.name,
        description=body.description,
        os_flavor=body.os_flavor,
        os_version=body.os_version,
        default_user=body.default_user,
        cloud_init=body.cloud_init,
        firmware=body.firmware or "",
        expected_sha256=body.sha256.lower(),
        url=body.url,
        manifest={"announced": body.boot.announced().model_dump(mode="json")} if body.boot else {},
        type="snapshot",
        step="rest",
        next_at=None,
    )
    with transaction.atomic():
        quota.check(image.project_id, snapshots=1)  # type: ignore[arg-type]  # it has a project
        action = announce(request, image)
    shown = actions.shown(action) if action else None
    return Status(201, NewImage(image=images.shown(image), action=shown))


def announce(request: HttpRequest, image: Image) -> Action | None:
    """Write a new image's row, and have it fetched if it has an address: for an operator from anywhere, for others from
    the open internet. Raises ApiError for a name that is taken, Invalid for an address that is none."""
    if Image.objects.filter(project=None, name=image.name, deleted=None).exists():
        raise uniqueness("name")
    operator: bool = request.auth.operator  # type: ignore[attr-defined]  # set by ninja
    with transaction.atomic():
        try:
            with transaction.atomic():
                image.save()
        except IntegrityError as e:
            raise uniqueness("name") from e
        action = flow.ask_fetch(image, correlation(request), anywhere=operator) if image.url else None
    image.refresh_from_db()
    return action


@router.post("/images/{int:id}/build", response={201: actions.OneAction})
def build_image(request: HttpRequest, id: int) -> Status[actions.OneAction]:
    """Build an image of the catalogue now, rather than at its first use."""
    image: Image = get(images.visible(request), "image", id)
    action = flow.ask_build(image, correlation(request), project(request).pk)
    return Status(201, actions.OneAction(action=actions.shown(action)))
