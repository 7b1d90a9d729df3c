"""Server types, for operators: plans with their size and price."""

from decimal import Decimal
from typing import Annotated

from django.db import IntegrityError, transaction
from django.db.models import Count, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from ninja import Router, Status
from pydantic import Field, StrictBool

from paddock.api.errors import ApiError, uniqueness
from paddock.api.paging import Meta, get, page
from paddock.api.v1.common import Body, Line, Reply, Time
from paddock.cloud.models import ServerType

router = Router(tags=["admin: server types"])
SORTABLE = {"id": "id", "name": "name"}
HOURS_PER_MONTH = 730

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
About = Annotated[Line, Field(max_length=200)]
Cores = Annotated[int, Field(ge=1, le=512)]
MemoryMib = Annotated[int, Field(ge=32, le=2**24)]
DiskGib = Annotated[int, Field(ge=1, le=2**20)]
Price = Annotated[str, Field(pattern=r"^[0-9]{1,8}(\.[0-9]{1,4})?$", description="EUR, an exact decimal as text")]


class PlanReply(Reply):
    """A server type; prices in EUR as text. `servers` is how many servers have it."""

    id: int
    name: str
    description: str
    cores: int
    memory_mib: int
    disk_gib: int
    price_hourly: str
    price_monthly: str
    dedicated_cpus: bool
    huge_pages: bool
    nested: bool
    deprecated: Time | None
    servers: int


class OnePlan(Reply):
    server_type: PlanReply


class ManyPlans(Reply):
    server_types: list[PlanReply]
    meta: Meta


class CreatePlan(Body):
    """Without a monthly price, a month costs 730 hours. `dedicated_cpus`: each CPU has one of the host's for itself;
    `huge_pages`: so is its memory; `nested`: its servers may run virtual machines. Nodes that have none hold none."""

    name: Name
    description: About = ""
    cores: Cores
    memory_mib: MemoryMib
    disk_gib: DiskGib
    price_hourly: Price = "0"
    price_monthly: Price | None = None
    dedicated_cpus: StrictBool = False
    huge_pages: StrictBool = False
    nested: StrictBool = False


class ChangePlan(Body):
    """Servers that have it keep the size they have, and get the rest with their next start. A deprecated one is for no
    new servers."""

    name: Name | None = None
    description: About | None = None
    cores: Cores | None = None
    memory_mib: MemoryMib | None = None
    disk_gib: DiskGib | None = None
    price_hourly: Price | None = None
    price_monthly: Price | None = None
    dedicated_cpus: StrictBool | None = None
    huge_pages: StrictBool | None = None
    nested: StrictBool | None = None
    deprecated: bool | None = None


def rows() -> "QuerySet[ServerType]":
    """All server types with the number of their servers."""
    return ServerType.objects.annotate(servers=Count("server"))


def shown(id: int) -> OnePlan:
    """A server type as it is in the database."""
    return OnePlan(server_type=_reply(rows().get(pk=id)))


@router.get("/server_types", response=ManyPlans)
def list_plans(request: HttpRequest) -> ManyPlans:
    """All server types."""
    found, meta = page(request, rows(), SORTABLE)
    return ManyPlans(server_types=[_reply(p) for p in found], meta=meta)


@router.post("/server_types", response={201: OnePlan})
def create_plan(request: HttpRequest, body: CreatePlan) -> Status[OnePlan]:
    """Add a server type."""
    given = body.model_dump()
    given["price_monthly"] = body.price_monthly or Decimal(body.price_hourly) * HOURS_PER_MONTH
    return Status(201, shown(_saved(ServerType(**given)).pk))


@router.get("/server_types/{int:id}", response=OnePlan)
def show_plan(request: HttpRequest, id: int) -> OnePlan:
    """One server type."""
    return OnePlan(server_type=_reply(get(rows(), "server type", id)))


@router.put("/server_types/{int:id}", response=OnePlan)
def change_plan(request: HttpRequest, id: int, body: ChangePlan) -> OnePlan:
    """Change a server type, for servers made from now on."""
    plan: ServerType = get(ServerType.objects.all(), "server type", id)
    given = body.model_dump(exclude_none=True, exclude={"deprecated"})
    if body.deprecated is not None and body.deprecated != bool(plan.deprecated):
        given["deprecated"] = Now() if body.deprecated else None
    for column, value in given.items():
        setattr(plan, column, value)
    _saved(plan, *given)
    return shown(plan.pk)


@router.delete("/server_types/{int:id}", response={204: None})
def delete_plan(request: HttpRequest, id: int) -> HttpResponse:
    """Delete a server type. Refused while servers have it: deprecate it then."""
    with transaction.atomic():
        plan: ServerType = get(ServerType.objects.select_for_update(), "server type", id)
        if used := plan.server_set.count():
            message = f"server type {plan.name} is that of {used} server{'s' * (used > 1)}: deprecate it instead"
            raise ApiError(422, "resource_in_use", message)
        plan.delete()
    return HttpResponse(status=204)


def _reply(plan: "ServerType") -> PlanReply:
    return PlanReply(
        id=plan.pk,
        name=plan.name,
        description=plan.description,
        cores=plan.cores,
        memory_mib=plan.memory_mib,
        disk_gib=plan.disk_gib,
        price_hourly=f"{plan.price_hourly:.4f}",
        price_monthly=f"{plan.price_monthly:.4f}",
        dedicated_cpus=plan.dedicated_cpus,
        huge_pages=plan.huge_pages,
        nested=plan.nested,
        deprecated=plan.deprecated,
        servers=getattr(plan, "servers", 0),
    )


def _saved(plan: ServerType, *columns: str) -> ServerType:
    try:
        with transaction.atomic():
            plan.save(update_fields=columns if plan.pk else None)
    except IntegrityError as e:
        raise uniqueness("name") from e
    return plan
