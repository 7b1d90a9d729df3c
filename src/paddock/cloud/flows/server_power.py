"""The power of a server: off and on again. On is the end of its birth (`server.py`): `start`."""

from contextlib import suppress

from paddock.base.errors import Conflict, NotFound
from paddock.cloud.flows.engine import Flow
from paddock.cloud.flows.server_node import host_of, is_off, other_system, overtaken
from paddock.cloud.flows.steps import Again, Next, Then, step
from paddock.cloud.models import Server
from paddock.cloud.models.server import Status
from paddock.cloud.nodes import hypervisor
from paddock.machine.spec import Power
from paddock.machine.state import Phase

SHUTDOWN_SECONDS = 90
COME_DOWN_SECONDS = 30.0  # for a guest to shut down before its plug is pulled


class ServerPower(Flow[Server]):
    """Steps of power. Those that they lead to besides are in `ServerFlow`."""

    def image(self, server: Server) -> Next[Server]:
        """See ServerFlow."""
        raise LookupError(f"BUG: the life of server {server.pk} lacks a step")

    def cloud_init(self, server: Server) -> Next[Server]:
        """See ServerFlow."""
        raise LookupError(f"BUG: the life of server {server.pk} lacks a step")

    def place(self, server: Server) -> Next[Server]:
        """See ServerFlow."""
        raise LookupError(f"BUG: the life of server {server.pk} lacks a step")

    def watch(self, server: Server) -> Next[Server]:
        """See ServerFlow."""
        raise LookupError(f"BUG: the life of server {server.pk} lacks a step")

    @step(needs="running", by_hand=False)
    def shutdown(self, server: Server) -> Next[Server]:
        """Ask the guest to shut down."""
        check_hears(server, "shut it down", "power it off")
        host_of(server).machines.power(server.uuid, Power.SHUTDOWN, server.epoch)
        return Then(self.await_off)

    @step(seconds=SHUTDOWN_SECONDS, by_hand=False)
    def await_off(self, server: Server) -> Next[Server]:
        """Wait until the guest has shut down."""
        state = host_of(server).machines.state(server.uuid)
        if state.phase in (Phase.RUNNING, Phase.PAUSED):
            if overtaken(server):
                raise Conflict("a power off or a reset overtook this shutdown")
            return Again(0.5, "the guest to shut down")
        is_off(server, state.phase)
        return Then(self.rest, finishes=True)

    @step(needs="running", by_hand=False)
    def power_off(self, server: Server) -> Next[Server]:
        """Stop QEMU, like pulling the plug. What never got as far as a machine is off already."""
        with suppress(NotFound):
            if server.node is not None:
                hypervisor(server.node).machines.power(server.uuid, Power.OFF, server.epoch)
        is_off(server, Phase.OFF)
        return Then(self.rest, finishes=True)

    @step(needs="running", by_hand=False)
    def reboot(self, server: Server) -> Next[Server]:
        """Ask the guest to reboot; into the rescue system, or out of it, it is shut down and started."""
        check_hears(server, "reboot it", "reset it")
        if other_system(server):
            host_of(server).machines.power(server.uuid, Power.SHUTDOWN, server.epoch)
            return Then(self.come_down)
        host_of(server).machines.power(server.uuid, Power.REBOOT, server.epoch)
        server.set(ready_at=None, ready_by=[])
        return Then(self.watch, finishes=True)

    @step(needs="running", by_hand=False)
    def reset(self, server: Server) -> Next[Server]:
        """Press the reset button; into the rescue system, or out of it, it is stopped and started. One that is paused
        goes on, since who resets a server wants it to run."""
        machines = host_of(server).machines
        if other_system(server):
            machines.power(server.uuid, Power.OFF, server.epoch)
            return Then(self.cloud_init)
        machines.power(server.uuid, Power.RESET, server.epoch)
        if server.observed == Phase.PAUSED:
            machines.power(server.uuid, Power.RESUME, server.epoch)
            server.set(status=Status.RUNNING, observed=Phase.RUNNING, problem="")
        server.set(ready_at=None, ready_by=[])
        return Then(self.watch, finishes=True)

    @step(by_hand=False)
    def come_down(self, server: Server) -> Next[Server]:
        """Wait until the guest has shut down, but not for long; then start the other system."""
        host = host_of(server)
        if host.machines.state(server.uuid).phase in (Phase.RUNNING, Phase.PAUSED):
            if server.waited < COME_DOWN_SECONDS:
                return Again(0.3, "the guest to shut down")
            host.machines.power(server.uuid, Power.OFF, server.epoch)
        return Then(self.cloud_init)


def check_hears(server: Server, what: str, instead: str) -> None:
    """Raises Conflict for a guest that stands still: it can't do what it is asked."""
    if server.observed in (Phase.PAUSED, Phase.HIBERNATED):
        on = "resume" if server.observed == Phase.PAUSED else "wake"
        raise Conflict(f"server {server.name} is {server.observed}: nobody can {what}", hint=f"{on} it, or {instead}")
