"""A project's own ISOs: fetched from an address or uploaded, for the CD drive of its servers."""

from typing import Annotated

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from ninja import Router, Status
from pydantic import Field

from paddock.api.auth import correlation, project
from paddock.api.errors import ApiError
from paddock.api.paging import get, page
from paddock.api.v1 import actions, isos
from paddock.api.v1.common import Body, Line, Reply
from paddock.api.v1.images import Name
from paddock.api.x.images import Sha256, Url, announce
from paddock.cloud.flows import image as flow
from paddock.cloud.flows import quota
from paddock.cloud.models import Image

router = Router(tags=["x: ISOs"])


class CreateIso(Body):
    """An ISO that is fetched from `url`; without one it will be uploaded."""

    name: Name
    description: Annotated[Line, Field(max_length=200)] = ""
    url: Url = ""
    sha256: Sha256 = ""


class NewIso(Reply):
    """A new ISO, and the action that fetches it if it has an address."""

    iso: isos.IsoReply
    action: actions.ActionReply | None


@router.get("/isos", response=isos.ManyIsos)
def list_own_isos(request: HttpRequest) -> isos.ManyIsos:
    """The project's own ISOs; /v1/isos lists those that all share too."""
    found, meta = page(request, isos.visible(request).filter(project=project(request)), isos.SORTABLE)
    return isos.ManyIsos(isos=[isos.shown(i) for i in found], meta=meta)


@router.post("/isos", response={201: NewIso})
def create_iso(request: HttpRequest, body: CreateIso) -> Status[NewIso]:
    """Announce an ISO. It is fetched from `url`, or is then sent to /x/v1/isos/{id}/content."""
    iso = Image(
        project=project(request),
        name=body.name,
        description=body.description,
        expected_sha256=body.sha256.lower(),
        url=body.url,
        type="iso",
        step="rest",
        next_at=None,
    )
    with transaction.atomic():
        quota.check(project(request), snapshots=1)  # which counts whatever is the project's own in the store
        action = announce(request, iso)
    return Status(201, NewIso(iso=isos.shown(iso), action=actions.shown(action) if action else None))


@router.get("/isos/{int:id}", response=isos.OneIso)
def show_own_iso(request: HttpRequest, id: int) -> isos.OneIso:
    """One ISO."""
    return isos.OneIso(iso=isos.shown(get(isos.visible(request), "ISO", id)))


@router.delete("/isos/{int:id}", response={204: None})
def delete_iso(request: HttpRequest, id: int) -> HttpResponse:
    """Delete an ISO of the project. Refused while it is in a server's drive."""
    iso: Image = get(isos.visible(request), "ISO", id)
    if iso.project_id is None:
        raise ApiError(423, "protected", f"ISO {iso.name} is everybody's and can't be deleted")
    flow.delete(iso, correlation(request))
    return HttpResponse(status=204)
