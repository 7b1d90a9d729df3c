"""Volumes: disks with a life of their own."""

from typing import Annotated, Any, Literal

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from ninja import Router, Status
from pydantic import AfterValidator, Field

from paddock.api.auth import correlation, project
from paddock.api.errors import invalid, uniqueness
from paddock.api.paging import Meta, described, get, many, page
from paddock.api.v1 import actions
from paddock.api.v1.common import (
    Body,
    IdOrName,
    Labels,
    Location,
    Protection,
    Reply,
    ResourceName,
    Time,
    check_place,
)
from paddock.cloud.flows import volume as flow
from paddock.cloud.models import Server, Volume

router = Router(tags=["volumes"])
SORTABLE = {"id": "id", "name": "name", "created": "created"}
STATES = ("available", "creating")
LEAST_GB, MOST_GB = 10, 10240


class VolumeReply(Reply):
    """A volume; its size in GB."""

    id: int
    name: str
    created: Time
    server: int | None
    location: Location = Location()
    size: int
    linux_device: str
    protection: Protection
    labels: dict[str, str]
    status: str
    format: str | None
    x_node: str | None
    x_waiting_for: str
    x_problem: str | None


class OneVolume(Reply):
    volume: VolumeReply


class ManyVolumes(Reply):
    volumes: list[VolumeReply]
    meta: Meta


class CreatedVolume(OneVolume):
    action: actions.ActionReply
    next_actions: list[actions.ActionReply]


def _whole(size: float) -> int:
    if size != int(size):
        raise ValueError("must be a whole number of GB")
    return int(size)


class CreateVolume(Body):
    """What a new volume shall be. It is made at once where a server is named, else at its first attachment."""

    name: ResourceName
    size: Annotated[int, Field(ge=LEAST_GB, le=MOST_GB)]
    labels: Labels = {}
    automount: bool = False
    format: Literal["ext4", "xfs"] | None = None
    location: IdOrName | None = None
    server: int | None = None

    def check(self) -> None:
        """Raises ApiError naming the field that does not go with the others."""
        check_place(self.location)
        if self.location is None and self.server is None:
            raise invalid("location", "is needed unless a server is named")
        if self.automount and self.server is None:
            raise invalid("automount", "needs a server to be named")


class ChangeVolume(Body):
    name: ResourceName | None = None
    labels: Labels | None = None


class AttachVolume(Body):
    server: int
    automount: bool = False


class ResizeVolume(Body):
    size: Annotated[float, Field(gt=0, le=MOST_GB), AfterValidator(_whole)]


class ProtectVolume(Body):
    delete: bool | None = None


def shown(volume: Volume) -> VolumeReply:
    """A volume as it goes out."""
    return VolumeReply(
        id=volume.pk,
        name=volume.name,
        created=volume.created,
        server=volume.server_id,
        size=volume.size_gib,
        linux_device=volume.linux_device,
        protection=Protection(delete=volume.protect_delete),
        labels=volume.labels,
        status=volume.status,
        format=volume.format or None,
        x_node=volume.node.name if volume.node else None,
        x_waiting_for=volume.waiting_for,
        x_problem=volume.problem or None,
    )


def visible(request: HttpRequest) -> "QuerySet[Volume]":
    """The project's volumes."""
    return Volume.objects.filter(project=project(request), delete_requested=False).prefetch_related("node")


def _volume(request: HttpRequest, id: int) -> Volume:
    volume: Volume = get(visible(request), "volume", id)
    return volume


def _server(request: HttpRequest, id: int) -> Server:
    """The project's server of that id, which a body names."""
    server = Server.objects.filter(project=project(request), pk=id).first() if 0 < id < 2**53 else None
    if server is None:
        raise invalid("server", f"there is no server '{id}'")
    return server


QUERY = described(SORTABLE, "name", "label_selector", status=STATES)


@router.get("/volumes", response=ManyVolumes, openapi_extra=QUERY)
def list_volumes(request: HttpRequest) -> ManyVolumes:
    """The project's volumes."""
    rows = visible(request)
    if states := many(request, "status", STATES):
        rows = rows.filter(status__in=states)
    found, meta = page(request, rows, SORTABLE)
    return ManyVolumes(volumes=[shown(v) for v in found], meta=meta)


@router.post("/volumes", response={201: CreatedVolume})
def create_volume(request: HttpRequest, body: CreateVolume) -> Status[CreatedVolume]:
    """Make a volume, and attach it to a server if one is named."""
    body.check()
    server = None if body.server is None else _server(request, body.server)
    volume = Volume(
        project=project(request), name=body.name, size_gib=body.size, labels=body.labels, format=body.format or ""
    )
    action, then = flow.create(volume, server, body.automount, correlation(request))
    row = visible(request).get(pk=volume.pk)
    created = CreatedVolume(
        volume=shown(row), action=actions.shown(action), next_actions=[actions.shown(a) for a in then]
    )
    return Status(201, created)


@router.get("/volumes/{int:id}", response=OneVolume)
def show_volume(request: HttpRequest, id: int) -> OneVolume:
    """One volume."""
    return OneVolume(volume=shown(_volume(request, id)))


@router.put("/volumes/{int:id}", response=OneVolume)
def change_volume(request: HttpRequest, id: int, body: ChangeVolume) -> OneVolume:
    """Rename or relabel a volume."""
    volume = _volume(request, id)
    changes: dict[str, Any] = body.model_dump(exclude_unset=True)
    try:
        with transaction.atomic():
            if changes:
                Volume.objects.filter(pk=volume.pk).update(**changes)
    except IntegrityError as e:
        raise uniqueness("name") from e
    return OneVolume(volume=shown(_volume(request, id)))


@router.delete("/volumes/{int:id}", response={204: None})
def delete_volume(request: HttpRequest, id: int) -> HttpResponse:
    """Delete a volume and its data. It must be attached to no server."""
    flow.delete(_volume(request, id), correlation(request))
    return HttpResponse(status=204)


actions.serve(router, "volume", visible)


@router.post("/volumes/{int:id}/actions/attach", response={201: actions.OneAction})
def attach(request: HttpRequest, id: int, body: AttachVolume) -> Status[actions.OneAction]:
    """Attach it to a server, running or not; with `automount` it is mounted in the guest."""
    volume, server = _volume(request, id), _server(request, body.server)
    return Status(201, actions.asked(flow.attach(volume, server, body.automount, correlation(request))))


@router.post("/volumes/{int:id}/actions/detach", response={201: actions.OneAction})
def detach(request: HttpRequest, id: int) -> Status[actions.OneAction]:
    """Take it from its server."""
    return Status(201, actions.asked(flow.detach(_volume(request, id), correlation(request))))


@router.post("/volumes/{int:id}/actions/resize", response={201: actions.OneAction})
def resize(request: HttpRequest, id: int, body: ResizeVolume) -> Status[actions.OneAction]:
    """Make it larger, also while it is in use. The file system in it is grown by its user."""
    return Status(201, actions.asked(flow.resize(_volume(request, id), int(body.size), correlation(request))))


@router.post("/volumes/{int:id}/actions/change_protection", response={201: actions.OneAction})
def change_protection(request: HttpRequest, id: int, body: ProtectVolume | None = None) -> Status[actions.OneAction]:
    """Protect it against being deleted, or no longer."""
    volume = _volume(request, id)
    wanted = volume.protect_delete if body is None or body.delete is None else body.delete
    return Status(201, actions.asked(flow.protect(volume, wanted, correlation(request))))
