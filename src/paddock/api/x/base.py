"""The base configuration of servers, for everybody to read: their user data lies over it."""

from django.http import HttpRequest
from ninja import Router

from paddock.api.admin import base

router = Router(tags=["x: base configuration"])


@router.get("/base", response=base.OneBase)
def read_base(request: HttpRequest) -> base.OneBase:
    """What servers that are made or rebuilt from now on get beneath their own user data."""
    return base.shown()
