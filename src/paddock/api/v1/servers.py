"""Servers: list, create, show, change, delete. What is asked of one that is there: server_actions."""

from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F
from django.http import HttpRequest
from ninja import Router, Status

from paddock.api.auth import correlation, project
from paddock.api.errors import uniqueness
from paddock.api.paging import Meta, described, many, page, query
from paddock.api.passwords import new_root_password
from paddock.api.v1 import actions, ssh_keys
from paddock.api.v1.common import Reply, check_place
from paddock.api.v1.server_body import ChangeServer, CreateServer
from paddock.api.v1.server_lookup import (
    check_firmware,
    check_fits,
    check_kernel_args,
    group_of,
    image_for,
    iso_of,
    new_plan_of,
    node_of,
    volumes_of,
)
from paddock.api.v1.server_reply import (
    AS_CLIENTS_KNOW,
    KNOWN,
    ServerReply,
    own_server,
    shown,
    shown_all,
    shown_new,
    visible,
)
from paddock.cloud.flows import server as flow
from paddock.cloud.flows.engine import wake
from paddock.cloud.models import Action, Server
from paddock.cloud.models import server as model

router = Router(tags=["servers"])
SORTABLE = {"id": "id", "name": "name", "created": "created"}
UNSHOWN = (
    "user_data",
    "vendor_data",
    "public_keys",
    "password_hash",
    "rescue_keys",
    "rescue_password_hash",
)  # long, and never shown


class OneServer(Reply):
    server: ServerReply


class ManyServers(Reply):
    servers: list[ServerReply]
    meta: Meta


class CreatedServer(Reply):
    server: ServerReply
    action: actions.ActionReply
    next_actions: list[actions.ActionReply]
    root_password: str | None


QUERY = described(SORTABLE, "name", "label_selector", "x_group", status=KNOWN, x_status=model.Status.values)


@router.get("/servers", response=ManyServers, openapi_extra=QUERY)
def list_servers(request: HttpRequest) -> ManyServers:
    """The project's servers."""
    rows = visible(request).defer(*UNSHOWN)
    if shown_as := many(request, "status", KNOWN):
        rows = rows.filter(status__in=[s for s in model.Status.values if AS_CLIENTS_KNOW.get(s, s) in shown_as])
    if states := many(request, "x_status", model.Status.values):
        rows = rows.filter(status__in=states)
    if group := query(request, "x_group"):
        rows = rows.filter(group=group)
    found, meta = page(request, rows, SORTABLE)
    return ManyServers(servers=shown_all(found), meta=meta)


@router.post("/servers", response={201: CreatedServer})
def create_server(request: HttpRequest, body: CreateServer) -> Status[CreatedServer]:
    """Create a server. It is placed, made and started by the steps of the action that is answered; its volumes are
    attached by the next actions."""
    body.check_supported()
    check_place(body.location, body.datacenter)
    server, password = _new(request, body)
    volumes, node = volumes_of(request, body.volumes), node_of(request, body.x_node)
    action = flow.create(server, correlation(request), volumes=volumes, automount=body.automount, node=node)
    created = CreatedServer(
        server=shown_new(server, volumes),
        action=actions.shown(action),
        next_actions=[actions.shown(a) for a in _attachments(server)] if volumes else [],
        root_password=password,
    )
    return Status(201, created)


def _new(request: HttpRequest, body: CreateServer) -> tuple[Server, str | None]:
    """The row that is asked for, and root's password if there is no key to log in with. Raises ApiError."""
    plan, image = new_plan_of(body.server_type), image_for(request, body.image, body.x_iso)
    keys = ssh_keys.by_names(request, body.ssh_keys)
    check_fits(image, plan)
    check_firmware(image, plan, body.x_firmware)
    check_kernel_args(image, body.x_kernel_args)
    password, password_hash = (None, "") if keys or image.type == "blank" else new_root_password()
    server = Server(
        project=project(request),
        name=body.name,
        server_type=plan,
        image=image,
        placement_group=None if body.placement_group is None else group_of(request, body.placement_group),
        cores=plan.cores,
        memory_mib=plan.memory_mib,
        disk_gib=plan.disk_gib,
        public_keys=[k.public_key for k in keys],
        user_data=body.user_data,
        labels=body.labels,
        group=body.x_group,
        role=body.x_role,
        restart=body.x_restart,
        start_after_create=body.start_after_create,
        start_paused=body.x_start_paused,
        description=body.x_description,
        kernel_args=body.x_kernel_args,
        **body.x_autostart.columns,
        iso=None if body.x_iso is None else iso_of(request, body.x_iso),
        firmware=body.x_firmware or "",
        base_config=body.x_base_config,
        warm=body.x_warm,
        password_hash=password_hash,
    )
    return server, password


def _attachments(server: Server) -> list[Action]:
    """The actions by which a new server gets its volumes."""
    of_server = Action.objects.filter(kind="volume", more__contains=[{"id": server.pk, "type": "server"}])
    return list(of_server.order_by("id"))


@router.get("/servers/{int:id}", response=OneServer)
def show_server(request: HttpRequest, id: int) -> OneServer:
    """One server."""
    return OneServer(server=shown(own_server(request, id)))


@router.put("/servers/{int:id}", response=OneServer)
def change_server(request: HttpRequest, id: int, body: ChangeServer) -> OneServer:
    """Rename, relabel or describe a server, and say when it is started. The guest keeps its host name."""
    server = own_server(request, id)
    changes: dict[str, Any] = body.columns
    check_kernel_args(server.image, body.x_kernel_args or "")
    if any(name in changes and changes[name] != getattr(server, name) for name in ("name", "kernel_args")):
        changes["revision"] = F("revision") + 1  # its node is told
    try:
        with transaction.atomic():
            if changes:
                Server.objects.filter(pk=server.pk).update(**changes)
            if "revision" in changes:
                wake(server, "server")
    except IntegrityError as e:
        raise uniqueness("name") from e
    return show_server(request, id)


@router.delete("/servers/{int:id}", response=actions.OneAction)
def delete_server(request: HttpRequest, id: int) -> actions.OneAction:
    """Delete a server and its disk. Its volumes stay, and belong to nobody."""
    return actions.asked(flow.delete(own_server(request, id), correlation(request)))


actions.serve(router, "server", visible)
