"""Servers: create, show, change power, delete."""

from collections.abc import Sequence
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F, QuerySet
from django.http import HttpRequest
from ninja import Router, Status

from paddock.api.auth import correlation, project
from paddock.api.errors import invalid, uniqueness
from paddock.api.paging import Meta, by_id_or_name, get, many, page, query
from paddock.api.passwords import new_root_password
from paddock.api.v1 import actions, images, server_types, ssh_keys
from paddock.api.v1.common import Datacenter, Location, Protection, Reply, Time, datacenter
from paddock.api.v1.server_body import ChangeServer, CreateServer
from paddock.cloud.flows import server as flow
from paddock.cloud.models import Action, Image, Server, ServerType
from paddock.cloud.models import server as model
from paddock.machine.image import ImageManifest
from paddock.machine.spec import GIB

router = Router(tags=["servers"])
SORTABLE = {"id": "id", "name": "name", "created": "created"}


class PublicNet(Reply):
    """Public addresses: none with user-mode networking."""

    ipv4: None = None
    ipv6: None = None
    floating_ips: tuple[int, ...] = ()
    firewalls: tuple[int, ...] = ()


class ServerProtection(Protection):
    """What is protected."""

    rebuild: bool = False


class Ssh(Reply):
    """How to log in."""

    host: str
    port: int
    user: str


class Ready(Reply):
    """Whether the guest can be used: since when, by what signals, or what it still waits for."""

    ready: bool
    since: Time | None
    by: list[str]
    waiting_for: str
    after_seconds: float | None


class ServerReply(Reply):
    """A server."""

    id: int
    name: str
    status: str
    created: Time
    public_net: PublicNet = PublicNet()
    private_net: tuple[()] = ()
    server_type: server_types.ServerTypeReply
    location: Location = Location()
    datacenter: Datacenter
    image: images.ImageReply | None
    iso: None = None
    rescue_enabled: bool = False
    locked: bool
    backup_window: str | None = None
    outgoing_traffic: int | None = None
    ingoing_traffic: int | None = None
    included_traffic: int | None = None
    protection: ServerProtection = ServerProtection()
    labels: dict[str, str]
    volumes: tuple[int, ...] = ()
    load_balancers: tuple[int, ...] = ()
    primary_disk_size: int
    placement_group: None = None
    x_name: str | None
    x_uuid: str
    x_node: str | None
    x_ssh: Ssh | None
    x_ready: Ready
    x_group: str
    x_role: str
    x_restart: str
    x_problem: str | None
    x_waiting_for: str
    x_step: str
    x_accelerator: str


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


def shown(server: Server) -> ServerReply:
    """A server as it goes out."""
    return shown_all([server])[0]


def shown_all(servers: Sequence[Server]) -> list[ServerReply]:
    """Servers as they go out. What many share (plan, image, place) is made once for all."""
    plans = {plan.pk: server_types.shown(plan) for plan in ServerType.objects.all()}
    pictures = {image.pk: images.shown(image) for image in {server.image for server in servers}}
    place = datacenter(list(plans))
    return [_shown(s, plans[s.server_type_id], pictures[s.image_id], place) for s in servers]


def _shown(
    server: Server, plan: server_types.ServerTypeReply, image: images.ImageReply, place: Datacenter
) -> ServerReply:
    ssh = None
    if server.node and server.ssh_port:
        ssh = Ssh(host=server.node.ssh_address, port=server.ssh_port, user=server.image.default_user)
    return ServerReply(
        id=server.pk,
        name=server.name,
        status=server.status,
        created=server.created,
        labels=server.labels,
        server_type=plan,
        image=image,
        datacenter=place,
        locked=server.action_id is not None,
        primary_disk_size=server.disk_gib,
        x_name=server.x_name,
        x_uuid=str(server.uuid),
        x_node=server.node.name if server.node else None,
        x_ssh=ssh,
        x_ready=_ready(server, up=server.status in ("running", "paused")),
        x_group=server.group,
        x_role=server.role,
        x_restart=server.restart,
        x_problem=server.problem or None,
        x_waiting_for=server.waiting_for,
        x_step=server.step,
        x_accelerator=server.accelerator,
    )


def _ready(server: Server, *, up: bool) -> Ready:
    since = server.ready_at if up else None
    after = (since - server.started_at).total_seconds() if since and server.started_at else None
    waiting = server.waiting_for if not since else ""
    return Ready(ready=since is not None, since=since, by=server.ready_by, waiting_for=waiting, after_seconds=after)


def visible(request: HttpRequest) -> "QuerySet[Server]":
    """The project's servers, with what is shown of them."""
    return Server.objects.filter(project=project(request)).prefetch_related("image", "node")


@router.get("/servers", response=ManyServers)
def list_servers(request: HttpRequest) -> ManyServers:
    """The project's servers."""
    rows = visible(request).defer("user_data", "public_keys", "password_hash")  # long, and never shown
    if states := many(request, "status", model.Status.values):
        rows = rows.filter(status__in=states)
    if group := query(request, "x_group"):
        rows = rows.filter(group=group)
    found, meta = page(request, rows, SORTABLE)
    return ManyServers(servers=shown_all(found), meta=meta)


@router.post("/servers", response={201: CreatedServer})
def create_server(request: HttpRequest, body: CreateServer) -> Status[CreatedServer]:
    """Create a server. It is placed, made and started by the steps of the action that is answered."""
    body.check_supported()
    plan = _server_type(body.server_type)
    image = _image(request, body.image)
    _check_place(body)
    keys = ssh_keys.by_names(request, body.ssh_keys)
    if image.manifest and image.made_of.disk_size > plan.disk_gib * GIB:
        raise invalid(
            "server_type", f"image {image.name} needs {_gib(image.made_of)} GB of disk, {plan.name} has {plan.disk_gib}"
        )
    password, password_hash = (None, "") if keys else new_root_password()
    server = Server(
        project=project(request),
        name=body.name,
        server_type=plan,
        image=image,
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
        password_hash=password_hash,
    )
    action = flow.create(server, correlation(request))
    row = visible(request).get(pk=server.pk)
    created = CreatedServer(server=shown(row), action=actions.shown(action), next_actions=[], root_password=password)
    return Status(201, created)


def _gib(manifest: ImageManifest) -> int:
    return -(-manifest.disk_size // GIB)


def _check_place(body: CreateServer) -> None:
    """There is one place; older clients name its datacenter instead."""
    if body.location is not None and str(body.location) not in (Location().name, str(Location().id)):
        raise invalid("location", f"there is no location '{body.location}'; there is {Location().name}")
    here = datacenter([])
    if body.datacenter is not None and str(body.datacenter) not in (here.name, str(here.id)):
        raise invalid("datacenter", f"there is no datacenter '{body.datacenter}'; there is {here.name}")


def _server_type(wanted: int | str) -> ServerType:
    found: ServerType | None = by_id_or_name(ServerType.objects.all(), wanted)
    if found is None:
        names = ", ".join(ServerType.objects.order_by("id").values_list("name", flat=True)[:20])
        raise invalid("server_type", f"there is no server type '{wanted}'; there are {names}")
    return found


def _image(request: HttpRequest, wanted: int | str) -> Image:
    found: Image | None = by_id_or_name(images.visible(request).order_by(F("project").asc(nulls_last=True)), wanted)
    if found is None:
        names = ", ".join(images.visible(request).order_by("id").values_list("name", flat=True)[:20])
        raise invalid("image", f"there is no image '{wanted}'; there are {names}")
    if found.project_id is not None and found.state != "ready":
        raise invalid(
            "image", f"image '{found.name}' can't be used yet: {found.problem or found.doing or 'nothing was uploaded'}"
        )
    return found


@router.get("/servers/{int:id}", response=OneServer)
def show_server(request: HttpRequest, id: int) -> OneServer:
    """One server."""
    return OneServer(server=shown(get(visible(request), "server", id)))


@router.put("/servers/{int:id}", response=OneServer)
def change_server(request: HttpRequest, id: int, body: ChangeServer) -> OneServer:
    """Rename or relabel a server. The guest keeps its host name."""
    server: Server = get(visible(request), "server", id)
    changes: dict[str, Any] = body.model_dump(exclude_unset=True)
    try:
        with transaction.atomic():
            if changes:
                Server.objects.filter(pk=server.pk).update(**changes)
    except IntegrityError as e:
        raise uniqueness("name") from e
    return OneServer(server=shown(get(visible(request), "server", id)))


@router.delete("/servers/{int:id}", response=actions.OneAction)
def delete_server(request: HttpRequest, id: int) -> actions.OneAction:
    """Delete a server and its disk."""
    server: Server = get(visible(request), "server", id)
    return _one(flow.delete(server, correlation(request)))


@router.get("/servers/{int:id}/actions", response=actions.ManyActions)
def list_server_actions(request: HttpRequest, id: int) -> actions.ManyActions:
    """What was asked of a server."""
    server: Server = get(visible(request), "server", id)
    return actions.listed(request, Action.objects.filter(kind="server", row_id=server.pk))


@router.get("/servers/{int:id}/actions/{int:action_id}", response=actions.OneAction)
def show_server_action(request: HttpRequest, id: int, action_id: int) -> actions.OneAction:
    """One action of a server."""
    server: Server = get(visible(request), "server", id)
    rows = Action.objects.filter(kind="server", row_id=server.pk)
    return actions.OneAction(action=actions.with_steps([get(rows, "action", action_id)])[0])


def _power(request: HttpRequest, id: int, command: str) -> Status[actions.OneAction]:
    server: Server = get(visible(request), "server", id)
    return Status(201, _one(flow.ask(server, command, correlation(request))))


def _one(action: Action) -> actions.OneAction:
    return actions.OneAction(action=actions.shown(action))


@router.post("/servers/{int:id}/actions/poweron", response={201: actions.OneAction})
def poweron(request: HttpRequest, id: int) -> Status[actions.OneAction]:
    """Start it."""
    return _power(request, id, "start_server")


@router.post("/servers/{int:id}/actions/poweroff", response={201: actions.OneAction})
def poweroff(request: HttpRequest, id: int) -> Status[actions.OneAction]:
    """Stop it at once, like pulling the plug."""
    return _power(request, id, "stop_server")


@router.post("/servers/{int:id}/actions/shutdown", response={201: actions.OneAction})
def shutdown(request: HttpRequest, id: int) -> Status[actions.OneAction]:
    """Ask the guest to shut down; fails after 90 seconds if it does not."""
    return _power(request, id, "shutdown_server")


@router.post("/servers/{int:id}/actions/reboot", response={201: actions.OneAction})
def reboot(request: HttpRequest, id: int) -> Status[actions.OneAction]:
    """Ask the guest to reboot."""
    return _power(request, id, "reboot_server")


@router.post("/servers/{int:id}/actions/reset", response={201: actions.OneAction})
def reset(request: HttpRequest, id: int) -> Status[actions.OneAction]:
    """Press the reset button."""
    return _power(request, id, "reset_server")
