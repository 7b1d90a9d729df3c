"""Images made of servers, to make other servers of: cleaned of what two servers must not share."""

from typing import Annotated

from django.db import IntegrityError, transaction
from django.http import HttpRequest
from ninja import Router, Status
from pydantic import Field

from paddock.api.auth import correlation
from paddock.api.errors import uniqueness
from paddock.api.v1 import actions, images
from paddock.api.v1.common import Body, Labels, Line
from paddock.api.v1.server_actions import ImageAction
from paddock.api.v1.server_power import ON_SERVER
from paddock.api.v1.server_reply import own_server
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.models import Image
from paddock.machine.cleaning import Trace

router = Router(tags=["x: images"])


class MakeImage(Body):
    """`keep`: what the servers made of it shall share after all."""

    name: images.Name
    description: Annotated[Line, Field(max_length=200)] = ""
    labels: Labels = {}
    keep: Annotated[list[Annotated[Trace, Field(strict=False)]], Field(max_length=len(Trace))] = []


@router.post(f"{ON_SERVER}/create_image", response={201: ImageAction})
def make_image(request: HttpRequest, id: int, body: MakeImage) -> Status[ImageAction]:
    """Make an image of a server's system disk as it is now, for other servers: host keys, machine id, leases, keys and
    passwords of those who log in, cloud-init's state, logs and histories are removed from the copy, in a helper guest
    without a network. It fails, and says what, where something is left of that. The server may run."""
    server = own_server(request, id)
    if Image.objects.filter(project=None, name=body.name, deleted=None).exists():
        raise uniqueness("name")
    template = wishes.Template(body.name, tuple(dict.fromkeys(body.keep)))
    text = body.description or f"made of server {server.name}"
    try:
        with transaction.atomic():
            image, action = wishes.create_image(server, text[:200], body.labels, correlation(request), template)
    except IntegrityError as e:
        raise uniqueness("name") from e
    return Status(201, ImageAction(image=images.shown(image), action=actions.shown(action)))
