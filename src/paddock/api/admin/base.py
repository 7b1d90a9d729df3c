"""The base configuration of servers, for operators: read, replaced, and put back to the default."""

from typing import Annotated

from django.http import HttpRequest
from ninja import Router
from pydantic import Field

from paddock.api.v1.common import Body, Reply, Time
from paddock.cloud import base_config

router = Router(tags=["admin: base configuration"])


class BaseReply(Reply):
    """What servers that are made or rebuilt from now on get beneath their own user data: a cloud-config."""

    text: str
    default: bool
    changed: Time | None


class OneBase(Reply):
    base: BaseReply


class SetBase(Body):
    """A cloud-config of at most 32 KiB."""

    text: Annotated[str, Field(max_length=2**20)]


def shown() -> OneBase:
    """As it is in force now."""
    text, changed = base_config.current()
    return OneBase(base=BaseReply(text=text, default=changed is None, changed=changed))


@router.get("/base", response=OneBase)
def show_base(request: HttpRequest) -> OneBase:
    """The base configuration."""
    return shown()


@router.put("/base", response=OneBase)
def replace_base(request: HttpRequest, body: SetBase) -> OneBase:
    """Put another in its place. Servers that are there keep what they have until they are rebuilt."""
    base_config.replace(body.text)
    return shown()


@router.delete("/base", response=OneBase)
def reset_base(request: HttpRequest) -> OneBase:
    """Go back to the default, which is answered."""
    base_config.reset()
    return shown()
