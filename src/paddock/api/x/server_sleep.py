"""Servers that stand still, and go on where they were."""

from django.http import HttpRequest
from ninja import Router, Status

from paddock.api.auth import correlation
from paddock.api.v1 import actions
from paddock.api.v1.actions import OneAction
from paddock.api.v1.server_power import ON_SERVER
from paddock.api.v1.server_reply import own_server
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.models import Action

router = Router(tags=["x: servers"])


def _begun(action: Action) -> Status[OneAction]:
    return Status(201, actions.asked(action))


@router.post(f"{ON_SERVER}/pause", response={201: OneAction})
def pause_server(request: HttpRequest, id: int) -> Status[OneAction]:
    """Have its CPUs stand still. Its memory and its place stay."""
    return _begun(wishes.pause(own_server(request, id), correlation(request)))


@router.post(f"{ON_SERVER}/resume", response={201: OneAction})
def resume_server(request: HttpRequest, id: int) -> Status[OneAction]:
    """Have the CPUs of a paused server go on."""
    return _begun(wishes.resume(own_server(request, id), correlation(request)))


@router.post(f"{ON_SERVER}/hibernate", response={201: OneAction})
def hibernate_server(request: HttpRequest, id: int) -> Status[OneAction]:
    """Write its memory to a file of its node, and end it. A start goes on from there; a power off drops it."""
    return _begun(wishes.hibernate(own_server(request, id), correlation(request)))


@router.post(f"{ON_SERVER}/wake", response={201: OneAction})
def wake_server(request: HttpRequest, id: int) -> Status[OneAction]:
    """Have a hibernated server go on where it was. When its memory can't be used, it starts anew and x_problem says
    why."""
    return _begun(wishes.wake(own_server(request, id), correlation(request)))
