"""Names alone, for what completes them: a shell's Tab key must not wait for all that there is to be told of them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from django.http import HttpRequest
from ninja import Router

from paddock.api.auth import project
from paddock.api.v1 import images, isos, placement_groups, server_reply, volumes
from paddock.api.v1.common import Reply
from paddock.cloud.flows import origin
from paddock.cloud.models import ServerType, SSHKey

if TYPE_CHECKING:
    from django.db.models import QuerySet

router = Router(tags=["x: names"])

MOST = 10_000  # of one answer
Collection = Literal["servers", "images", "isos", "volumes", "server_types", "placement_groups", "ssh_keys"]


class Names(Reply):
    names: list[str]


def _images(request: HttpRequest) -> "QuerySet[Any]":
    return images.visible(request).exclude(catalogue=True, name__in=origin.old_names())


ROWS: dict[Collection, Callable[[HttpRequest], "QuerySet[Any]"]] = {
    "servers": server_reply.visible,
    "images": _images,
    "isos": isos.visible,
    "volumes": volumes.visible,
    "server_types": lambda _request: ServerType.objects.all(),
    "placement_groups": placement_groups.visible,
    "ssh_keys": lambda request: SSHKey.objects.filter(project=project(request)),
}


@router.get("/names", response=Names)
def list_names(request: HttpRequest, of: Collection, prefix: str = "") -> Names:
    """The names in a collection that begin with `prefix`, sorted: at most 10,000 of them."""
    rows = ROWS[of](request).prefetch_related(None).filter(name__startswith=prefix).exclude(name="")
    return Names(names=list(rows.order_by("name").values_list("name", flat=True).distinct()[:MOST]))
