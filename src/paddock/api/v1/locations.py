"""Locations and datacenters: one of each on one machine."""

from django.http import HttpRequest
from ninja import Router, Schema

from paddock.api.paging import Meta, Pagination, missing
from paddock.api.v1.common import Datacenter, Location, Supported
from paddock.cloud.models import ServerType

router = Router(tags=["locations"])
ALL = Meta(pagination=Pagination(page=1, per_page=25, previous_page=None, next_page=None, last_page=1, total_entries=1))


class OneLocation(Schema):
    location: Location


class ManyLocations(Schema):
    locations: list[Location]
    meta: Meta


class OneDatacenter(Schema):
    datacenter: Datacenter


class ManyDatacenters(Schema):
    datacenters: list[Datacenter]
    recommendation: int = 1
    meta: Meta


@router.get("/locations", response=ManyLocations)
def list_locations(request: HttpRequest) -> ManyLocations:
    """All locations."""
    wanted = request.GET.get("name")
    found = [Location()] if wanted in (None, Location().name) else []
    return ManyLocations(locations=found, meta=ALL)


@router.get("/locations/{int:id}", response=OneLocation)
def show_location(request: HttpRequest, id: int) -> OneLocation:
    """One location."""
    if id != 1:
        raise missing(f"location with ID '{id}'")
    return OneLocation(location=Location())


@router.get("/datacenters", response=ManyDatacenters)
def list_datacenters(request: HttpRequest) -> ManyDatacenters:
    """All datacenters."""
    wanted = request.GET.get("name")
    found = [_datacenter()] if wanted in (None, Datacenter().name) else []
    return ManyDatacenters(datacenters=found, meta=ALL)


@router.get("/datacenters/{int:id}", response=OneDatacenter)
def show_datacenter(request: HttpRequest, id: int) -> OneDatacenter:
    """One datacenter."""
    if id != 1:
        raise missing(f"datacenter with ID '{id}'")
    return OneDatacenter(datacenter=_datacenter())


def _datacenter() -> Datacenter:
    types = list(ServerType.objects.order_by("id").values_list("id", flat=True))
    return Datacenter(server_types=Supported(supported=types, available=types, available_for_migration=types))
