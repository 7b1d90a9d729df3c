"""Locations and datacenters: one of each on one machine."""

from django.http import HttpRequest
from ninja import Router

from paddock.api.errors import missing
from paddock.api.paging import NAMED, Meta, described, page_of
from paddock.api.v1.common import Datacenter, Location, Reply
from paddock.api.v1.server_types import datacenter
from paddock.cloud.models import ServerType

router = Router(tags=["locations"])


class OneLocation(Reply):
    location: Location


class ManyLocations(Reply):
    locations: list[Location]
    meta: Meta


class OneDatacenter(Reply):
    datacenter: Datacenter


class ManyDatacenters(Reply):
    datacenters: list[Datacenter]
    recommendation: int = 1
    meta: Meta


@router.get("/locations", response=ManyLocations, openapi_extra=described(NAMED, "name"))
def list_locations(request: HttpRequest) -> ManyLocations:
    """All locations."""
    found, meta = page_of(request, [Location()])
    return ManyLocations(locations=list(found), meta=meta)


@router.get("/locations/{int:id}", response=OneLocation)
def show_location(request: HttpRequest, id: int) -> OneLocation:
    """One location."""
    if id != Location().id:
        raise missing(f"location with ID '{id}'")
    return OneLocation(location=Location())


@router.get("/datacenters", response=ManyDatacenters, openapi_extra=described(NAMED, "name"))
def list_datacenters(request: HttpRequest) -> ManyDatacenters:
    """All datacenters."""
    found, meta = page_of(request, [_datacenter()])
    return ManyDatacenters(datacenters=list(found), meta=meta)


@router.get("/datacenters/{int:id}", response=OneDatacenter)
def show_datacenter(request: HttpRequest, id: int) -> OneDatacenter:
    """One datacenter."""
    here = _datacenter()
    if id != here.id:
        raise missing(f"datacenter with ID '{id}'")
    return OneDatacenter(datacenter=here)


def _datacenter() -> Datacenter:
    return datacenter(ServerType.objects.all())
