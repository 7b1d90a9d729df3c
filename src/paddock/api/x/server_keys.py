"""Keys of a server's keyboard, for what its screen asks: Ctrl-Alt-Delete, a boot menu, an installer."""

from typing import Annotated

from django.http import HttpRequest
from ninja import Router
from pydantic import Field

from paddock.api.errors import invalid
from paddock.api.v1.common import Body, Reply
from paddock.api.v1.server_reply import own_server
from paddock.base.errors import Conflict
from paddock.cloud.nodes import hypervisor
from paddock.machine.keys import MAX_CHORDS, chord, typed

router = Router(tags=["x: servers"])


class Keys(Body):
    """What to press: chords like `ctrl-alt-delete`, one after the other, and then a text, as a US keyboard types it."""

    keys: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=MAX_CHORDS)] = []
    text: Annotated[str, Field(max_length=MAX_CHORDS)] = ""


class Pressed(Reply):
    pressed: int


@router.post("/servers/{int:id}/keys", response=Pressed)
def press_keys(request: HttpRequest, id: int, body: Keys) -> Pressed:
    """Press keys of a running server's keyboard; 128 at most. The answer comes when the last is pressed."""
    server = own_server(request, id)
    chords = (*(chord(text) for text in body.keys), *typed(body.text))
    if not 0 < len(chords) <= MAX_CHORDS:
        raise invalid("keys", f"name 1 to {MAX_CHORDS} keys to press, with those of the text")
    if server.node is None:
        raise Conflict(f"server {server.name} has no node yet")
    hypervisor(server.node).streams.send_keys(server.uuid, chords)
    return Pressed(pressed=len(chords))
