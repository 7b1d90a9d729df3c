"""A server as it goes out: what /v1 shows of it, and the rows that are read for that."""

from collections.abc import Sequence

from django.db.models import QuerySet
from django.http import HttpRequest

from paddock.api.auth import project
from paddock.api.paging import get
from paddock.api.v1 import images, isos, placement_groups, server_types
from paddock.api.v1.common import Datacenter, Location, Protection, Reply, Time
from paddock.base import clock
from paddock.cloud.models import Server, ServerType, Volume
from paddock.cloud.models.server import Status

# Clients know nine words. What is paused holds its memory and its disk, and must be powered off before anything that
# needs it off; what is hibernated runs no longer, and goes on with a power on. x_status has our own words.
AS_CLIENTS_KNOW = {Status.PAUSED.value: Status.RUNNING.value, Status.HIBERNATED.value: Status.OFF.value}
KNOWN = [word for word in Status.values if word not in AS_CLIENTS_KNOW]


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


class AutostartReply(Reply):
    """Whether it is started when its node comes up, and, while it waits for its turn, when that is."""

    enabled: bool
    order: int
    delay: int
    at: Time | None


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
    iso: isos.IsoReply | None
    rescue_enabled: bool
    locked: bool
    backup_window: str | None = None
    outgoing_traffic: int | None = None
    ingoing_traffic: int | None = None
    included_traffic: int | None = None
    protection: ServerProtection
    labels: dict[str, str]
    volumes: list[int]
    load_balancers: tuple[int, ...] = ()
    primary_disk_size: int
    placement_group: placement_groups.PlacementGroupReply | None
    x_status: str
    x_name: str | None
    x_uuid: str
    x_node: str | None
    x_ssh: Ssh | None
    x_ready: Ready
    x_group: str
    x_role: str
    x_restart: str
    x_description: str
    x_kernel_args: str
    x_autostart: AutostartReply
    x_problem: str | None
    x_waiting_for: str
    x_step: str
    x_accelerator: str
    x_in_rescue: bool
    x_generation: int
    x_base_config: bool
    x_warm: bool
    x_began: str  # how its disk's first start began: warm (from a warm image), pool, fork, cold; empty: not yet
    x_not_warm: str  # why that was a cold one
    x_firmware: str | None


class Shared:
    """What servers on a page have in common, shown once for all of them: a fixed number of queries."""

    def __init__(self, servers: Sequence[Server], volumes: dict[int, list[int]] | None = None) -> None:
        plans = list(ServerType.objects.all())
        self.plans = {plan.pk: server_types.shown(plan) for plan in plans}
        self.place: Datacenter = server_types.datacenter(plans)
        self.images = {image.pk: images.shown(image) for image in {s.image for s in servers} if image.type != "blank"}
        self.isos = {iso.pk: isos.shown(iso) for iso in {server.iso for server in servers} if iso}
        groups = {server.placement_group for server in servers if server.placement_group}
        self.groups = {group.id: group for group in placement_groups.shown_all(list(groups))}
        self.volumes = _volumes(servers) if volumes is None else volumes
        self.now = clock.now()


def _volumes(servers: Sequence[Server]) -> dict[int, list[int]]:
    """The volumes of each server that has some, by id."""
    found: dict[int, list[int]] = {}
    rows = Volume.objects.filter(server__in=[server.pk for server in servers]).order_by("pk")
    for server, volume in rows.values_list("server_id", "pk"):
        found.setdefault(server, []).append(volume)
    return found


def shown(server: Server) -> ServerReply:
    """A server as it goes out."""
    return shown_all([server])[0]


def shown_new(server: Server, volumes: Sequence[Volume]) -> ServerReply:
    """One that was just made with these volumes: what the request has read need not be read again."""
    return _shown(server, Shared([server], {server.pk: sorted(volume.pk for volume in volumes)}))


def shown_all(servers: Sequence[Server]) -> list[ServerReply]:
    """Servers as they go out."""
    shared = Shared(servers)
    return [_shown(server, shared) for server in servers]


def _shown(server: Server, shared: Shared) -> ServerReply:
    return ServerReply(
        id=server.pk,
        name=server.name,
        status=AS_CLIENTS_KNOW.get(server.status, server.status),
        created=server.created,
        labels=server.labels,
        server_type=shared.plans[server.server_type_id],
        image=shared.images.get(server.image_id),
        iso=shared.isos.get(server.iso_id or 0),
        rescue_enabled=server.rescue_until is not None and server.rescue_until > shared.now,
        datacenter=shared.place,
        locked=server.action_id is not None,
        protection=ServerProtection(delete=server.protect_delete, rebuild=server.protect_rebuild),
        volumes=shared.volumes.get(server.pk, []),
        primary_disk_size=server.disk_gib,
        placement_group=shared.groups.get(server.placement_group_id or 0),
        x_status=server.status,
        x_name=server.x_name,
        x_uuid=str(server.uuid),
        x_node=server.node.name if server.node else None,
        x_ssh=_ssh(server),
        x_ready=_ready(server, up=server.status in ("running", "paused")),
        x_group=server.group,
        x_role=server.role,
        x_restart=server.restart,
        x_description=server.description,
        x_kernel_args=server.kernel_args,
        x_autostart=_autostart(server),
        x_problem=server.problem or None,
        x_waiting_for=server.waiting_for,
        x_step=server.step,
        x_accelerator=server.accelerator,
        x_in_rescue=server.in_rescue,
        x_generation=server.generation,
        x_base_config=server.base_config,
        x_warm=server.warm,
        x_began="" if server.began == "lost" else server.began,
        x_not_warm=server.not_warm,
        x_firmware=server.firmware or None,
    )


def _autostart(server: Server) -> AutostartReply:
    return AutostartReply(
        enabled=server.autostart, order=server.autostart_order, delay=server.autostart_delay, at=server.autostart_at
    )


def _ssh(server: Server) -> Ssh | None:
    """How to log in, once it has a place. In the rescue system everybody is root."""
    if not server.node or not server.ssh_port:
        return None
    user = "root" if server.in_rescue else server.image.default_user
    return Ssh(host=server.node.ssh_address, port=server.ssh_port, user=user)


def _ready(server: Server, *, up: bool) -> Ready:
    since = server.ready_at if up else None
    after = (since - server.started_at).total_seconds() if since and server.started_at else None
    waiting = server.waiting_for if not since else ""
    return Ready(ready=since is not None, since=since, by=server.ready_by, waiting_for=waiting, after_seconds=after)


def visible(request: HttpRequest) -> "QuerySet[Server]":
    """The project's servers, with what is shown of them."""
    rows = Server.objects.filter(project=project(request))
    return rows.prefetch_related("image", "iso", "node", "placement_group")


def own_server(request: HttpRequest, id: int) -> Server:
    """The project's server of that id. Raises ApiError 404."""
    server: Server = get(visible(request), "server", id)
    return server
