"""What things cost: server types have prices; volumes, images and addresses are free of charge here."""

from typing import Any

from django.http import HttpRequest
from ninja import Router

from paddock.api.v1.common import Reply
from paddock.api.v1.server_types import Amount, Price, price
from paddock.cloud.models import ServerType

router = Router(tags=["pricing"])
FREE = Amount(net="0.0000", gross="0.0000")


class PerGb(Reply):
    """A price per GB and month."""

    price_per_gb_month: Amount = FREE


class PerMonth(Reply):
    """A price per month."""

    price_monthly: Amount = FREE


class Backup(Reply):
    """What backups add to a server's price."""

    percentage: str = "0.00"


class PlanPrices(Reply):
    """What a server type costs, by location."""

    id: int
    name: str
    prices: list[Price]


class Pricing(Reply):
    """All prices."""

    currency: str = "EUR"
    vat_rate: str = "0.00"
    image: PerGb = PerGb()
    volume: PerGb = PerGb()
    floating_ip: PerMonth = PerMonth()
    floating_ips: tuple[Any, ...] = ()
    primary_ips: tuple[Any, ...] = ()
    load_balancer_types: tuple[Any, ...] = ()
    server_backup: Backup = Backup()
    server_types: list[PlanPrices]


class OnePricing(Reply):
    pricing: Pricing


@router.get("/pricing", response=OnePricing)
def show_pricing(request: HttpRequest) -> OnePricing:
    """All prices."""
    plans = ServerType.objects.order_by("id")
    return OnePricing(
        pricing=Pricing(server_types=[PlanPrices(id=p.pk, name=p.name, prices=[price(p)]) for p in plans])
    )
