"""What a project may have, and what it has of it."""

from django.http import HttpRequest
from ninja import Router

from paddock.api.auth import project
from paddock.api.v1.common import Reply
from paddock.cloud.flows import quota
from paddock.cloud.models import Project

router = Router(tags=["x: limits"])


class Share(Reply):
    """A limit (null: none), and how much of it is used."""

    limit: int | None
    used: int


class Limits(Reply):
    """All limits of a project; memory in MiB, disks and volumes in GiB. `snapshots` counts all images of its own:
    snapshots, imported images and ISOs, each of which may be as large as the operator lets images be."""

    servers: Share
    cores: Share
    memory_mib: Share
    disk_gib: Share
    volumes: Share
    volume_gib: Share
    snapshots: Share


class OneLimits(Reply):
    limits: Limits


def shown(owner: Project) -> Limits:
    """The limits of a project as they go out."""
    limits, used = quota.limits(owner), quota.usage(owner)
    return Limits(**{name: Share(limit=limits[name], used=used[name]) for name in Limits.model_fields})


@router.get("/limits", response=OneLimits)
def show_limits(request: HttpRequest) -> OneLimits:
    """The limits of this project, and what is used of each."""
    return OneLimits(limits=shown(project(request)))
