"""ISOs: what can lie in a server's CD drive. The cloud's own are public; a project may upload others."""

from django.db.models import Q, QuerySet
from django.http import HttpRequest
from ninja import Router

from paddock.api.auth import project
from paddock.api.paging import Meta, described, flag, get, many, page
from paddock.api.v1.common import Deprecation, Reply, Time
from paddock.cloud.models import Image

router = Router(tags=["ISOs"])
SORTABLE = {"id": "id", "name": "name"}
ARCHITECTURES = ("x86", "arm")


class IsoReply(Reply):
    """An ISO."""

    id: int
    name: str | None
    description: str
    type: str
    deprecation: Deprecation | None = None
    architecture: str | None = "x86"
    x_state: str
    x_progress: int
    x_problem: str | None
    x_sha256: str | None
    x_created: Time


class OneIso(Reply):
    iso: IsoReply


class ManyIsos(Reply):
    isos: list[IsoReply]
    meta: Meta


def shown(iso: Image) -> IsoReply:
    """An ISO as it goes out."""
    return IsoReply(
        id=iso.pk,
        name=iso.name or None,
        description=iso.description,
        type="public" if iso.project_id is None else "private",
        x_state=iso.state,
        x_progress=iso.percent,
        x_problem=iso.problem or None,
        x_sha256=iso.sha256 or None,
        x_created=iso.created,
    )


def visible(request: HttpRequest) -> "QuerySet[Image]":
    """The project's own ISOs, and those that all share."""
    own = Q(project=project(request)) | Q(project=None)
    return Image.objects.filter(own, type="iso", delete_requested=False, deleted=None)


QUERY = described(SORTABLE, "name", "include_architecture_wildcard", architecture=ARCHITECTURES)


@router.get("/isos", response=ManyIsos, openapi_extra=QUERY)
def list_isos(request: HttpRequest) -> ManyIsos:
    """All ISOs that the project may use."""
    rows = visible(request)
    flag(request, "include_architecture_wildcard")  # ours all name theirs
    if (wanted := many(request, "architecture", ARCHITECTURES)) and "x86" not in wanted:
        rows = rows.none()
    found, meta = page(request, rows, SORTABLE)
    return ManyIsos(isos=[shown(i) for i in found], meta=meta)


@router.get("/isos/{int:id}", response=OneIso)
def show_iso(request: HttpRequest, id: int) -> OneIso:
    """One ISO."""
    return OneIso(iso=shown(get(visible(request), "ISO", id)))
