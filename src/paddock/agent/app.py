"""The agent's HTTP API: one route per call of the hypervisor's protocols, the same words on both sides."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from anyio import CapacityLimiter, to_thread
from anyio.abc import ByteStream
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from paddock import __version__
from paddock.agent.calls import MAX_TIME, Answer, Call, answered, bug, correlate, failure, no_route, success
from paddock.agent.consoles import Consoles
from paddock.agent.streams import Streams
from paddock.agent.watch import Watch
from paddock.base.errors import Invalid, PaddockError
from paddock.hypervisor.base import MAX_CHUNK, Capabilities, Hypervisor, Machines
from paddock.hypervisor.faults import FaultOrder
from paddock.hypervisor.wire import (
    MAX_POLL_SECONDS,
    DiskPasswordRequest,
    ExecRequest,
    FileWrite,
    ImageRequest,
    Images,
    KeysRequest,
    MachineList,
    PasswordRequest,
    PowerRequest,
    SnapshotRequest,
    VolumeList,
    WarmList,
    Wishes,
)
from paddock.machine.spec import Disk, Machine, Volume
from paddock.machine.state import (
    Adapted,
    Change,
    FileChunk,
    Fork,
    GuestResult,
    HostFacts,
    MachineState,
    Metrics,
    Progress,
    Readiness,
    Sizes,
    Snapshot,
)

THREADS = 40
GUEST_THREADS = 40  # of their own: a command in a guest may take an hour
LOG_BYTES = 64 * 1024
MAX_LOG_BYTES = 4 * 1024 * 1024

Inject = Callable[[FaultOrder], None]


class Answers:
    """Plain functions, one per route."""

    def __init__(self, hypervisor: Hypervisor, inject: Inject | None) -> None:
        self._machines, self._disks = hypervisor.machines, hypervisor.disks
        self._volumes, self._warm = hypervisor.volumes, hypervisor.warm
        self._guest, self._streams = hypervisor.guest, hypervisor.streams
        self._inject = inject

    def facts(self, _call: Call) -> HostFacts:
        return self._machines.facts().model_copy(update={"version": __version__})

    def capabilities(self, _call: Call) -> Capabilities:
        return self._machines.capabilities()

    def machines(self, _call: Call) -> MachineList:
        return MachineList.model_construct(machines=self._machines.changes(0, 0).machines)

    def state(self, call: Call) -> MachineState:
        return self._machines.state(call.machine)

    def ensure(self, call: Call) -> None:
        machine = call.parsed(Machine)
        if machine.uuid != call.machine:
            raise Invalid(f"machine {machine.uuid} was sent to the address of {call.machine}", field="uuid")
        self._machines.ensure(machine, call.epoch)

    def remove(self, call: Call) -> None:
        self._machines.remove(call.machine, call.epoch)

    def power(self, call: Call) -> MachineState:
        return self._machines.power(call.machine, call.parsed(PowerRequest).power, call.epoch)

    def hibernate(self, call: Call) -> Progress:
        return self._machines.hibernate(call.machine, call.epoch)

    def fork(self, call: Call) -> Fork:
        return self._machines.fork(call.machine, call.point, call.epoch)

    def drop_fork(self, call: Call) -> None:
        self._machines.drop_fork(call.point)

    def disk(self, call: Call) -> None:
        self._disks.ensure_disk(call.machine, call.parsed(Disk), call.epoch)

    def readiness(self, call: Call) -> Readiness:
        return self._machines.readiness(call.machine)

    def adapt(self, call: Call) -> Adapted:
        return self._machines.adapt(call.machine, call.epoch)

    def metrics(self, call: Call) -> Metrics:
        start, end, step = call.time("start"), call.time("end"), call.seconds("step", 0, MAX_TIME)
        if end < start:
            raise Invalid("the end lies before the start", field="end")
        return self._machines.metrics(call.machine, start, end, step)

    def sizes(self, call: Call) -> Sizes:
        return self._machines.sizes(call.machine)

    def snapshot(self, call: Call) -> Snapshot:
        asked = call.parsed(SnapshotRequest)
        return self._disks.snapshot(call.machine, call.snapshot, asked.target, call.epoch, asked.cleaning)

    def drop_snapshot(self, call: Call) -> None:
        self._disks.drop_snapshot(call.machine, call.snapshot, call.epoch)

    def set_disk_password(self, call: Call) -> Progress:
        asked = call.parsed(DiskPasswordRequest)
        return self._disks.set_password(call.machine, asked.user, asked.password_hash, asked.helper, call.epoch)

    def volumes(self, _call: Call) -> VolumeList:
        return VolumeList(volumes=self._volumes.volumes())

    def ensure_volume(self, call: Call) -> None:
        volume = call.parsed(Volume)
        if volume.uuid != call.volume:
            raise Invalid(f"volume {volume.uuid} was sent to the address of {call.volume}", field="uuid")
        self._volumes.ensure_volume(volume, call.epoch)

    def remove_volume(self, call: Call) -> None:
        self._volumes.remove_volume(call.volume, call.epoch)

    def make_warm(self, call: Call) -> Progress:
        return self._warm.make_warm(call.parsed(Machine))

    def warm_images(self, _call: Call) -> WarmList:
        return WarmList(warm=self._warm.warm_images())

    def keep_ready(self, call: Call) -> None:
        self._warm.keep_ready(call.parsed(Wishes).wishes)

    def remove_warm(self, call: Call) -> None:
        self._warm.remove_warm(call.warm)

    def console_log(self, call: Call) -> str:
        limit = min(max(call.whole_number("limit", LOG_BYTES), 0), MAX_LOG_BYTES)
        return self._streams.console_log(call.machine, limit)

    def guest_exec(self, call: Call) -> GuestResult:
        asked = call.parsed(ExecRequest)
        return self._guest.exec(call.machine, asked.argv, asked.stdin, asked.timeout)

    def read_file(self, call: Call) -> FileChunk:
        limit = min(max(call.whole_number("limit", MAX_CHUNK), 1), MAX_CHUNK)
        return self._guest.read_file(call.machine, call.text("path"), max(call.whole_number("offset", 0), 0), limit)

    def write_file(self, call: Call) -> None:
        asked = call.parsed(FileWrite)
        self._guest.write_file(call.machine, asked.path, asked.offset, asked.data)

    def send_keys(self, call: Call) -> None:
        self._streams.send_keys(call.machine, call.parsed(KeysRequest).chords)

    def set_password(self, call: Call) -> None:
        asked = call.parsed(PasswordRequest)
        self._guest.set_password(call.machine, asked.user, asked.password_hash)

    def images(self, _call: Call) -> Images:
        return Images(images=self._disks.images())

    def ensure_image(self, call: Call) -> Progress:
        asked, named = call.parsed(ImageRequest), call.request.path_params["sha256"]
        if asked.manifest.sha256 != named:
            text = f"the manifest of image {asked.manifest.name} has the sha256 {asked.manifest.sha256}, not {named}"
            raise Invalid(text, field="manifest")
        return self._disks.ensure_image(asked.manifest, asked.source)

    def remove_image(self, call: Call) -> None:
        self._disks.remove_image(call.request.path_params["sha256"])

    def faults(self, call: Call) -> None:
        assert self._inject
        self._inject(call.parsed(FaultOrder))

    def changes_now(self, cursor: int) -> Change:
        return self._machines.changes(cursor, 0)


class Agent:
    """The application, and what must be told when it stops. `watched` tells of changes, and may be the machines
    behind the fence, which list faster; `inject` is the fake's door for faults."""

    def __init__(self, hypervisor: Hypervisor, watched: Machines, inject: Inject | None = None) -> None:
        self._hypervisor = hypervisor
        self._watched = watched
        self._answers = Answers(hypervisor, inject)
        self._calls = CapacityLimiter(THREADS)
        self._guest_calls = CapacityLimiter(GUEST_THREADS)
        self._streams = Streams()
        self._watch: Watch | None = None
        routes = [*self._routes(), *self._stream_routes()]
        if inject:
            routes.append(self._route("POST", "/v1/faults", self._answers.faults, "faults"))
        handlers = {404: no_route, 405: no_route, Exception: bug}
        self.app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)

    def stop(self) -> None:
        """Let go of everybody who waits. To be called in the event loop's thread."""
        self._streams.stop()
        if self._watch:
            self._watch.stop()

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        self._watch = Watch(self._watched)
        yield
        self.stop()

    def _route(self, method: str, path: str, function: Answer, change: str = "") -> Route:
        limiter = self._guest_calls if "/guest/" in path else self._calls
        return Route(path, answered(function, limiter, change), methods=[method])

    def _routes(self) -> list[BaseRoute]:
        a, route, machine, image = self._answers, self._route, "/v1/machines/{uuid:uuid}", "/v1/images/{sha256}"
        snapshot, volume = machine + "/snapshots/{snapshot:uuid}", "/v1/volumes/{uuid:uuid}"
        return [
            route("GET", "/v1/facts", a.facts),
            route("GET", "/v1/capabilities", a.capabilities),
            Route("/v1/changes", self._changes, methods=["GET"]),
            route("GET", "/v1/machines", a.machines),
            route("GET", machine, a.state),
            route("PUT", machine, a.ensure, "ensure"),
            route("DELETE", machine, a.remove, "remove"),
            route("POST", machine + "/power", a.power, "power"),
            route("POST", machine + "/hibernate", a.hibernate),
            route("PUT", machine + "/forks/{point:uuid}", a.fork),
            route("DELETE", "/v1/forks/{point:uuid}", a.drop_fork, "drop_fork"),
            route("PUT", machine + "/disks", a.disk, "ensure_disk"),
            route("PUT", machine + "/disks/password", a.set_disk_password),
            route("GET", machine + "/readiness", a.readiness),
            route("POST", machine + "/adapt", a.adapt, "adapt"),
            route("GET", machine + "/metrics", a.metrics),
            route("GET", machine + "/sizes", a.sizes),
            route("PUT", snapshot, a.snapshot),
            route("DELETE", snapshot, a.drop_snapshot, "drop_snapshot"),
            route("GET", machine + "/console_log", a.console_log),
            route("POST", machine + "/guest/exec", a.guest_exec, "exec"),
            route("GET", machine + "/guest/file", a.read_file),
            route("PUT", machine + "/guest/file", a.write_file),
            route("POST", machine + "/keys", a.send_keys),
            route("POST", machine + "/guest/password", a.set_password, "set_password"),
            route("GET", "/v1/volumes", a.volumes),
            route("PUT", volume, a.ensure_volume, "ensure_volume"),
            route("DELETE", volume, a.remove_volume, "remove_volume"),
            route("GET", "/v1/warm", a.warm_images),
            route("POST", "/v1/warm", a.make_warm),
            route("PUT", "/v1/warm/ready", a.keep_ready),
            route("DELETE", "/v1/warm/{warm}", a.remove_warm, "remove_warm"),
            route("GET", "/v1/images", a.images),
            route("PUT", image, a.ensure_image),
            route("DELETE", image, a.remove_image, "remove_image"),
        ]

    def _stream_routes(self) -> list[BaseRoute]:
        source, machine = self._hypervisor.streams, "/v1/machines/{uuid:uuid}"
        consoles = Consoles(source)

        def console(call: Call) -> Awaitable[ByteStream]:
            return consoles.open(call.machine, call.whole_number("scrollback", 0))

        def screen(call: Call) -> Awaitable[ByteStream]:
            return source.vnc(call.machine)

        return [
            WebSocketRoute(machine + "/console", self._streams.endpoint(console, "console")),
            WebSocketRoute(machine + "/vnc", self._streams.endpoint(screen, "screen")),
        ]

    async def _changes(self, request: Request) -> Response:
        """Long poll: waits in the event loop, and takes a thread only to list."""
        correlate(request)
        assert self._watch
        try:
            call = Call(request)
            cursor, timeout = call.whole_number("cursor", 0), call.seconds("timeout", 0, MAX_POLL_SECONDS)
            change = await self._listed(cursor)
            if change.cursor == cursor and timeout:
                await self._watch.passed(cursor, timeout)
                change = await self._listed(cursor)
        except PaddockError as e:
            return failure(e)
        return await to_thread.run_sync(success, change, limiter=self._calls)

    async def _listed(self, cursor: int) -> Change:
        return await to_thread.run_sync(self._answers.changes_now, cursor, limiter=self._calls)
