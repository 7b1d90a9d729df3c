"""A server that is forked, and how its forks begin: from its memory, its devices and its disk of one instant.

Each fork is a row of its own from the request on, and lives through the steps of any server's birth (`server.py`). It
waits for the memory that it begins from, and the last of them has that removed. What is asked for is in `forking.py`.
"""

from uuid import UUID

from paddock.base.errors import Conflict, DiskFull, PaddockError, Refused
from paddock.cloud.flows.engine import wake
from paddock.cloud.flows.server_changes import ServerChanges
from paddock.cloud.flows.server_node import KIND, action_of, check_can, host_of
from paddock.cloud.flows.steps import Again, Next, Then, step
from paddock.cloud.models import Action, Node, Server
from paddock.cloud.models.server import Status
from paddock.cloud.nodes import hypervisor
from paddock.machine.state import Fork

FORK_SECONDS = 3600.0
LOST = "lost"  # how one "began" that could not begin


class ServerFork(ServerChanges):
    """Steps of forks. Those that they lead to besides are in `ServerFlow`."""

    @step(seconds=FORK_SECONDS, needs="running", by_hand=False)
    def fork(self, server: Server) -> Next[Server]:
        """Have its memory, devices and disk kept as of one instant. What goes wrong leaves it as it is."""
        if server.status != Status.RUNNING:
            raise Conflict(f"server {server.name} is {server.status}", hint="have it run first")
        check_can(server, "fork", "fork servers")
        action = action_of(server)
        point = UUID(action.arguments["point"])
        if not pending(point):
            host_of(server).machines.drop_fork(point)
            raise Conflict("all of its forks were deleted before they began")
        told = _forked(server, point)
        if not told.done:
            mib = 2**20
            return Again(0.2, f"{told.doing}: {told.bytes_done // mib} of {told.bytes_total // mib} MiB")
        Action.objects.filter(pk=action.pk).update(arguments={**action.arguments, "paused_ms": told.paused_ms})
        server.set(waiting_for=f"it stood still for {told.paused_ms:g} ms")
        for child in Server.objects.filter(fork=point):
            wake(child, KIND)
        return Then(self.rest, finishes=True)

    @step(seconds=FORK_SECONDS, by_hand=False)
    def memory(self, server: Server) -> Next[Server]:
        """Of a fork: wait until the memory is there that it begins from."""
        asked = Action.objects.filter(pk=server.forked_by or 0).first()
        if asked is not None and asked.status == "running":
            return Again(0.3, "the memory of the server that it is a fork of")
        if asked is None or asked.status == "error":
            why = asked.error_message if asked else "nothing is known of that any more"
            raise Refused(f"the server that it is a fork of was not forked: {why}", hint="delete it, and fork again")
        return Then(self.start)

    @step(by_hand=False)
    def part(self, server: Server) -> Next[Server]:
        """Of a fork that has begun, or has given that up: the last one has the memory removed."""
        leave(server)
        if server.began == LOST:
            return Then(self.rest)
        server.set(fork=None)
        return Then(self.watch)

    def start(self, server: Server) -> Next[Server]:
        """See ServerFlow."""
        raise LookupError(f"BUG: the life of server {server.pk} lacks a step")


def begins_as_fork(server: Server) -> bool:
    """Whether its first start is still to come, and is to be from another's memory."""
    return server.fork is not None


def pending(point: UUID) -> bool:
    """Whether somebody may yet begin from it."""
    return Server.objects.filter(fork=point, began="", delete_requested=False).exists()


def leave(server: Server) -> None:
    """Have the memory removed that it was to begin from, unless others wait for that."""
    if server.fork is None or pending(server.fork):
        return
    if node := server.node or _asked_node(server):
        hypervisor(node).machines.drop_fork(server.fork)


def _asked_node(server: Server) -> Node | None:
    """Where it was to be, which is where the memory is."""
    created = Action.objects.filter(kind=KIND, row_id=server.pk, command="create_server").first()
    return Node.objects.filter(name=created.arguments.get("node", "")).first() if created else None


def _forked(server: Server, point: UUID) -> Fork:
    """Raises Conflict, DiskFull, Refused, each of which says that it runs on."""
    runs_on = f"server {server.name} is not forked, and runs on"
    try:
        told = host_of(server).machines.fork(server.uuid, point, server.epoch)
    except (Conflict, DiskFull) as e:
        raise _said(e, f"{runs_on}: {e.message}") from e
    if told.error:
        raise Refused(f"{runs_on}: {told.error}")
    return told


def _said(error: PaddockError, message: str) -> PaddockError:
    return type(error)(message, hint=error.hint)
