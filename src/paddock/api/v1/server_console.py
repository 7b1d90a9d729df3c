"""A server's screen, for a browser: an address that opens once."""

from django.http import HttpRequest
from ninja import Router, Status

from paddock.api.auth import correlation
from paddock.api.v1 import actions
from paddock.api.v1.actions import OneAction
from paddock.api.v1.server_power import ON_SERVER
from paddock.api.v1.server_reply import own_server
from paddock.api.x import console
from paddock.cloud.flows import server_wishes as wishes

router = Router(tags=["server actions"])


class ConsoleAction(OneAction):
    """Where the server's screen is: a WebSocket that speaks RFB, open once and for a minute."""

    wss_url: str
    password: str


@router.post(f"{ON_SERVER}/request_console", response={201: ConsoleAction})
def request_console(request: HttpRequest, id: int) -> Status[ConsoleAction]:
    """Open a way to its screen, for one viewer and a minute."""
    server = own_server(request, id)
    action = wishes.console(server, correlation(request))
    secret, password = console.new_session(server)
    url = console.address(request, secret)
    return Status(201, ConsoleAction(action=actions.shown(action), wss_url=url, password=password))
