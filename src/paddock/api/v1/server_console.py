"""A server's screen, for a browser: an address that opens once."""

from django.http import HttpRequest
from ninja import Router, Status

from paddock.api.auth import correlation
from paddock.api.v1 import actions
from paddock.api.v1.actions import OneAction
from paddock.api.v1.server_power import ON_SERVER
from paddock.api.v1.server_reply import own_server
from paddock.api.x import console
from paddock.base.errors import Unsupported
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.models import Server
from paddock.cloud.nodes import hypervisor

router = Router(tags=["server actions"])


def _check_screen(server: Server) -> None:
    if server.node is not None and not hypervisor(server.node).machines.capabilities().vnc:
        raise Unsupported(f"node {server.node.name} can't show screens", hint="the serial console may be enough")


class ConsoleAction(OneAction):
    """Where the server's screen is: a WebSocket that speaks RFB, open once and for a minute."""

    wss_url: str
    password: str


@router.post(f"{ON_SERVER}/request_console", response={201: ConsoleAction})
def request_console(request: HttpRequest, id: int) -> Status[ConsoleAction]:
    """Open a way to its screen, for one viewer and a minute."""
    server = own_server(request, id)
    _check_screen(server)
    action = wishes.console(server, correlation(request))
    secret, password = console.new_session(server)
    url = console.address(request, secret)
    return Status(201, ConsoleAction(action=actions.shown(action), wss_url=url, password=password))
