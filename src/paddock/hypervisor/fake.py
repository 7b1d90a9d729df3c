"""A hypervisor in memory: no guests, the same answers. The whole cloud runs on it, for development and for tests.

Given a directory, its machines outlive the process like QEMU's do. It does wrong whatever it is told to (`inject`).
It keeps no epochs: `fence.Fenced` does that for every driver.
"""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from anyio.abc import ByteStream

from paddock import __version__
from paddock.base import clock
from paddock.base.errors import Conflict, DiskFull, Invalid, NotFound, PortTaken, Unavailable
from paddock.hypervisor.base import Capabilities
from paddock.hypervisor.fake_store import Saved, Store, check_files, total_bytes
from paddock.hypervisor.fake_streams import RFB_VERSION, BlankScreen, LocalStream
from paddock.hypervisor.faults import FaultOrder, Faults
from paddock.machine.image import ImageManifest
from paddock.machine.spec import GIB, Disk, Machine, Power
from paddock.machine.state import (
    Accelerator,
    Change,
    GuestResult,
    HostFacts,
    MachineState,
    Phase,
    Progress,
    Readiness,
)

LOG_BYTES = 64 * 1024
ON = (Phase.RUNNING, Phase.PAUSED)
PATIENCE = 0.05  # seconds that the first question for an image waits, so that small ones are there at once


@dataclass
class _Fake:
    """A machine, from its first disk on."""

    saved: Saved
    log: bytearray = field(default_factory=bytearray)
    streams: list[LocalStream] = field(default_factory=list)

    @property
    def on(self) -> bool:
        return self.saved.phase in ON

    def write(self, data: bytes) -> bytes:
        self.log += data
        del self.log[:-LOG_BYTES]
        return data

    def greeting(self) -> bytes:
        name = self.saved.machine.name if self.saved.machine else ""
        return f"Paddock fake machine {name}\r\n{name} login: ".encode()


class FakeHypervisor:
    """A host that pretends. `memory_mib` in MiB, `disk` in bytes, `delay` and `ready_after` in seconds."""

    def __init__(
        self,
        state_dir: Path | None = None,
        cpus: int = 64,
        memory_mib: int = 256 * 1024,
        disk: int = 16 * 1024 * GIB,
        delay: float = 0.0,
        ready_after: float = 0.0,
    ) -> None:
        self.cpus, self.memory_mib, self.disk, self.ready_after = cpus, memory_mib, disk, ready_after
        self.faults = Faults(delay)
        self.changed = threading.Condition(threading.RLock())
        self.store = Store(state_dir)
        self.fakes = {saved.uuid: _Fake(saved) for saved in self.store.machines()}
        self.images = {manifest.sha256: manifest for manifest in self.store.images()}
        self.ports = {fake.saved.port: u for u, fake in self.fakes.items() if fake.on}
        self.memory_used = sum(fake.saved.memory_mib for fake in self.fakes.values() if fake.on)
        self.states = {u: fake.saved.state() for u, fake in self.fakes.items() if fake.saved.machine}
        self.used = sum(d.size for f in self.fakes.values() for d in f.saved.disks.values())
        self.used += sum(total_bytes(m) for m in self.images.values())
        # A cursor of an earlier process is never one of ours, so that who holds it is answered at once.
        self.cursor = int(clock.now().timestamp() * 1000)
        self.machines = FakeMachines(self)
        self.disks = FakeDisks(self)
        self.guest = FakeGuest(self)
        self.streams = FakeStreams(self)

    def inject(self, order: FaultOrder) -> None:
        """Do wrong as told from now on. Raises NotFound for a machine to crash that is not there."""
        self.faults.take(order)
        for uuid in order.crash:
            with self.changed:
                fake = self.find(uuid)
                if fake.on:
                    self.turn_off(fake, Phase.CRASHED, "its process was told to crash")

    def close(self) -> None:
        """Nothing to let go of."""

    def find(self, machine: UUID) -> _Fake:
        """A defined machine. Raises NotFound."""
        fake = self.fakes.get(machine)
        if fake is None or fake.saved.machine is None:
            raise NotFound(f"there is no machine {machine} on this node")
        return fake

    def running(self, machine: UUID) -> _Fake:
        """A machine that is on. Raises NotFound, Conflict."""
        fake = self.find(machine)
        if not fake.on:
            raise Conflict(f"machine {machine} is {fake.saved.phase}", hint="start it first")
        return fake

    def keep(self, fake: _Fake, saved: Saved) -> None:
        """Make it what `saved` says, here and in the store, and tell who waits."""
        self.store.save(saved)
        fake.saved = saved
        if saved.machine:
            self.states[saved.uuid] = saved.state()
        self.tell()

    def turn_on(self, fake: _Fake, phase: Phase) -> None:
        """Start it, with its definition as it is now. Raises PortTaken."""
        machine, wanted = fake.saved.machine, fake.saved.endpoint
        holder = self.ports.setdefault(wanted, fake.saved.uuid)
        if holder != fake.saved.uuid:
            raise PortTaken(f"port {wanted} is in use by machine {holder}", hint="take another port")
        held = {"port": wanted, "memory_mib": machine.memory_mib if machine else 0}
        fake.saved = fake.saved.model_copy(update=held)
        self.memory_used += fake.saved.memory_mib
        self.set_phase(fake, phase)

    def turn_off(self, fake: _Fake, phase: Phase, reason: str) -> None:
        """Stop it; what was connected to it is hung up."""
        self.ports.pop(fake.saved.port, None)
        self.memory_used -= fake.saved.memory_mib
        self.set_phase(fake, phase, reason)
        for stream in fake.streams:
            stream.hang_up()
        fake.streams.clear()

    def set_phase(self, fake: _Fake, phase: Phase, reason: str = "") -> None:
        """Change its phase from now on."""
        self.keep(fake, fake.saved.model_copy(update={"phase": phase, "since": clock.now(), "reason": reason}))
        if phase is Phase.RUNNING:
            fake.write(fake.greeting())

    def tell(self) -> None:
        self.cursor += 1
        self.changed.notify_all()

    def claim(self, size: int) -> None:
        """Take bytes of the disk. Raises DiskFull."""
        free = self.disk - self.used
        if size > free:
            raise DiskFull(f"no room for {size} bytes: {free} of {self.disk} are free", hint="free room on the node")
        self.used += size


class FakeMachines:
    """See `paddock.hypervisor.base.Machines`."""

    def __init__(self, host: FakeHypervisor) -> None:
        self._host = host

    def capabilities(self) -> Capabilities:
        return Capabilities(driver="fake")

    def facts(self) -> HostFacts:
        host = self._host
        with host.faults.around("facts"), host.changed:
            return HostFacts(
                version=__version__, hostname="fake", cpus=host.cpus, memory_mib=host.memory_mib,
                memory_free_mib=max(0, host.memory_mib - host.memory_used), disk=host.disk,
                disk_free=host.disk - host.used,
                accelerator=Accelerator.TCG, accelerator_reason="nothing is run at all", hypervisor="fake",
            )  # fmt: skip

    def ensure(self, machine: Machine, epoch: int) -> None:  # noqa: ARG002 - the fence keeps epochs
        host = self._host
        with host.faults.around("ensure", machine.uuid), host.changed:
            fake = host.fakes.get(machine.uuid)
            if fake is None or machine.system_disk.name not in fake.saved.disks:
                raise Conflict(f"machine {machine.uuid} has no disk {machine.system_disk.name}", hint="make it first")
            if fake.saved.machine != machine:
                host.keep(fake, fake.saved.model_copy(update={"machine": machine}))

    def power(self, machine: UUID, power: Power, epoch: int) -> None:  # noqa: ARG002 - the fence keeps epochs
        host = self._host
        with host.faults.around("power", machine), host.changed:
            fake = host.find(machine)
            if power in (Power.ON, Power.ON_PAUSED):
                self._on(fake, power)
            elif power in (Power.REBOOT, Power.RESET):
                self._restart(host.running(machine))
            elif fake.on and (power is Power.OFF or self._obeys(fake)):
                why = "powered off" if power is Power.OFF else "the guest shut down"
                host.turn_off(fake, Phase.OFF, why)

    def _obeys(self, fake: _Fake) -> bool:
        return fake.saved.phase is Phase.RUNNING and not self._host.faults.shutdown_ignored

    def _on(self, fake: _Fake, power: Power) -> None:
        if not fake.on:
            self._host.turn_on(fake, Phase.RUNNING if power is Power.ON else Phase.PAUSED)
        elif power is Power.ON and fake.saved.phase is Phase.PAUSED:
            self._host.set_phase(fake, Phase.RUNNING)

    def _restart(self, fake: _Fake) -> None:
        if fake.saved.phase is Phase.RUNNING:
            self._host.set_phase(fake, Phase.RUNNING)

    def remove(self, machine: UUID, epoch: int) -> None:  # noqa: ARG002 - the fence keeps epochs
        host = self._host
        with host.faults.around("remove", machine), host.changed:
            fake = host.fakes.get(machine)
            if fake is None:
                return
            if fake.on:
                host.turn_off(fake, Phase.OFF, "removed")
            host.store.forget(machine)
            host.used -= sum(d.size for d in fake.saved.disks.values())
            del host.fakes[machine]
            host.states.pop(machine, None)
            host.tell()

    def state(self, machine: UUID) -> MachineState:
        with self._host.faults.around("state", machine), self._host.changed:
            return self._host.find(machine).saved.state()

    def changes(self, cursor: int, timeout: float) -> Change:
        host = self._host
        with host.faults.around("changes"), host.changed:
            host.changed.wait_for(lambda: host.cursor != cursor, timeout=max(0.0, timeout))
            return Change.model_construct(cursor=host.cursor, machines=tuple(host.states.values()))

    def readiness(self, machine: UUID) -> Readiness:
        host = self._host
        with host.faults.around("readiness", machine), host.changed:
            fake = host.find(machine)
            words = fake.log[-400:].decode(errors="replace")
            if not fake.on:
                return Readiness(ready=False, waiting_for=f"power: it is {fake.saved.phase}", last_words=words)
            if fake.saved.phase is Phase.PAUSED:
                return Readiness(ready=False, waiting_for="cpus: it is paused", last_words=words)
            if host.faults.never_ready or fake.saved.age() < host.ready_after:
                return Readiness(ready=False, waiting_for="ssh", last_words=words)
            return Readiness(ready=True, by=("ssh", "agent"))


class FakeDisks:
    """See `paddock.hypervisor.base.Disks`. Images are checked at their source, and nothing is copied."""

    def __init__(self, host: FakeHypervisor) -> None:
        self._host = host
        self._copies: dict[str, threading.Thread] = {}
        self._errors: dict[str, str] = {}

    def ensure_image(self, manifest: ImageManifest, source: str) -> Progress:
        host, image, total = self._host, manifest.sha256, total_bytes(manifest)
        with host.faults.around("ensure_image"):
            with host.changed:
                if image not in host.images and image not in self._copies and image not in self._errors:
                    copy = threading.Thread(target=self._copy, args=(manifest, Path(source)), daemon=True)
                    self._copies[image] = copy
                    copy.start()
                running = self._copies.get(image)
            if running:
                running.join(PATIENCE)
            with host.changed:
                done = image in host.images
                # An error is told once; who asks again after it wants another try.
                error = "" if done else self._errors.pop(image, "")
                return Progress(done=done, bytes_done=total if done else 0, bytes_total=total, error=error)

    def _copy(self, manifest: ImageManifest, source: Path) -> None:
        image = manifest.sha256
        try:
            check_files(manifest, source)
            with self._host.changed:
                self._host.claim(total_bytes(manifest))
                self._host.store.save_image(manifest)
                self._host.images[image] = manifest
                self._host.tell()
        except (Invalid, DiskFull, OSError) as e:
            with self._host.changed:
                self._errors[image] = str(e)
        finally:
            with self._host.changed:
                del self._copies[image]

    def images(self) -> tuple[str, ...]:
        with self._host.faults.around("images"), self._host.changed:
            return tuple(self._host.images)

    def remove_image(self, image: str) -> None:
        host = self._host
        with host.faults.around("remove_image"), host.changed:
            for fake in host.fakes.values():
                if any(d.image == image for d in fake.saved.disks.values()):
                    raise Conflict(f"image {image} is in use by machine {fake.saved.uuid}", hint="delete it first")
            if manifest := host.images.pop(image, None):
                host.store.forget_image(image)
                host.used -= total_bytes(manifest)

    def ensure_disk(self, machine: UUID, disk: Disk, epoch: int) -> None:  # noqa: ARG002 - the fence keeps epochs
        host = self._host
        with host.faults.around("ensure_disk", machine), host.changed:
            fake = host.fakes.get(machine) or _Fake(Saved(uuid=machine))
            old = fake.saved.disks.get(disk.name)
            smallest = old.size if old else self._image_size(disk)
            if old and fake.on and disk.size > old.size:
                raise Conflict("the disk can't grow while the machine runs", hint="power it off first")
            if disk.size < smallest:
                text = f"disk {disk.name} of machine {machine} can't be {disk.size} bytes: it needs {smallest}"
                raise Invalid(text, hint="disks only grow", field="size")
            if old and old.size == disk.size:
                return
            host.claim(disk.size - (old.size if old else 0))
            kept = (old or disk).model_copy(update={"size": disk.size})
            host.fakes[machine] = fake
            host.keep(fake, fake.saved.model_copy(update={"disks": {**fake.saved.disks, disk.name: kept}}))

    def _image_size(self, disk: Disk) -> int:
        if disk.image is None:
            return 0
        if disk.image not in self._host.images:
            raise NotFound(f"image {disk.image} is not on this node", hint="copy it here first")
        return self._host.images[disk.image].disk_size


class FakeGuest:
    """See `paddock.hypervisor.base.Guest`. Knows echo, hostname, cat, true and false."""

    def __init__(self, host: FakeHypervisor) -> None:
        self._host = host

    def exec(self, machine: UUID, argv: tuple[str, ...], stdin: str, timeout: float) -> GuestResult:
        host = self._host
        with host.faults.around("exec", machine):
            with host.changed:
                fake = host.running(machine)
                wait = host.ready_after - fake.saved.age()
                silent = host.faults.guest_agent_hangs or fake.saved.phase is Phase.PAUSED or wait > timeout
            if silent:
                clock.sleep(timeout)
                raise Unavailable(f"the guest agent of machine {machine} did not answer within {timeout:g} s")
            clock.sleep(max(0.0, wait))
            return _pretend(fake.saved.machine, argv, stdin)


class FakeStreams:
    """See `paddock.hypervisor.base.Streams`."""

    def __init__(self, host: FakeHypervisor) -> None:
        self._host = host

    async def console(self, machine: UUID) -> ByteStream:
        with self._host.faults.around("console", machine), self._host.changed:
            fake = self._host.running(machine)
            return self._opened(fake, LocalStream(fake.greeting(), lambda data: self._typed(fake, data)))

    def _typed(self, fake: _Fake, data: bytes) -> bytes:
        with self._host.changed:
            return fake.write(data) if fake.saved.phase is Phase.RUNNING else b""

    async def vnc(self, machine: UUID) -> ByteStream:
        with self._host.faults.around("vnc", machine), self._host.changed:
            return self._opened(self._host.running(machine), LocalStream(RFB_VERSION, BlankScreen().answer))

    def _opened(self, fake: _Fake, stream: LocalStream) -> LocalStream:
        fake.streams = [s for s in fake.streams if not s.closed] + [stream]
        return stream

    def console_log(self, machine: UUID, limit: int) -> str:
        with self._host.faults.around("console_log", machine), self._host.changed:
            log = self._host.find(machine).log
            return bytes(log[max(0, len(log) - limit) :]).decode(errors="replace")


def _pretend(machine: Machine | None, argv: tuple[str, ...], stdin: str) -> GuestResult:
    name = argv[0].rsplit("/", 1)[-1]
    hostname = machine.seed.hostname if machine else ""
    answers = {"echo": " ".join(argv[1:]) + "\n", "hostname": hostname + "\n", "cat": stdin, "true": "", "false": ""}
    if name not in answers:
        return GuestResult(exit_code=127, stdout="", stderr=f"{argv[0]}: not found\n")
    return GuestResult(exit_code=int(name == "false"), stdout=answers[name], stderr="")
