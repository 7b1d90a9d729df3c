"""A hypervisor on the other side of a unix socket: the same protocols, spoken over HTTP to a node agent.

Errors come back as the classes they were raised as; an agent that can't be reached is Unavailable.
"""

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import UUID

import anyio
import httpx
from anyio.abc import ByteStream
from pydantic import BaseModel, ValidationError
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import CloseCode

from paddock.base.errors import Invalid, PaddockError, Unavailable, from_wire
from paddock.base.log import correlation_id
from paddock.hypervisor.base import Capabilities
from paddock.hypervisor.faults import FaultOrder
from paddock.hypervisor.wire import (
    CORRELATION_HEADER,
    EPOCH,
    DiskPasswordRequest,
    ExecRequest,
    FileWrite,
    ImageRequest,
    Images,
    KeysRequest,
    PasswordRequest,
    PowerRequest,
    SnapshotRequest,
    VolumeList,
    WarmList,
    Wishes,
)
from paddock.machine.cleaning import Cleaning
from paddock.machine.image import ImageManifest
from paddock.machine.keys import Chord
from paddock.machine.spec import Disk, Machine, Power, Volume
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
    VolumeState,
)
from paddock.machine.warm import WarmImage, Wish

Model = TypeVar("Model", bound=BaseModel)

SCHEME = "unix://"
GRACE = 10.0  # seconds beyond what the agent was given to wait itself
MAX_CONNECTIONS = 100
MAX_FRAME = 1024 * 1024  # bytes
GUEST_SECONDS = 20.0  # that a guest may take to change a password, or to let go of a disk
WAKE_SECONDS = 120.0  # that reading the memory of a hibernated machine may take
FILE_SECONDS = 40.0  # that a guest may take for a part of a file
KEYS_SECONDS = 20.0  # that pressing many keys takes
FORMAT_SECONDS = 60.0  # that making a volume's file system may take


class RemoteHypervisor:
    """A node behind its agent at `unix:///path/of.sock`. `timeout` is in seconds. Thread-safe."""

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        self._link = Link(url, timeout)
        self.machines = RemoteMachines(self._link)
        self.disks = RemoteDisks(self._link)
        self.volumes = RemoteVolumes(self._link)
        self.warm = RemoteWarm(self._link)
        self.guest = RemoteGuest(self._link)
        self.streams = RemoteStreams(self._link)

    def inject(self, order: FaultOrder) -> None:
        """Make a fake node do wrong. Raises NotFound at any other node."""
        self._link.send("POST", "/v1/faults", order)

    def close(self) -> None:
        self._link.close()


class Link:
    """A kept pool of connections to one agent."""

    def __init__(self, url: str, timeout: float) -> None:
        if not url.startswith(SCHEME + "/"):
            raise Invalid(f"{url!r} is not the address of a node agent", hint="it begins with unix:///", field="url")
        self.url = url
        self.path = url.removeprefix(SCHEME)
        self.timeout = timeout
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=20, keepalive_expiry=30)
        no_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # else httpx loads all certificates of the system, in 30 ms
        transport = httpx.HTTPTransport(uds=self.path, limits=limits, verify=no_tls)
        self._client = httpx.Client(transport=transport, base_url="http://node", timeout=timeout, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def get(self, model: type[Model], path: str, params: dict[str, Any] | None = None, wait: float = 0) -> Model:
        """Ask for something. `wait` is how long the agent itself may take, in seconds."""
        return self._parsed(model, self._request("GET", path, params, None, wait))

    def ask(self, model: type[Model], method: str, path: str, body: BaseModel | None = None, wait: float = 0) -> Model:
        """Send something and read the answer."""
        return self._parsed(model, self._request(method, path, None, body, wait))

    def send(
        self, method: str, path: str, body: BaseModel | None = None, epoch: int | None = None, wait: float = 0
    ) -> None:
        """Send something that has no answer but success."""
        self._request(method, path, None if epoch is None else {EPOCH: epoch}, body, wait)

    def text(self, path: str, params: dict[str, Any]) -> str:
        return self._request("GET", path, params, None, 0).text

    def _request(
        self, method: str, path: str, params: dict[str, Any] | None, body: BaseModel | None, wait: float
    ) -> httpx.Response:
        headers = {CORRELATION_HEADER: correlation_id.get()}
        content = None if body is None else body.model_dump_json()
        timeout = httpx.Timeout(self.timeout, read=wait + GRACE if wait else self.timeout)
        try:
            response = self._client.request(
                method, path, params=params, content=content, headers=headers, timeout=timeout
            )
        except (httpx.HTTPError, RuntimeError) as e:
            raise self.unavailable(e) from e
        if response.is_error:
            raise self.error(response.status_code, response.content)
        return response

    def _parsed(self, model: type[Model], response: httpx.Response) -> Model:
        try:
            return model.model_validate_json(response.content)
        except ValueError as e:
            raise Unavailable(f"node agent at {self.url} answered what is no {model.__name__}: {e}") from e

    def unavailable(self, cause: Exception) -> Unavailable:
        said = "it did not answer in time" if isinstance(cause, httpx.TimeoutException | TimeoutError) else str(cause)
        text = f"node agent at {self.url} can't be reached: {said or type(cause).__name__}"
        return Unavailable(text, hint="`paddock status` tells whether it runs")

    def error(self, status: int, body: bytes) -> PaddockError:
        """The error that an answer tells of."""
        try:
            return from_wire(json.loads(body)["error"])
        except (ValueError, KeyError, TypeError):
            return Unavailable(f"node agent at {self.url} answered {status}: {body[:200].decode(errors='replace')}")

    @asynccontextmanager
    async def _explained(self) -> AsyncIterator[None]:
        try:
            yield
        except InvalidStatus as e:
            raise self.error(e.response.status_code, bytes(e.response.body or b"")) from e
        except (OSError, WebSocketException) as e:
            raise self.unavailable(e) from e

    async def stream(self, path: str) -> ByteStream:
        """Open a WebSocket as a stream of bytes."""
        async with self._explained():
            connection = await unix_connect(
                self.path, f"ws://node{path}", max_size=MAX_FRAME, compression=None, open_timeout=self.timeout,
                close_timeout=1, additional_headers={CORRELATION_HEADER: correlation_id.get()}, proxy=None,
            )  # fmt: skip
        return WebSocketStream(connection)


class WebSocketStream(ByteStream):
    """A WebSocket of binary frames as a stream of bytes."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._rest = b""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            data = self._rest or await self._connection.recv(decode=False)
        except ConnectionClosed as e:
            if e.rcvd and e.rcvd.code == CloseCode.NORMAL_CLOSURE:  # and not when the agent goes away
                raise anyio.EndOfStream from e
            raise anyio.BrokenResourceError(e.rcvd.reason if e.rcvd else "the connection broke") from e
        self._rest = data[max_bytes:]
        return data[:max_bytes]

    async def send(self, item: bytes) -> None:
        try:
            await self._connection.send(item)
        except ConnectionClosed as e:
            raise anyio.BrokenResourceError from e

    async def send_eof(self) -> None:
        """Neither a serial line nor a screen has an end of file."""

    async def aclose(self) -> None:
        await self._connection.close()


def _in_epoch(path: str, epoch: int) -> str:
    return f"{path}?{EPOCH}={epoch}"


def _checked(model: type[Model], **fields: object) -> Model:
    """The body of a call. Raises Invalid naming the field, and never shows the value: it may be a secret."""
    try:
        return model(**fields)
    except ValidationError as e:
        first = e.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise Invalid(f"{field}: {first['msg']}", field=field) from None


def _of(machine: UUID, what: str = "") -> str:
    return f"/v1/machines/{machine}{what}"


class RemoteMachines:
    """See `paddock.hypervisor.base.Machines`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._capabilities: Capabilities | None = None

    def capabilities(self) -> Capabilities:
        if self._capabilities is None:
            self._capabilities = self._link.get(Capabilities, "/v1/capabilities")
        return self._capabilities

    def facts(self) -> HostFacts:
        return self._link.get(HostFacts, "/v1/facts")

    def ensure(self, machine: Machine, epoch: int) -> None:
        self._link.send("PUT", _of(machine.uuid), machine, epoch)

    def power(self, machine: UUID, power: Power, epoch: int) -> MachineState:
        wait = WAKE_SECONDS if power in (Power.ON, Power.ON_PAUSED, Power.RESUME) else 0
        path = _in_epoch(_of(machine, "/power"), epoch)
        return self._link.ask(MachineState, "POST", path, PowerRequest(power=power), wait=wait)

    def hibernate(self, machine: UUID, epoch: int) -> Progress:
        return self._link.ask(Progress, "POST", _in_epoch(_of(machine, "/hibernate"), epoch), wait=GUEST_SECONDS)

    def fork(self, machine: UUID, point: UUID, epoch: int) -> Fork:
        return self._link.ask(Fork, "PUT", _in_epoch(_of(machine, f"/forks/{point}"), epoch), wait=GUEST_SECONDS)

    def drop_fork(self, point: UUID) -> None:
        self._link.send("DELETE", f"/v1/forks/{point}", wait=GUEST_SECONDS)

    def remove(self, machine: UUID, epoch: int) -> None:
        self._link.send("DELETE", _of(machine), None, epoch)

    def state(self, machine: UUID) -> MachineState:
        return self._link.get(MachineState, _of(machine))

    def changes(self, cursor: int, timeout: float) -> Change:
        return self._link.get(Change, "/v1/changes", {"cursor": cursor, "timeout": timeout}, wait=max(timeout, 0.1))

    def readiness(self, machine: UUID) -> Readiness:
        return self._link.get(Readiness, _of(machine, "/readiness"))

    def adapt(self, machine: UUID, epoch: int) -> Adapted:
        return self._link.ask(Adapted, "POST", _in_epoch(_of(machine, "/adapt"), epoch), wait=GUEST_SECONDS)

    def metrics(self, machine: UUID, start: float, end: float, step: float) -> Metrics:
        return self._link.get(Metrics, _of(machine, "/metrics"), {"start": start, "end": end, "step": step})

    def sizes(self, machine: UUID) -> Sizes:
        return self._link.get(Sizes, _of(machine, "/sizes"))


class RemoteDisks:
    """See `paddock.hypervisor.base.Disks`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def ensure_image(self, manifest: ImageManifest, source: str) -> Progress:
        body = ImageRequest(manifest=manifest, source=source)
        return self._link.ask(Progress, "PUT", f"/v1/images/{manifest.sha256}", body)

    def images(self) -> tuple[str, ...]:
        return self._link.get(Images, "/v1/images").images

    def remove_image(self, image: str) -> None:
        self._link.send("DELETE", f"/v1/images/{image}")

    def ensure_disk(self, machine: UUID, disk: Disk, epoch: int) -> None:
        self._link.send("PUT", _of(machine, "/disks"), disk, epoch)

    def snapshot(
        self, machine: UUID, snapshot: UUID, target: str, epoch: int, cleaning: Cleaning | None = None
    ) -> Snapshot:
        body = _checked(SnapshotRequest, target=target, cleaning=cleaning)
        return self._link.ask(Snapshot, "PUT", _in_epoch(_of(machine, f"/snapshots/{snapshot}"), epoch), body)

    def drop_snapshot(self, machine: UUID, snapshot: UUID, epoch: int) -> None:
        self._link.send("DELETE", _of(machine, f"/snapshots/{snapshot}"), None, epoch)

    def set_password(self, machine: UUID, user: str, password_hash: str, helper: str, epoch: int) -> Progress:
        body = _checked(DiskPasswordRequest, user=user, password_hash=password_hash, helper=helper)
        return self._link.ask(Progress, "PUT", _in_epoch(_of(machine, "/disks/password"), epoch), body)


class RemoteVolumes:
    """See `paddock.hypervisor.base.Volumes`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def ensure_volume(self, volume: Volume, epoch: int) -> None:
        self._link.send("PUT", f"/v1/volumes/{volume.uuid}", volume, epoch, wait=FORMAT_SECONDS)

    def remove_volume(self, volume: UUID, epoch: int) -> None:
        self._link.send("DELETE", f"/v1/volumes/{volume}", None, epoch)

    def volumes(self) -> tuple[VolumeState, ...]:
        return self._link.get(VolumeList, "/v1/volumes").volumes


class RemoteWarm:
    """See `paddock.hypervisor.base.WarmImages`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def make_warm(self, machine: Machine) -> Progress:
        return self._link.ask(Progress, "POST", "/v1/warm", machine)

    def warm_images(self) -> tuple[WarmImage, ...]:
        return self._link.get(WarmList, "/v1/warm").warm

    def keep_ready(self, wishes: tuple[Wish, ...]) -> None:
        self._link.send("PUT", "/v1/warm/ready", Wishes(wishes=wishes))

    def remove_warm(self, id: str) -> None:
        self._link.send("DELETE", f"/v1/warm/{quote(id, safe='')}")


class RemoteGuest:
    """See `paddock.hypervisor.base.Guest`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def exec(self, machine: UUID, argv: tuple[str, ...], stdin: str, timeout: float) -> GuestResult:
        body = ExecRequest(argv=argv, stdin=stdin, timeout=timeout)
        return self._link.ask(GuestResult, "POST", _of(machine, "/guest/exec"), body, wait=timeout)

    def read_file(self, machine: UUID, path: str, offset: int, limit: int) -> FileChunk:
        where = {"path": path, "offset": offset, "limit": limit}
        return self._link.get(FileChunk, _of(machine, "/guest/file"), where, wait=FILE_SECONDS)

    def write_file(self, machine: UUID, path: str, offset: int, data: bytes) -> None:
        body = _checked(FileWrite, path=path, offset=offset, data=data)
        self._link.send("PUT", _of(machine, "/guest/file"), body, wait=FILE_SECONDS)

    def set_password(self, machine: UUID, user: str, password_hash: str) -> None:
        body = _checked(PasswordRequest, user=user, password_hash=password_hash)
        self._link.send("POST", _of(machine, "/guest/password"), body, wait=GUEST_SECONDS)


class RemoteStreams:
    """See `paddock.hypervisor.base.Streams`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def console(self, machine: UUID, scrollback: int = 0) -> ByteStream:
        return await self._link.stream(_of(machine, f"/console?scrollback={scrollback}"))

    async def vnc(self, machine: UUID) -> ByteStream:
        return await self._link.stream(_of(machine, "/vnc"))

    def console_log(self, machine: UUID, limit: int) -> str:
        return self._link.text(_of(machine, "/console_log"), {"limit": limit})

    def send_keys(self, machine: UUID, chords: tuple[Chord, ...]) -> None:
        self._link.send("POST", _of(machine, "/keys"), KeysRequest(chords=chords), wait=KEYS_SECONDS)
