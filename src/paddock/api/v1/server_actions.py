"""What can be asked of a server that is there, besides power. Each answers with an action that tells the rest."""

from django.http import HttpRequest
from ninja import Router, Status

from paddock.api.auth import correlation
from paddock.api.errors import ApiError
from paddock.api.passwords import new_root_password
from paddock.api.v1 import actions, images, server_body, ssh_keys
from paddock.api.v1.actions import OneAction
from paddock.api.v1.server_lookup import group_of, image_of, iso_of, plan_of
from paddock.api.v1.server_power import ON_SERVER
from paddock.api.v1.server_refusals import NO_BACKUPS
from paddock.api.v1.server_reply import own_server
from paddock.base import clock
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.models import Action

router = Router(tags=["server actions"])


class PasswordAction(OneAction):
    """An action, and the password that root has once it has succeeded. Null where a key opens the server."""

    root_password: str | None


class ImageAction(OneAction):
    image: images.ImageReply


def _begun(action: Action) -> Status[OneAction]:
    return Status(201, actions.asked(action))


def _with_password(action: Action, password: str | None) -> Status[PasswordAction]:
    return Status(201, PasswordAction(action=actions.shown(action), root_password=password))


# What it is


@router.post(f"{ON_SERVER}/reset_password", response={201: PasswordAction})
def reset_password(
    request: HttpRequest, id: int, body: server_body.ResetPassword | None = None
) -> Status[PasswordAction]:
    """Give root a new password in the running guest, by its guest agent. With `x_offline`, on the disk of a server that
    is off, in a helper guest without a network."""
    server, offline = own_server(request, id), body is not None and body.x_offline
    password, password_hash = new_root_password()
    return _with_password(wishes.reset_password(server, password_hash, correlation(request), offline=offline), password)


@router.post(f"{ON_SERVER}/rebuild", response={201: PasswordAction})
def rebuild(request: HttpRequest, id: int, body: server_body.Rebuild) -> Status[PasswordAction]:
    """Make its system disk anew from an image: all on it is lost. Name, address and volumes stay."""
    server, image = own_server(request, id), image_of(request, body.image)
    password, password_hash = (None, "") if server.public_keys else new_root_password()
    action = wishes.rebuild(server, image, body.user_data, password_hash, correlation(request))
    return _with_password(action, password)


@router.post(f"{ON_SERVER}/change_type", response={201: OneAction})
def change_type(request: HttpRequest, id: int, body: server_body.ChangeType) -> Status[OneAction]:
    """Give it another server type while it is off. With `x_live`, CPUs and memory are added while it runs."""
    server, plan = own_server(request, id), plan_of(body.server_type)
    return _begun(wishes.change_type(server, plan, body.upgrade_disk, body.x_live, correlation(request)))


@router.post(f"{ON_SERVER}/create_image", response={201: ImageAction})
def create_image(request: HttpRequest, id: int, body: server_body.Snapshot | None = None) -> Status[ImageAction]:
    """Take a snapshot of its system disk as it is at one moment, also while it runs."""
    server, wanted = own_server(request, id), body or server_body.Snapshot()
    if wanted.type == "backup":
        raise ApiError(422, "unsupported_error", f"image type 'backup' can't be had: {NO_BACKUPS}")
    text = wanted.description or f"{server.name} {clock.now():%Y-%m-%d %H:%M:%S}"
    image, action = wishes.create_image(server, text[:200], wanted.labels, correlation(request))
    return Status(201, ImageAction(image=images.shown(image), action=actions.shown(action)))


@router.post(f"{ON_SERVER}/change_protection", response={201: OneAction})
def change_protection(
    request: HttpRequest, id: int, body: server_body.ProtectServer | None = None
) -> Status[OneAction]:
    """Protect it against being deleted or rebuilt, or no longer. What is left out stays as it was."""
    server, wanted = own_server(request, id), body or server_body.ProtectServer()
    return _begun(wishes.protect(server, wanted.delete, wanted.rebuild, correlation(request)))


@router.post(f"{ON_SERVER}/add_to_placement_group", response={201: OneAction})
def add_to_placement_group(request: HttpRequest, id: int, body: server_body.JoinGroup) -> Status[OneAction]:
    """Put it, while it is off, into a placement group."""
    server, group = own_server(request, id), group_of(request, body.placement_group)
    return _begun(wishes.join_group(server, group, correlation(request)))


@router.post(f"{ON_SERVER}/remove_from_placement_group", response={201: OneAction})
def remove_from_placement_group(request: HttpRequest, id: int) -> Status[OneAction]:
    """Take it out of its placement group."""
    return _begun(wishes.leave_group(own_server(request, id), correlation(request)))


# What it boots


@router.post(f"{ON_SERVER}/enable_rescue", response={201: PasswordAction})
def enable_rescue(request: HttpRequest, id: int, body: server_body.Rescue | None = None) -> Status[PasswordAction]:
    """Boot the rescue system at the next start within 60 minutes, once."""
    server, wanted = own_server(request, id), body or server_body.Rescue()
    keys = [key.public_key for key in ssh_keys.by_names(request, wanted.ssh_keys)]
    password, password_hash = new_root_password()
    return _with_password(wishes.enable_rescue(server, keys, password_hash, correlation(request)), password)


@router.post(f"{ON_SERVER}/disable_rescue", response={201: OneAction})
def disable_rescue(request: HttpRequest, id: int) -> Status[OneAction]:
    """Boot from its own disk at the next start."""
    return _begun(wishes.disable_rescue(own_server(request, id), correlation(request)))


@router.post(f"{ON_SERVER}/attach_iso", response={201: OneAction})
def attach_iso(request: HttpRequest, id: int, body: server_body.AttachIso) -> Status[OneAction]:
    """Put an ISO into its CD drive, in the place of one that is there. It is booted first at the next start."""
    server, iso = own_server(request, id), iso_of(request, body.iso)
    return _begun(wishes.attach_iso(server, iso, correlation(request)))


@router.post(f"{ON_SERVER}/detach_iso", response={201: OneAction})
def detach_iso(request: HttpRequest, id: int) -> Status[OneAction]:
    """Take the ISO out of its CD drive."""
    return _begun(wishes.detach_iso(own_server(request, id), correlation(request)))
