"""A server's life, from the request to its last trace. Read it top to bottom: it is in the order things happen."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from django.db import IntegrityError, transaction
from django.db.models import F
from django.db.models.functions import Now
from psycopg.errors import ForeignKeyViolation

from paddock.base.errors import (
    Conflict,
    NameTaken,
    NoRoom,
    NotFound,
    PaddockError,
    PortTaken,
    Protected,
    StaleEpoch,
    Unavailable,
)
from paddock.cloud import base_config
from paddock.cloud.flows import actions, bring, claim, copying, quota
from paddock.cloud.flows import image as images
from paddock.cloud.flows import volume as volume_flow
from paddock.cloud.flows.engine import defer, register, wake
from paddock.cloud.flows.server_changes import (
    choose_system,
    give_snapshots_up,
    is_defined,
    leave_snapshots,
    tell,
)
from paddock.cloud.flows.server_fork import LOST, ServerFork, begins_as_fork, leave
from paddock.cloud.flows.server_node import (
    KIND,
    agree,
    check_uefi,
    host_of,
    node_of,
    other_system,
    patience,
    status_of,
    untold,
)
from paddock.cloud.flows.steps import Again, Done, Gone, Next, Then, step
from paddock.cloud.models import Action, ImageCopy, Server, Volume
from paddock.cloud.models.server import Status
from paddock.cloud.nodes import hypervisor
from paddock.machine.spec import Power
from paddock.machine.state import Phase
from paddock.machine.warm import Start

READY_SECONDS = 1800  # Debian, software emulation and a busy host together take a quarter of an hour
ADAPT_SECONDS = 3600.0
MAX_RESTARTS = 5  # by itself, one after another
BIRTH = (
    "place",
    "image",
    "clone",
    "volumes",
    "cloud_init",
    "memory",
    "start",
)  # what fails here leaves no machine that runs


@register
class ServerFlow(ServerFork):
    """Steps of a server: birth, rest, death. Power is in ServerPower, pauses in ServerSleep, all that changes it in
    ServerChanges, forks in ServerFork."""

    kind = KIND
    lock_class = 1
    model = Server
    related: ClassVar[tuple[str, ...]] = ("node", "image", "server_type")

    # Birth

    @step(seconds=60, by_hand=False)
    def place(self, server: Server) -> Next[Server]:
        """Choose a node, and claim room, a number and an SSH port on it. A node that is only down may come back."""
        if server.node is None and not claim.claim(server):
            return Again(0.5, f"node {claim.waited_for(server)} to answer")
        return Then(self.image)

    @step(seconds=3600)
    def image(self, server: Server) -> Next[Server]:
        """Have the image built, and brought to the node."""
        if not server.image_sha256:
            if wait := bring.built(server.image):
                return wait
            server.set(image_sha256=server.image.sha256, firmware=server.firmware or server.image.made_of.firmware)
        if server.firmware == "uefi":
            check_uefi(server)
        if wait := copying.to_node(node_of(server), server.image, server.image_sha256):
            return wait
        if server.iso and (wait := copying.to_node(node_of(server), server.iso, server.iso.sha256)):
            return wait
        return Then(self.clone)

    @step(needs="stopped")
    def clone(self, server: Server) -> Next[Server]:
        """Make the system disk: an overlay over the image."""
        try:
            host_of(server).disks.ensure_disk(server.uuid, server.system_disk(), server.epoch)
        except NotFound:  # the node lost its copy of the image
            ImageCopy.objects.filter(node=server.node, sha256=server.image_sha256).delete()
            return Then(self.image)
        if server.generation:  # it was rebuilt: nothing stands on the image that it had before
            bring.left_by(server)
        return Then(self.volumes if server.revision else self.cloud_init)

    @step(seconds=600, by_hand=False)
    def volumes(self, server: Server) -> Next[Server]:
        """Wait until the volumes that it was created with are there. One that can't be made is no longer its."""
        missing = Volume.objects.filter(server=server, detaching=False, made_gib=0).first()
        if missing is not None:
            return Again(0.2, f"volume {missing.name} to be made: {missing.waiting_for or missing.step}")
        return Then(self.cloud_init)

    @step()
    def cloud_init(self, server: Server) -> Next[Server]:
        """Tell the node the whole machine, and with it what cloud-init in the guest is told."""
        if not server.only_step:
            choose_system(server)
        host_of(server).machines.ensure(server.machine(), server.epoch)
        server.set(told=server.revision)
        if server.status == Status.INITIALIZING and not server.start_after_create:
            server.set(status=Status.OFF, problem="")
            return Then(self.rest, finishes=True)
        return Then(self.memory if begins_as_fork(server) else self.start)

    @step(needs="stopped")
    def start(self, server: Server) -> Next[Server]:
        """Start QEMU."""
        power = Power.ON_PAUSED if server.start_paused else Power.ON
        try:
            state = host_of(server).machines.power(server.uuid, power, server.epoch)
        except PortTaken as e:
            if server.port_tries >= node_of(server).ssh_ports:
                raise NoRoom(f"none of the node's SSH ports can be used; the last said: {e.message}") from e
            claim.take_next_port(server)
            server.set(port_tries=server.port_tries + 1, only_step="")
            return Then(self.cloud_init)
        cold = self.woke(server, state) if server.observed == Phase.HIBERNATED else _begun(server, state.began)
        server.set(
            status=Status.PAUSED if server.start_paused else Status.RUNNING,
            problem=cold if server.observed == Phase.HIBERNATED else "",
            waiting_for=cold,
            started_at=Now(),
            ready_at=None,
            ready_by=[],
            start_paused=False,
            port_tries=0,
            rescue_until=None if server.in_rescue else server.rescue_until,
            observed=Phase.PAUSED if server.start_paused else Phase.RUNNING,
            accelerator=node_of(server).facts.get("accelerator", ""),
        )
        if begins_as_fork(server):
            return Then(self.part, finishes=True)
        unseen = power == Power.ON_PAUSED or _installs(server)
        return Then(self.rest if unseen else self.watch, finishes=True)

    @step(seconds=READY_SECONDS, by_hand=False)
    def watch(self, server: Server) -> Next[Server]:
        """Wait until the guest can be used, by whatever signals there are."""
        if wish := self.wish(server):
            return wish
        if untold(server):
            return Then(self.adapt)
        machines = host_of(server).machines
        readiness = machines.readiness(server.uuid)
        if not readiness.ready:
            if machines.state(server.uuid).phase != Phase.RUNNING:
                return Then(self.look)
            return Again(patience(server), readiness.waiting_for)
        server.set(ready_at=Now(), ready_by=list(readiness.by))
        return Then(self.rest)

    # Rest

    @step(by_hand=False)
    def rest(self, server: Server) -> Next[Server]:
        """Look at the wishes, and at what the node says. What was asked for has been done when it comes here."""
        if server.action_id is not None:
            return Then(self.rest, finishes=True)
        if wish := self.wish(server):
            return wish
        if untold(server):
            return Then(self.adapt)
        if server.node and server.observed and not agree(server):
            return Then(self.look)
        return Done()

    @step(seconds=ADAPT_SECONDS)
    def adapt(self, server: Server) -> Next[Server]:
        """Tell the node what its machine shall be by now, and have it changed while it runs as far as that goes. What
        can't be done is tried again until it can, or something else is wished for."""
        if server.action_id is None and (wish := self.wish(server)):
            return wish
        try:
            pending = self._adapted(server) if is_defined(server) else ()
        except (StaleEpoch, Unavailable):
            raise
        except PaddockError as e:
            return Again(min(max(server.waited / 5, 0.5), 60.0), f"its node to take the change: {e}")
        server.set(told=server.revision, waiting_for="; ".join(pending))
        boots = server.status == Status.RUNNING and server.ready_at is None
        return Then(self.watch if boots else self.rest)

    def _adapted(self, server: Server) -> tuple[str, ...]:
        if server.status == Status.OFF:  # a larger disk may have been asked for while its node was away
            host_of(server).disks.ensure_disk(server.uuid, server.system_disk(), server.epoch)
        return tell(server, server.machine())

    @step()
    def look(self, server: Server) -> Next[Server]:
        """The node says something else than we thought: believe it, and start again what shall run."""
        try:
            state = host_of(server).machines.state(server.uuid)
        except NotFound:
            server.set(status=Status.UNKNOWN, problem=f"node {node_of(server).name} does not know this server")
            return Then(self.rest)
        server.set(observed=state.phase, status=status_of(state))
        if state.rebooting:  # out of the rescue system, as its guest asked
            server.set(status=Status.STARTING, ready_at=None, ready_by=[])
            return Then(self.cloud_init)
        if state.phase != Phase.CRASHED:
            server.set(problem="")
            return Then(self.rest)
        server.set(problem=state.reason, ready_at=None, waiting_for=state.reason)
        failed = not state.host_restarted  # what runs after that is a matter of autostart
        if failed and server.restart == "on-failure" and server.restarts < MAX_RESTARTS:
            server.set(restarts=server.restarts + 1, status=Status.STARTING)
            return Then(self.start)
        return Then(self.rest)

    def wish(self, server: Server) -> Next[Server] | None:
        """The first step of the oldest action that waits for this server."""
        waiting = actions.running(KIND, server.pk).order_by("id")
        action = waiting.exclude(command="delete_server").first()
        if action is None:
            return None
        was = server.status
        server.set(action_id=action.pk, correlation_id=action.correlation_id, **ON_WISH.get(action.command, {}))
        if was == server.observed == Phase.PAUSED and action.command == "start_server":
            server.set(status=Status.PAUSED)
            return Then(self.resume)  # it is on, with the system that it has
        if was == Status.RUNNING and action.command == "start_server" and other_system(server):
            server.set(status=Status.RUNNING)
            return Then(self.watch, finishes=True)  # it is on: the other system comes with its next start
        return Then(self._first_step(server, action))

    def _first_step(self, server: Server, action: Action) -> "Callable[[Server], Next[Server]]":
        if action.command == "run_step":
            server.set(only_step=action.argument)
            chosen: Callable[[Server], Next[Server]] = getattr(self, action.argument)
            return chosen
        if action.command in ("start_server", "wake_server", "create_server"):
            if server.node is None:
                return self.place
            sound = server.image_sha256 and not server.problem and not untold(server)
            return self.cloud_init if sound else self.image
        return {
            "stop_server": self.power_off,
            "shutdown_server": self.shutdown,
            "reboot_server": self.reboot,
            "reset_server": self.reset,
            "pause_server": self.pause,
            "resume_server": self.resume,
            "hibernate_server": self.hibernate,
            "fork_server": self.fork,
            "rebuild_server": self.rebuild,
            "change_server_type": self.grow if action.arguments.get("live") else self.retype,
            "reset_password": self.disk_password if action.arguments.get("offline") else self.password,
            "enable_rescue": self.rescue,
            "attach_iso": self.insert_iso,
            "detach_iso": self.eject_iso,
            "create_image": self.snapshot,
        }[action.command]

    # Death

    def divert(self, server: Server) -> "Callable[[Server], Next[Server]] | None":
        """Delete comes first, whatever the server was about to do."""
        if not server.delete_requested or server.step in ("destroy", "forget"):
            return None
        action = actions.running(KIND, server.pk).filter(command="delete_server").first()
        if action is not None:
            server.set(action_id=action.pk, correlation_id=action.correlation_id)
        server.set(status=Status.DELETING)
        return self.destroy

    @step(seconds=600, by_hand=False, destroys=True)
    def destroy(self, server: Server) -> Next[Server]:
        """Remove whatever is there, from whatever point it had reached. Volumes are not its own, and stay."""
        give_snapshots_up(server, "the server was deleted while it was taken")
        if server.node is not None:
            hypervisor(server.node).machines.remove(server.uuid, server.epoch)
        leave(server)
        return Then(self.forget)

    @step(by_hand=False)
    def forget(self, server: Server) -> Next[Server]:
        """Give back what was claimed, let go of volumes and images, and delete the row."""
        with transaction.atomic():
            volumes = list(
                Volume.objects.select_for_update().filter(server=server).order_by("pk")
            )  # as their flow does
            if Server.objects.select_for_update().filter(pk=server.pk, epoch=server.epoch).exists():
                _let_go_of(volumes)
                Server.objects.filter(pk=server.pk).delete()
                if server.node is not None:
                    server.node.release(server.cores, server.memory_mib, server.disk_gib)
                bring.left(server.image_id, server.iso_id)
            asked = actions.running(KIND, server.pk).filter(command="delete_server")
            asked.update(status="success", progress=100, finished=Now())
            _give_up_others(server, "the server was deleted before this was done")
        return Gone()

    def failed(self, server: Server, error: PaddockError) -> Next[Server]:
        """The server stays as far as it got; it can be deleted, started, or have the step run again."""
        match server.step:
            case "snapshot" | "await_image":
                return Then(self.drop_snapshot)
            case "insert_iso" | "eject_iso":
                server.set(revision=F("revision") + 1)  # its node may have been told
                return Then(self.rest)
            case "drop_snapshot":
                leave_snapshots(server, "the snapshot failed")
                return Then(self.rest)
            case "password" | "disk_password" | "rescue" | "adapt":
                return Then(self.rest)
            case "pause" | "resume" | "hibernate" | "fork" | "reboot" | "reset":
                return Then(self.look if server.node is not None else self.rest)
        server.set(problem=error.message)
        match server.step:
            case "destroy" | "forget":
                server.set(delete_requested=False, status=Status.UNKNOWN)
                _give_up_others(server, "the server's removal failed half-way")
            case "rebuild" | "come_down" if server.node is not None:
                return Then(self.look)
            case "rebuild" | "look" | "rest":
                server.set(status=Status.OFF)
            case birth if birth in BIRTH and begins_as_fork(server):
                server.set(status=Status.OFF, began=LOST)
                return Then(self.part)
            case birth if birth in BIRTH:
                server.set(status=Status.OFF)
            case _ if server.status == Status.STOPPING:
                server.set(status=Status.OFF if server.node is None else Status.RUNNING)
                return Then(self.rest if server.node is None else self.look)
        return Then(self.rest)


ON_WISH: dict[str, dict[str, object]] = {
    "start_server": {"status": Status.STARTING, "restarts": 0, "port_tries": 0},
    "wake_server": {"status": Status.STARTING, "restarts": 0, "port_tries": 0},
    "stop_server": {"status": Status.STOPPING},
    "shutdown_server": {"status": Status.STOPPING},
    "rebuild_server": {"status": Status.REBUILDING},
}


def _begun(server: Server, began: Start) -> str:
    """How the first start with this disk began, for the timeline; empty for later ones."""
    if began.fork and server.fork:
        server.set(began="fork", not_warm="")
        return "from the memory of the server that it is a fork of"
    if server.began:
        return ""
    server.set(began="pool" if began.pool else "warm" if began.warm else "cold", not_warm=began.why)
    if began.warm:
        return "from the pool: a guest was held ready" if began.pool else "from a warm image"
    return f"it boots: {began.why}" if began.why else ""


def _installs(server: Server) -> bool:
    """Whether a person works at its console, so that nobody can tell when it is ready."""
    return server.image.type == "blank" and server.iso_id is not None


def _give_up_others(server: Server, why: str) -> None:
    """End, as failed, all that was asked of a server besides its deletion."""
    actions.running(KIND, server.pk).exclude(command="delete_server").update(
        status="error", progress=100, finished=Now(), error_code="server_deleted", error_message=why
    )


def _let_go_of(volumes: Sequence[Volume]) -> None:
    """They are nobody's now, and keep their data."""
    for volume in volumes:
        Volume.objects.filter(pk=volume.pk).update(server=None, detaching=False, automount=False)
        wake(volume, volume_flow.KIND)


# What is asked from outside: each writes row, action and wake-up in one transaction


def create(
    server: Server, correlation_id: str = "", volumes: Sequence[Volume] = (), automount: bool = False, node: str = ""
) -> Action:
    """Begin a server's life, with these volumes attached (each by an action of its own), on this node or whichever is
    best. Raises NoRoom or PlacementFailed when no node could hold it, NameTaken, LimitExceeded, AlreadyAttached."""
    claim.refuse_hopeless(server, volumes, node)
    server.step, server.correlation_id = "place", correlation_id
    server.revision = 1 if volumes else 0
    if server.fork is None:  # which has its own with its disk
        server.vendor_data = base_config.for_server(server)
    try:
        with transaction.atomic():
            quota.check(
                server.project, servers=1, cores=server.cores, memory_mib=server.memory_mib, disk_gib=server.disk_gib
            )
            volume_flow.lock(volumes)
            server.save(force_insert=True)
            action = actions.begin(KIND, server, "create_server", correlation_id, {"node": node} if node else {})
            server.action_id = action.pk
            Server.objects.filter(pk=server.pk).update(action_id=action.pk)
            for volume in volumes:
                volume_flow.attach_to_new(volume, server, automount, correlation_id)
            images.want(server.image)
            defer(KIND, server.pk)
    except IntegrityError as e:
        if isinstance(e.__cause__, ForeignKeyViolation):
            raise Conflict(
                "the image or the placement group was deleted at the same time", hint="choose another"
            ) from e
        if "server_name" not in str(e):
            raise
        raise NameTaken("name is already used", field="name") from e
    return action


def ask(
    server: Server,
    command: str,
    correlation_id: str = "",
    argument: str = "",
    arguments: dict[str, Any] | None = None,
) -> Action:
    """Ask for a change of power, or for a step again; it is no longer started by itself then. Raises Locked while
    another action runs."""
    with actions.alone(KIND, server, OVERTAKES.get(command, ())) as row:
        Server.objects.filter(pk=row.pk, autostart_at__isnull=False).update(autostart_at=None)
        action = actions.begin(KIND, row, command, correlation_id, arguments, argument=argument)
        wake(row, KIND, urgent=True)
    return action


def delete(server: Server, correlation_id: str = "") -> Action:
    """Ask for its end. Asking again gives the same action. Raises Protected."""
    with transaction.atomic():
        row = Server.objects.select_for_update().get(pk=server.pk)
        asked = actions.running(KIND, row.pk).filter(command="delete_server").first()
        if asked is not None:
            return asked
        if row.protect_delete:
            raise Protected("server deletion is protected", hint=f"change the protection of {row.name} first")
        Server.objects.filter(pk=row.pk).update(delete_requested=True, status=Status.DELETING)
        action = actions.begin(KIND, row, "delete_server", correlation_id)
        wake(row, KIND, urgent=True)
    return action


OVERTAKES = {"stop_server": ("shutdown_server",), "reset_server": ("shutdown_server",)}
