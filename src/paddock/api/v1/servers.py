"""Servers: create, show, change power, delete."""

import re
from typing import Annotated, Any, Literal

from django.db.models import QuerySet
from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import AfterValidator, Field

from paddock.api.auth import correlation, project
from paddock.api.paging import Meta, get, invalid, page, uniqueness
from paddock.api.passwords import new_root_password
from paddock.api.v1 import actions, images, server_types, ssh_keys
from paddock.api.v1.common import Datacenter, Labels, Location, Protection, Time
from paddock.cloud.flows import server as flow
from paddock.cloud.models import Action, Image, Server, ServerType
from paddock.machine.image import ImageManifest
from paddock.machine.spec import GIB, MAX_USER_DATA

router = Router(tags=["servers"])
SORTABLE = {"id": "id", "name": "name", "created": "created"}
_LABEL = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", re.IGNORECASE)


def check_name(name: str) -> str:
    """RFC 1123: labels of a-z 0-9 -, joined by dots (C10)."""
    if not 0 < len(name) <= 253 or not all(_LABEL.match(label) for label in name.split(".")):
        raise ValueError("must be a host name: letters a-z, digits, - and . only, like web-1 or www.example.com")
    return name


def check_user_data(text: str) -> str:
    """At most 32 KiB of text."""
    if "\0" in text:
        raise ValueError("must be text without zero bytes")
    if len(text.encode("utf-8", "surrogatepass")) > MAX_USER_DATA:
        raise ValueError(f"is longer than {MAX_USER_DATA} bytes")
    return text


Name = Annotated[str, AfterValidator(check_name)]
UserData = Annotated[str, AfterValidator(check_user_data)]
Tag = Annotated[str, Field(pattern=r"^([a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?)?$")]


class PublicNet(Schema):
    """Public addresses: none with user-mode networking."""

    ipv4: None = None
    ipv6: None = None
    floating_ips: list[int] = []
    firewalls: list[int] = []


class ServerProtection(Protection):
    """What is protected."""

    rebuild: bool = False


class Ssh(Schema):
    """How to log in."""

    host: str
    port: int
    user: str


class Ready(Schema):
    """Whether the guest can be used: since when, by what signals, or what it still waits for."""

    ready: bool
    since: Time | None
    by: list[str]
    waiting_for: str
    after_seconds: float | None


class ServerReply(Schema):
    """A server."""

    id: int
    name: str
    status: str
    created: Time
    public_net: PublicNet = PublicNet()
    private_net: list[str] = []
    server_type: server_types.ServerTypeReply
    location: Location = Location()
    datacenter: Datacenter = Datacenter()
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
    volumes: list[int] = []
    load_balancers: list[int] = []
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


class OneServer(Schema):
    server: ServerReply


class ManyServers(Schema):
    servers: list[ServerReply]
    meta: Meta


class CreatedServer(Schema):
    server: ServerReply
    action: actions.ActionReply
    next_actions: list[actions.ActionReply]
    root_password: str | None


class CreateServer(Schema):
    """What a new server shall be."""

    name: Name
    server_type: int | str
    image: int | str
    location: str | None = None
    datacenter: str | None = None
    ssh_keys: list[int | str] = []
    user_data: UserData = ""
    labels: Labels = {}
    start_after_create: bool = True
    x_group: Tag = ""
    x_role: Tag = ""
    x_restart: Literal["no", "on-failure"] = "no"
    x_start_paused: bool = False


class ChangeServer(Schema):
    name: Name | None = None
    labels: Labels | None = None


def shown(server: Server) -> ServerReply:
    """A server as it goes out."""
    up = server.status in ("running", "paused")
    ssh = None
    if server.node and server.ssh_port:
        ssh = Ssh(host=server.node.ssh_address, port=server.ssh_port, user=server.image.default_user)
    return ServerReply(
        id=server.pk,
        name=server.name,
        status=server.status,
        created=server.created,
        labels=server.labels,
        server_type=server_types.shown(server.server_type),
        image=images.shown(server.image),
        locked=server.action_id is not None,
        primary_disk_size=server.disk_gib,
        x_name=server.x_name,
        x_uuid=str(server.uuid),
        x_node=server.node.name if server.node else None,
        x_ssh=ssh,
        x_ready=_ready(server, up=up),
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
    return Server.objects.filter(project=project(request)).select_related("server_type", "image", "node")


@router.get("/servers", response=ManyServers)
def list_servers(request: HttpRequest) -> ManyServers:
    """The project's servers."""
    rows = visible(request)
    if states := request.GET.getlist("status"):
        rows = rows.filter(status__in=states)
    if group := request.GET.get("x_group"):
        rows = rows.filter(group=group)
    found, meta = page(request, rows, SORTABLE)
    return ManyServers(servers=[shown(s) for s in found], meta=meta)


@router.post("/servers", response={201: CreatedServer})
def create_server(request: HttpRequest, body: CreateServer) -> tuple[int, CreatedServer]:
    """Create a server. It is placed, made and started by the steps of the action that is answered."""
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
    return 201, CreatedServer(server=shown(row), action=actions.shown(action), next_actions=[], root_password=password)


def _gib(manifest: ImageManifest) -> int:
    return -(-manifest.disk_size // GIB)


def _check_place(body: CreateServer) -> None:
    if body.location not in (None, Location().name, str(Location().id)):
        raise invalid("location", f"there is no location '{body.location}'")
    if body.datacenter not in (None, Datacenter().name, str(Datacenter().id)):
        raise invalid("datacenter", f"there is no datacenter '{body.datacenter}'")


def _server_type(wanted: int | str) -> ServerType:
    found: ServerType | None = _by_id_or_name(ServerType.objects.all(), wanted)
    if found is None:
        names = ", ".join(ServerType.objects.order_by("id").values_list("name", flat=True)[:20])
        raise invalid("server_type", f"there is no server type '{wanted}'; there are {names}")
    return found


def _image(request: HttpRequest, wanted: int | str) -> Image:
    found: Image | None = _by_id_or_name(images.visible(request), wanted)
    if found is None:
        names = ", ".join(images.visible(request).order_by("id").values_list("name", flat=True)[:20])
        raise invalid("image", f"there is no image '{wanted}'; there are {names}")
    if found.project_id is not None and found.state != "ready":
        raise invalid(
            "image", f"image '{found.name}' can't be used yet: {found.problem or found.doing or 'nothing was uploaded'}"
        )
    return found


def _by_id_or_name(rows: "QuerySet[Any]", wanted: int | str) -> Any:
    """An id wins over a name."""
    number = int(wanted) if str(wanted).isdecimal() else 0
    by_id = rows.filter(pk=number).first() if 0 < number < 2**53 else None
    return by_id or rows.filter(name=str(wanted)).order_by("-project_id").first()


@router.get("/servers/{int:id}", response=OneServer)
def show_server(request: HttpRequest, id: int) -> OneServer:
    """One server."""
    return OneServer(server=shown(get(visible(request), "server", id)))


@router.put("/servers/{int:id}", response=OneServer)
def change_server(request: HttpRequest, id: int, body: ChangeServer) -> OneServer:
    """Rename or relabel a server. The guest keeps its host name."""
    server: Server = get(visible(request), "server", id)
    changes: dict[str, Any] = {} if body.labels is None else {"labels": body.labels}
    if body.name is not None and body.name != server.name:
        if Server.objects.filter(project=server.project, name__iexact=body.name).exclude(pk=id).exists():
            raise uniqueness("name")
        changes["name"] = body.name
    if changes:
        Server.objects.filter(pk=id).update(**changes)
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
    rows = Action.objects.filter(kind="server", row_id=server.pk)
    found, meta = page(request, rows, actions.SORTABLE)
    return actions.ManyActions(actions=actions.with_steps(found), meta=meta)


@router.get("/servers/{int:id}/actions/{int:action_id}", response=actions.OneAction)
def show_server_action(request: HttpRequest, id: int, action_id: int) -> actions.OneAction:
    """One action of a server."""
    server: Server = get(visible(request), "server", id)
    rows = Action.objects.filter(kind="server", row_id=server.pk)
    return actions.OneAction(action=actions.with_steps([get(rows, "action", action_id)])[0])


def _power(request: HttpRequest, id: int, command: str) -> tuple[int, actions.OneAction]:
    server: Server = get(visible(request), "server", id)
    return 201, _one(flow.ask(server, command, correlation(request)))


def _one(action: Action) -> actions.OneAction:
    return actions.OneAction(action=actions.shown(action))


@router.post("/servers/{int:id}/actions/poweron", response={201: actions.OneAction})
def poweron(request: HttpRequest, id: int) -> tuple[int, actions.OneAction]:
    """Start it."""
    return _power(request, id, "start_server")


@router.post("/servers/{int:id}/actions/poweroff", response={201: actions.OneAction})
def poweroff(request: HttpRequest, id: int) -> tuple[int, actions.OneAction]:
    """Stop it at once, like pulling the plug."""
    return _power(request, id, "stop_server")


@router.post("/servers/{int:id}/actions/shutdown", response={201: actions.OneAction})
def shutdown(request: HttpRequest, id: int) -> tuple[int, actions.OneAction]:
    """Ask the guest to shut down; fails after 90 seconds if it does not."""
    return _power(request, id, "shutdown_server")


@router.post("/servers/{int:id}/actions/reboot", response={201: actions.OneAction})
def reboot(request: HttpRequest, id: int) -> tuple[int, actions.OneAction]:
    """Ask the guest to reboot."""
    return _power(request, id, "reboot_server")


@router.post("/servers/{int:id}/actions/reset", response={201: actions.OneAction})
def reset(request: HttpRequest, id: int) -> tuple[int, actions.OneAction]:
    """Press the reset button."""
    return _power(request, id, "reset_server")
