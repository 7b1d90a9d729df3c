"""A server's power: on, off, and the ways in between."""

from django.http import HttpRequest
from ninja import Router, Status

from paddock.api.auth import correlation
from paddock.api.v1 import actions
from paddock.api.v1.actions import OneAction
from paddock.api.v1.server_reply import own_server
from paddock.cloud.flows import server as flow

router = Router(tags=["server actions"])
ON_SERVER = "/servers/{int:id}/actions"


def _power(request: HttpRequest, id: int, command: str) -> Status[OneAction]:
    return Status(201, actions.asked(flow.ask(own_server(request, id), command, correlation(request))))


@router.post(f"{ON_SERVER}/poweron", response={201: OneAction})
def poweron(request: HttpRequest, id: int) -> Status[OneAction]:
    """Start it."""
    return _power(request, id, "start_server")


@router.post(f"{ON_SERVER}/poweroff", response={201: OneAction})
def poweroff(request: HttpRequest, id: int) -> Status[OneAction]:
    """Stop it at once, like pulling the plug."""
    return _power(request, id, "stop_server")


@router.post(f"{ON_SERVER}/shutdown", response={201: OneAction})
def shutdown(request: HttpRequest, id: int) -> Status[OneAction]:
    """Ask the guest to shut down; fails after 90 seconds if it does not."""
    return _power(request, id, "shutdown_server")


@router.post(f"{ON_SERVER}/reboot", response={201: OneAction})
def reboot(request: HttpRequest, id: int) -> Status[OneAction]:
    """Ask the guest to reboot."""
    return _power(request, id, "reboot_server")


@router.post(f"{ON_SERVER}/reset", response={201: OneAction})
def reset(request: HttpRequest, id: int) -> Status[OneAction]:
    """Press the reset button. In the rescue system: that was booted once, and its own disk is what is booted now."""
    return _power(request, id, "reset_server")
