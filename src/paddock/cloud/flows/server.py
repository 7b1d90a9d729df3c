"""A server's life, from the request to its last trace. Read it top to bottom: it is in the order things happen."""

from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from paddock.base import clock
from paddock.base.errors import Conflict, Locked, NameTaken, NoRoom, NotFound, PaddockError, PortTaken, Refused
from paddock.cloud.flows import claim
from paddock.cloud.flows import image as images
from paddock.cloud.flows.engine import Flow, defer, register, wake
from paddock.cloud.flows.steps import Again, Done, Gone, Next, Then, step
from paddock.cloud.models import Action, ImageCopy, Node, Server
from paddock.cloud.models.server import Status
from paddock.cloud.nodes import hypervisor
from paddock.hypervisor.base import Hypervisor
from paddock.machine.spec import Power
from paddock.machine.state import MachineState, Phase

SHUTDOWN_SECONDS = 90
READY_SECONDS = 600
MAX_RESTARTS = 5  # by itself, one after another


@register
class ServerFlow(Flow[Server]):
    """Steps of a server, birth first, then power, then death."""

    kind = "server"
    lock_class = 1
    model = Server
    related: ClassVar[tuple[str, ...]] = ("node", "image", "server_type")

    # Birth

    @step(seconds=60, by_hand=False)
    def place(self, server: Server) -> Next[Server]:
        """Choose a node, and claim room, a number and an SSH port on it. A node that is only down may come back."""
        if server.node is None and not claim.claim(server):
            if down := claim.only_down(server):
                return Again(0.5, f"node {down} to answer")
            raise NoRoom(f"no node has room: {claim.explain(server)}")
        return Then(self.image)

    @step(seconds=3600)
    def image(self, server: Server) -> Next[Server]:
        """Have the image built, and brought to the node."""
        image = server.image
        if not server.image_sha256:
            if image.state == "failed":
                raise Refused(f"image {image.name} can't be used: {image.problem}")
            if image.state != "ready":
                images.want(image)
                return Again(0.5, f"image {image.name}: {image.doing or 'waiting to be built'} ({image.percent} %)")
            server.set(image_sha256=image.sha256)
        node = _node(server)
        if not ImageCopy.objects.filter(node=node, sha256=server.image_sha256).exists():
            source = str(settings.STATE.images / server.image_sha256)
            progress = hypervisor(node).disks.ensure_image(image.made_of, source)
            if progress.error:
                raise Refused(f"image {image.name} could not be brought to node {node.name}: {progress.error}")
            if not progress.done:
                mib = 2**20
                return Again(
                    0.1, f"image {image.name}: {progress.bytes_done // mib} of {progress.bytes_total // mib} MiB copied"
                )
            ImageCopy.objects.get_or_create(node=node, sha256=server.image_sha256, defaults={"image": image})
        return Then(self.clone)

    @step(needs="stopped")
    def clone(self, server: Server) -> Next[Server]:
        """Make the system disk: an overlay over the image."""
        try:
            _host(server).disks.ensure_disk(server.uuid, server.system_disk(), server.epoch)
        except NotFound:  # the node lost its copy of the image
            ImageCopy.objects.filter(node=server.node, sha256=server.image_sha256).delete()
            return Then(self.image)
        return Then(self.cloud_init)

    @step()
    def cloud_init(self, server: Server) -> Next[Server]:
        """Tell the node the whole machine, and with it what cloud-init in the guest is told."""
        _host(server).machines.ensure(server.machine(), server.epoch)
        if server.status == Status.INITIALIZING and not server.start_after_create:
            server.set(status=Status.OFF, problem="")
            return Then(self.rest, finishes=True)
        return Then(self.start)

    @step(needs="stopped")
    def start(self, server: Server) -> Next[Server]:
        """Start QEMU."""
        power = Power.ON_PAUSED if server.start_paused else Power.ON
        try:
            _host(server).machines.power(server.uuid, power, server.epoch)
        except PortTaken as e:
            if server.port_tries >= _node(server).ssh_ports:
                raise NoRoom(f"none of the node's SSH ports can be used; the last said: {e.message}") from e
            claim.take_next_port(server)
            server.set(port_tries=server.port_tries + 1, only_step="")
            return Then(self.cloud_init)
        server.set(
            status=Status.PAUSED if server.start_paused else Status.RUNNING,
            problem="",
            started_at=Now(),
            ready_at=None,
            ready_by=[],
            start_paused=False,
            port_tries=0,
            observed=Phase.PAUSED if server.start_paused else Phase.RUNNING,
            accelerator=_node(server).facts.get("accelerator", ""),
        )
        return Then(self.rest if power == Power.ON_PAUSED else self.watch, finishes=True)

    @step(seconds=READY_SECONDS, by_hand=False)
    def watch(self, server: Server) -> Next[Server]:
        """Wait until the guest can be used, by whatever signals there are."""
        if wish := self.wish(server):
            return wish
        host = _host(server)
        if host.machines.state(server.uuid).phase != Phase.RUNNING:
            return Then(self.look)
        readiness = host.machines.readiness(server.uuid)
        if not readiness.ready:
            return Again(_patience(server), readiness.waiting_for)
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
        if server.node and server.observed and not _agree(server):
            return Then(self.look)
        return Done()

    @step()
    def look(self, server: Server) -> Next[Server]:
        """The node says something else than we thought: believe it, and start again what shall run."""
        try:
            state = _host(server).machines.state(server.uuid)
        except NotFound:
            server.set(status=Status.UNKNOWN, problem=f"node {_node(server).name} does not know this server")
            return Then(self.rest)
        server.set(observed=state.phase, status=_status(state))
        if state.phase != Phase.CRASHED:
            server.set(problem="")
            return Then(self.rest)
        server.set(problem=state.reason, ready_at=None, waiting_for=state.reason)
        if server.restart == "on-failure" and server.restarts < MAX_RESTARTS:
            server.set(restarts=server.restarts + 1, status=Status.STARTING)
            return Then(self.start)
        return Then(self.rest)

    def wish(self, server: Server) -> Next[Server] | None:
        """The first step of the oldest action that waits for this server."""
        waiting = Action.objects.filter(kind=self.kind, row_id=server.pk, status="running").order_by("id")
        action = waiting.exclude(command="delete_server").first()
        if action is None:
            return None
        server.set(action_id=action.pk, correlation_id=action.correlation_id, **ON_WISH.get(action.command, {}))
        return Then(self._first_step(server, action))

    def _first_step(self, server: Server, action: Action) -> "Callable[[Server], Next[Server]]":
        if action.command == "run_step":
            server.set(only_step=action.argument)
            chosen: Callable[[Server], Next[Server]] = getattr(self, action.argument)
            return chosen
        if action.command in ("start_server", "create_server"):
            if server.node is None:
                return self.place
            return self.cloud_init if server.image_sha256 and not server.problem else self.image
        return {
            "stop_server": self.power_off,
            "shutdown_server": self.shutdown,
            "reboot_server": self.reboot,
            "reset_server": self.reset,
        }[action.command]

    # Power

    @step(needs="running", by_hand=False)
    def shutdown(self, server: Server) -> Next[Server]:
        """Ask the guest to shut down."""
        _host(server).machines.power(server.uuid, Power.SHUTDOWN, server.epoch)
        return Then(self.await_off)

    @step(seconds=SHUTDOWN_SECONDS, by_hand=False)
    def await_off(self, server: Server) -> Next[Server]:
        """Wait until the guest has shut down."""
        state = _host(server).machines.state(server.uuid)
        if state.phase in (Phase.RUNNING, Phase.PAUSED):
            if _overtaken(server):
                raise Conflict("a power off overtook this shutdown")
            return Again(0.5, "the guest to shut down")
        _is_off(server, state.phase)
        return Then(self.rest, finishes=True)

    @step(needs="running", by_hand=False)
    def power_off(self, server: Server) -> Next[Server]:
        """Stop QEMU, like pulling the plug. What never got as far as a machine is off already."""
        with suppress(NotFound):
            if server.node is not None:
                hypervisor(server.node).machines.power(server.uuid, Power.OFF, server.epoch)
        _is_off(server, Phase.OFF)
        return Then(self.rest, finishes=True)

    @step(needs="running", by_hand=False)
    def reboot(self, server: Server) -> Next[Server]:
        """Ask the guest to reboot."""
        _host(server).machines.power(server.uuid, Power.REBOOT, server.epoch)
        server.set(ready_at=None, ready_by=[])
        return Then(self.watch, finishes=True)

    @step(needs="running", by_hand=False)
    def reset(self, server: Server) -> Next[Server]:
        """Press the reset button."""
        _host(server).machines.power(server.uuid, Power.RESET, server.epoch)
        server.set(ready_at=None, ready_by=[])
        return Then(self.watch, finishes=True)

    # Death

    def divert(self, server: Server) -> "Callable[[Server], Next[Server]] | None":
        """Delete comes first, whatever the server was about to do."""
        if not server.delete_requested or server.step in ("destroy", "forget"):
            return None
        action = Action.objects.filter(
            kind=self.kind, row_id=server.pk, status="running", command="delete_server"
        ).first()
        if action is not None:
            server.set(action_id=action.pk, correlation_id=action.correlation_id)
        server.set(status=Status.DELETING)
        return self.destroy

    @step(seconds=600, by_hand=False, destroys=True)
    def destroy(self, server: Server) -> Next[Server]:
        """Remove whatever is there, from whatever point it had reached."""
        if server.node is not None:
            hypervisor(server.node).machines.remove(server.uuid, server.epoch)
        return Then(self.forget)

    @step(by_hand=False)
    def forget(self, server: Server) -> Next[Server]:
        """Give back what was claimed, and delete the row."""
        with transaction.atomic():
            deleted, _ = Server.objects.filter(pk=server.pk, epoch=server.epoch).delete()
            if deleted and server.node is not None:
                server.node.release(server.cores, server.memory_mib, server.disk_gib)
            _running(server).filter(command="delete_server").update(status="success", progress=100, finished=Now())
            _give_up_others(server, "the server was deleted before this was done")
        return Gone()

    def failed(self, server: Server, error: PaddockError) -> Next[Server]:
        """The server stays as far as it got; it can be deleted, started, or have the step run again."""
        server.set(problem=error.message)
        if server.step in ("destroy", "forget"):
            server.set(delete_requested=False, status=Status.UNKNOWN)
            _give_up_others(server, "the server's removal failed half-way")
        elif server.step not in ("await_off", "watch", "reboot", "reset", "shutdown", "power_off"):
            server.set(status=Status.OFF)
        elif server.status == Status.STOPPING:
            server.set(status=Status.OFF if server.node is None else Status.RUNNING)
            return Then(self.rest if server.node is None else self.look)
        return Then(self.rest)


ON_WISH: dict[str, dict[str, object]] = {
    "start_server": {"status": Status.STARTING, "restarts": 0, "port_tries": 0},
    "stop_server": {"status": Status.STOPPING},
    "shutdown_server": {"status": Status.STOPPING},
}


def _running(server: Server) -> "QuerySet[Action]":
    return Action.objects.filter(kind=ServerFlow.kind, row_id=server.pk, status="running")


def _give_up_others(server: Server, why: str) -> None:
    """End, as failed, all that was asked of a server besides its deletion."""
    _running(server).exclude(command="delete_server").update(
        status="error", progress=100, finished=Now(), error_code="server_deleted", error_message=why
    )


def _node(server: Server) -> Node:
    if server.node is None:
        raise Conflict(f"server {server.name} has no node yet", hint="run the step `place` first")
    return server.node


def _host(server: Server) -> Hypervisor:
    return hypervisor(_node(server))


def _is_off(server: Server, phase: Phase) -> None:
    server.set(status=Status.OFF, observed=phase, problem="", ready_at=None, ready_by=[])


def _patience(server: Server) -> float:
    """Seconds until the next look at a guest that boots: short at first, then 2 % of the time it has taken."""
    return min(max(server.waited / 50, 0.15), 5.0)


def _status(state: MachineState) -> Status:
    return {Phase.RUNNING: Status.RUNNING, Phase.PAUSED: Status.PAUSED}.get(state.phase, Status.OFF)


def _agree(server: Server) -> bool:
    """Whether what the node last said is what the row says."""
    up = (Status.RUNNING, Status.PAUSED)
    return server.status == server.observed if server.observed in up else server.status not in up


def _overtaken(server: Server) -> bool:
    return Action.objects.filter(
        kind="server",
        row_id=server.pk,
        status="running",
        command__in=("stop_server", "reset_server"),
        id__gt=server.action_id or 0,
    ).exists()


# What is asked from outside: each writes row, action and wake-up in one transaction


def create(server: Server, correlation_id: str = "") -> Action:
    """Begin a server's life. Raises NoRoom when no node could hold it, Conflict when the name is taken."""
    fitting, verdicts = claim.verdicts(server)
    if not fitting and all(not v.ever for v in verdicts if v.reasons):
        raise NoRoom(f"no node can hold this server: {claim.explain(server)}", hint="choose a smaller server type")
    if not fitting and any(n for n in verdicts if n.ever and not n.down):
        raise NoRoom(f"no node has room: {claim.explain(server)}", hint="delete a server, or choose a smaller type")
    server.step, server.correlation_id = "place", correlation_id
    try:
        with transaction.atomic():
            server.save(force_insert=True)
            action = _action(server, "create_server", correlation_id)
            Server.objects.filter(pk=server.pk).update(action_id=action.pk)
            images.want(server.image)
            defer(ServerFlow.kind, server.pk)
    except IntegrityError as e:
        if "server_name" not in str(e):
            raise
        raise NameTaken("name is already used", field="name") from e
    return action


def ask(server: Server, command: str, correlation_id: str = "", argument: str = "") -> Action:
    """Ask for a change of power, or for a step again. Raises Locked while another action runs."""
    with transaction.atomic():
        Server.objects.select_for_update().get(pk=server.pk)
        running = list(Action.objects.filter(kind="server", row_id=server.pk, status="running"))
        if not all(r.command in OVERTAKES.get(command, ()) for r in running):
            raise Locked(f"server {server.name} is busy with {running[0].command}: {server.waiting_for or server.step}")
        action = _action(server, command, correlation_id, argument)
        wake(server, ServerFlow.kind, urgent=True)
    return action


def delete(server: Server, correlation_id: str = "") -> Action:
    """Ask for its end. Asking again gives the same action."""
    with transaction.atomic():
        Server.objects.select_for_update().get(pk=server.pk)
        asked = Action.objects.filter(
            kind="server", row_id=server.pk, status="running", command="delete_server"
        ).first()
        if asked is not None:
            return asked
        Server.objects.filter(pk=server.pk).update(delete_requested=True, status=Status.DELETING)
        action = _action(server, "delete_server", correlation_id)
        wake(server, ServerFlow.kind, urgent=True)
    return action


OVERTAKES = {"stop_server": ("shutdown_server",), "reset_server": ("shutdown_server",)}


def _action(server: Server, command: str, correlation_id: str, argument: str = "") -> Action:
    return Action.objects.create(
        project_id=server.project_id,
        command=command,
        kind="server",
        row_id=server.pk,
        correlation_id=correlation_id,
        argument=argument,
        started=clock.now(),
    )
