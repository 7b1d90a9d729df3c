"""Server types: the plans."""

from collections.abc import Iterable

from django.http import HttpRequest
from ninja import Router

from paddock.api.paging import Meta, described, get, page
from paddock.api.v1.common import Datacenter, Deprecation, Location, Reply, Supported
from paddock.base import clock
from paddock.cloud.models import ServerType

router = Router(tags=["server types"])
SORTABLE = {"id": "id", "name": "name"}


class Amount(Reply):
    """A price in EUR, exact, as text."""

    net: str
    gross: str


class Price(Reply):
    """What it costs in a location."""

    location: str
    price_hourly: Amount
    price_monthly: Amount
    included_traffic: int = 0
    price_per_tb_traffic: Amount = Amount(net="0.0000", gross="0.0000")


class AtLocation(Reply):
    """Whether a location has it."""

    id: int
    name: str
    deprecation: Deprecation | None = None
    recommended: bool = True
    available: bool = True


class ServerTypeReply(Reply):
    """A server type; memory and disk in GB."""

    id: int
    name: str
    description: str
    cores: int
    memory: float
    disk: int
    deprecated: bool
    prices: list[Price]
    storage_type: str = "local"
    cpu_type: str = "shared"
    category: str = "Shared vCPU"
    architecture: str = "x86"
    deprecation: Deprecation | None
    locations: list[AtLocation]
    x_huge_pages: bool
    x_nested: bool


class OneServerType(Reply):
    server_type: ServerTypeReply


class ManyServerTypes(Reply):
    server_types: list[ServerTypeReply]
    meta: Meta


def shown(plan: ServerType) -> ServerTypeReply:
    """A server type as it goes out."""
    here = Location()
    end = Deprecation(announced=plan.deprecated, unavailable_after=plan.deprecated) if plan.deprecated else None
    return ServerTypeReply(
        id=plan.pk,
        name=plan.name,
        description=plan.description,
        cores=plan.cores,
        memory=plan.memory_mib / 1024,
        disk=plan.disk_gib,
        deprecated=end is not None,
        prices=[price(plan)],
        deprecation=end,
        cpu_type="dedicated" if plan.dedicated_cpus else "shared",
        category="Dedicated vCPU" if plan.dedicated_cpus else "Shared vCPU",
        x_huge_pages=plan.huge_pages,
        x_nested=plan.nested,
        locations=[AtLocation(id=here.id, name=here.name, deprecation=end, available=not is_over(plan))],
    )


def is_over(plan: ServerType) -> bool:
    """Whether no new servers of it are made any more."""
    return plan.deprecated is not None and plan.deprecated <= clock.now()


def datacenter(plans: Iterable[ServerType]) -> Datacenter:
    """The one there is, which has all server types; those that are over only for whoever has one."""
    found = sorted(plans, key=lambda plan: plan.pk)
    ids, now = [plan.pk for plan in found], [plan.pk for plan in found if not is_over(plan)]
    return Datacenter(server_types=Supported(supported=ids, available=now, available_for_migration=now))


def price(plan: ServerType) -> Price:
    """What a server type costs."""
    hourly, monthly = f"{plan.price_hourly:.4f}", f"{plan.price_monthly:.4f}"
    return Price(
        location=Location().name,
        price_hourly=Amount(net=hourly, gross=hourly),
        price_monthly=Amount(net=monthly, gross=monthly),
    )


@router.get("/server_types", response=ManyServerTypes, openapi_extra=described(SORTABLE, "name"))
def list_server_types(request: HttpRequest) -> ManyServerTypes:
    """All server types."""
    found, meta = page(request, ServerType.objects.all(), SORTABLE)
    return ManyServerTypes(server_types=[shown(t) for t in found], meta=meta)


@router.get("/server_types/{int:id}", response=OneServerType)
def show_server_type(request: HttpRequest, id: int) -> OneServerType:
    """One server type."""
    return OneServerType(server_type=shown(get(ServerType.objects.all(), "server type", id)))
