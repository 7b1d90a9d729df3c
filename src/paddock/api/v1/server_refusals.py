"""What is asked of servers and can't be had yet: backups by schedule, names of addresses, networks.

The request is checked as if it could be, and refused with the reason: never a pretended success.
"""

from typing import NoReturn

from django.http import HttpRequest
from ninja import Router

from paddock.api.errors import ApiError
from paddock.api.v1 import server_body
from paddock.api.v1.common import ErrorReply
from paddock.api.v1.later import NETWORKS
from paddock.api.v1.server_power import ON_SERVER
from paddock.api.v1.server_reply import own_server

router = Router(tags=["server actions"])
NO_BACKUPS = "this cloud makes no backups by schedule yet; take a snapshot"
NO_ADDRESS = f"the server has no public address whose name could be changed: {NETWORKS}"
REFUSED = {
    "enable_backup": NO_BACKUPS,
    "disable_backup": NO_BACKUPS,
    "change_dns_ptr": NO_ADDRESS,
    "attach_to_network": NETWORKS,
    "detach_from_network": NETWORKS,
    "change_alias_ips": NETWORKS,
}


def _refuse(request: HttpRequest, id: int, command: str) -> NoReturn:
    """Raises ApiError: 404 for a server that is not there, else 422."""
    own_server(request, id)
    raise ApiError(422, "unsupported_error", f"{command} is not supported here: {REFUSED[command]}")


@router.post(f"{ON_SERVER}/enable_backup", response={422: ErrorReply})
def enable_backup(request: HttpRequest, id: int) -> None:
    """Refused: backups by schedule come later."""
    _refuse(request, id, "enable_backup")


@router.post(f"{ON_SERVER}/disable_backup", response={422: ErrorReply})
def disable_backup(request: HttpRequest, id: int) -> None:
    """Refused: backups by schedule come later."""
    _refuse(request, id, "disable_backup")


@router.post(f"{ON_SERVER}/change_dns_ptr", response={422: ErrorReply})
def change_dns_ptr(request: HttpRequest, id: int, body: server_body.DnsPtr) -> None:
    """Refused: servers have no public addresses yet."""
    _refuse(request, id, "change_dns_ptr")


@router.post(f"{ON_SERVER}/attach_to_network", response={422: ErrorReply})
def attach_to_network(request: HttpRequest, id: int, body: server_body.AttachNetwork) -> None:
    """Refused: networks come later."""
    _refuse(request, id, "attach_to_network")


@router.post(f"{ON_SERVER}/detach_from_network", response={422: ErrorReply})
def detach_from_network(request: HttpRequest, id: int, body: server_body.Network) -> None:
    """Refused: networks come later."""
    _refuse(request, id, "detach_from_network")


@router.post(f"{ON_SERVER}/change_alias_ips", response={422: ErrorReply})
def change_alias_ips(request: HttpRequest, id: int, body: server_body.AliasIps) -> None:
    """Refused: networks come later."""
    _refuse(request, id, "change_alias_ips")
