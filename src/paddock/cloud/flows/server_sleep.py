"""A server that stands still, and goes on where it was: paused, or hibernated, with its memory in a file.

What wakes a hibernated one is the end of its birth, like every start (`server.py`): `start`."""

from paddock.base.errors import Conflict, DiskFull, Refused
from paddock.cloud.flows.server_node import host_of
from paddock.cloud.flows.server_power import ServerPower
from paddock.cloud.flows.steps import Again, Next, Then, step
from paddock.cloud.models import Server
from paddock.cloud.models.server import Status
from paddock.machine.spec import Power
from paddock.machine.state import MachineState, Phase

HIBERNATE_SECONDS = 3600.0


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

    @step(seconds=HIBERNATE_SECONDS, needs="running", by_hand=False)
    def hibernate(self, server: Server) -> Next[Server]:
        """Have its memory written to a file, and its QEMU ended. What goes wrong leaves it as it is."""
        if server.status != Status.HIBERNATED:  # as when a worker died right after that
            _check_up(server)
        if server.in_rescue:
            raise Conflict(f"server {server.name} runs the rescue system", hint="reboot it first")
        runs_on = f"server {server.name} is not hibernated, and runs on"
        try:
            told = host_of(server).machines.hibernate(server.uuid, server.epoch)
        except DiskFull as e:
            raise DiskFull(f"{runs_on}: {e.message}", hint=e.hint) from e
        if told.error:
            raise Refused(f"{runs_on}: {told.error}")
        if not told.done:
            mib = 2**20
            return Again(0.3, f"{told.bytes_done // mib} of {told.bytes_total // mib} MiB of its memory written")
        server.set(status=Status.HIBERNATED, observed=Phase.HIBERNATED, problem="", ready_at=None, ready_by=[])
        return Then(self.rest, finishes=True)

    def woke(self, server: Server, state: MachineState) -> str:
        """Of one that was hibernated until now: have it given what it was to get meanwhile. Returns why it could not go
        on with its memory; empty: it did."""
        host_of(server).machines.adapt(server.uuid, server.epoch)
        return state.cold_start


def _check_up(server: Server) -> None:
    if server.status not in (Status.RUNNING, Status.PAUSED):
        raise Conflict(f"server {server.name} is {server.status}", hint="power it on first")
