"""A server that stands still, and goes on where it was: paused."""

from paddock.base.errors import Conflict
from paddock.cloud.flows.server_node import host_of
from paddock.cloud.flows.server_power import ServerPower
from paddock.cloud.flows.steps import Next, Then, step
from paddock.cloud.models import Server
from paddock.cloud.models.server import Status
from paddock.machine.spec import Power
from paddock.machine.state import Phase


class ServerSleep(ServerPower):
    """Steps of standing still. Those that they lead to besides are in `ServerFlow`."""

    @step(needs="running", by_hand=False)
    def pause(self, server: Server) -> Next[Server]:
        """Have its CPUs stand still; its memory stays as it is."""
        _check_up(server)
        host_of(server).machines.power(server.uuid, Power.PAUSE, server.epoch)
        server.set(status=Status.PAUSED, observed=Phase.PAUSED)
        return Then(self.rest, finishes=True)

    @step(needs="running", by_hand=False)
    def resume(self, server: Server) -> Next[Server]:
        """Have its CPUs go on. One that was paused while it booted boots on."""
        _check_up(server)
        host_of(server).machines.power(server.uuid, Power.RESUME, server.epoch)
        server.set(status=Status.RUNNING, observed=Phase.RUNNING, problem="")
        return Then(self.rest if server.ready_at else self.watch, finishes=True)


def _check_up(server: Server) -> None:
    if server.status not in (Status.RUNNING, Status.PAUSED):
        raise Conflict(f"server {server.name} is {server.status}", hint="power it on first")
