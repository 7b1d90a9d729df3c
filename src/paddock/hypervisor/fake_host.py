"""What all parts of the fake hypervisor share: its machines, volumes, images, and the room that they take."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from paddock.base import clock
from paddock.base.errors import Conflict, DiskFull, NotFound, PortTaken, Refused
from paddock.hypervisor.fake_files import FakeFiles
from paddock.hypervisor.fake_store import Saved, Store, Warm, total_bytes
from paddock.hypervisor.fake_streams import LocalStream
from paddock.hypervisor.faults import FaultOrder, Faults
from paddock.machine.keys import Chord
from paddock.machine.spec import GIB, MIB, Machine
from paddock.machine.state import NodeUse, Phase
from paddock.machine.warm import Start, WarmImage

LOG_BYTES = 64 * 1024
RUNS = 100  # how many of a machine's times of being on are remembered, for its metrics


@dataclass
class Fake:
    """A machine, from its first disk on."""

    saved: Saved
    log: bytearray = field(default_factory=bytearray)
    streams: list[LocalStream] = field(default_factory=list)
    commands: list[tuple[str, ...]] = field(default_factory=list)  # that ran in its guest, for tests to look at
    pressed: list[Chord] = field(default_factory=list)  # keys
    files: FakeFiles | None = None

    @property
    def on(self) -> bool:
        return self.saved.on

    def write(self, data: bytes) -> bytes:
        self.log += data
        del self.log[:-LOG_BYTES]
        return data

    def greeting(self) -> bytes:
        has = self.saved.has
        system = "Paddock fake rescue system" if has and has.rescue else "Paddock fake machine"
        name = self.saved.machine.name if self.saved.machine else ""
        return f"{system} {name}\r\n{name} login: ".encode()


class FakeHost:
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
        self.boot_id = self.store.boot_id()
        self.fakes = {saved.uuid: Fake(saved) for saved in self.store.machines()}
        self.images = {manifest.sha256: manifest for manifest in self.store.images()}
        self.made_volumes = {volume.uuid: volume for volume in self.store.volumes()}
        warm = self.store.warm()
        self.warm_kept = {image.id: image for image in warm.images}
        self._warm_seen = set(warm.seen)
        self.ports = {fake.saved.port: u for u, fake in self.fakes.items() if fake.on}
        self.memory_used = sum(fake.saved.memory_mib for fake in self.fakes.values() if fake.on)
        self.states = {u: fake.saved.state() for u, fake in self.fakes.items() if fake.saved.machine}
        self.used = sum(d.size for f in self.fakes.values() for d in f.saved.disks.values())
        self.used += sum(fake.saved.kept for fake in self.fakes.values())
        self.used += sum(total_bytes(m) for m in self.images.values())
        self.used += sum(volume.size for volume in self.made_volumes.values())
        self.used += sum(image.size for image in self.warm_kept.values())
        self.used += sum(point.size for point in self.store.forks())
        # A cursor of an earlier process is never one of ours, so that who holds it is answered at once.
        self.cursor = int(clock.now().timestamp() * 1000)

    def use(self) -> NodeUse:
        """What all of it takes; `used` is the sum."""
        volumes = sum(volume.size for volume in self.made_volumes.values())
        images = sum(total_bytes(m) for m in self.images.values())
        warm = sum(image.size for image in self.warm_kept.values())
        rest = max(self.used - volumes - images - warm, 0)
        return NodeUse(machines=rest, images=images, volumes=volumes, image_count=len(self.images))

    def inject(self, order: FaultOrder) -> None:
        """Do wrong as told from now on. Raises NotFound for a machine to crash or reboot that is not there."""
        self.faults.take(order)
        with self.changed:
            for uuid in order.crash:
                if (fake := self.find(uuid)).on:
                    self.turn_off(fake, Phase.CRASHED, "its process was told to crash")
            for uuid in order.reboot:
                self.restart(self.find(uuid))
            for uuid in order.lose:
                self.forget_volume(uuid)
            for uuid in order.damage:
                self.keep(self.find(uuid), damaged=True)
            if order.restart_host:
                self._restart_host()

    def _restart_host(self) -> None:
        for fake in self.fakes.values():
            if fake.on:
                self.turn_off(fake, Phase.CRASHED, "the host was restarted while it ran", host_restarted=True)
        self.boot_id = self.store.new_boot()
        self.tell()

    def close(self) -> None:
        """Nothing to let go of."""

    def find(self, machine: UUID) -> Fake:
        """A defined machine. Raises NotFound."""
        fake = self.fakes.get(machine)
        if fake is None or fake.saved.machine is None:
            raise NotFound(f"there is no machine {machine} on this node")
        return fake

    def running(self, machine: UUID) -> Fake:
        """A machine that is on. Raises NotFound, Conflict."""
        fake = self.find(machine)
        if not fake.on:
            raise Conflict(f"machine {machine} is {fake.saved.phase}", hint="start it first")
        return fake

    def keep(self, fake: Fake, **changes: object) -> None:
        """Change what is saved of a machine, here and in the store, and tell who waits."""
        saved = fake.saved.model_copy(update=changes)
        self.store.save(saved)
        fake.saved = saved
        if saved.machine:
            self.states[saved.uuid] = saved.state()
        self.tell()

    def turn_on(self, fake: Fake, phase: Phase, begin: Callable[[Fake], dict[str, Any]]) -> None:
        """Start it, with its definition as it is now; where it does not go on with its memory, `begin` says how it
        begins. Raises PortTaken, NotFound, Conflict."""
        machine, wanted = fake.saved.machine, fake.saved.endpoint
        assert machine, "BUG: a machine without a definition was started"
        self.check_parts(machine)
        self._check_cpus(machine)
        holder = self.ports.setdefault(wanted, machine.uuid)
        if holder != machine.uuid:
            raise PortTaken(f"port {wanted} is in use by machine {holder}", hint="take another port")
        self.memory_used += machine.memory_mib
        runs = (*fake.saved.runs, (clock.now().timestamp(), 0.0))[-RUNS:]
        has: dict[str, Any] = {"port": wanted, "memory_mib": machine.memory_mib, "running": machine, "started": machine}
        if fake.saved.phase is Phase.HIBERNATED:
            cold, fresh = _why_cold(fake.saved), self._without_memory(fake)
            if not cold:  # it has what it had
                booted = phase is Phase.RUNNING or fake.saved.booted
                before = {"running": fake.saved.running, "started": fake.saved.started, "booted": booted}
                self._set_phase(fake, phase, greets=not fake.saved.booted, runs=runs, **{**has, **fresh, **before})
                return
            has |= {**fresh, "cold_start": f"it started anew: {cold}"}
        self._set_phase(fake, phase, runs=runs, **{"cold_start": "", **has, **begin(fake)})

    def _check_cpus(self, machine: Machine) -> None:
        """Raises Refused when it shall have CPUs for itself, and others have them."""
        others = (f.saved.has for u, f in self.fakes.items() if u != machine.uuid)
        left = self.cpus - 1 - sum(m.cpus for m in others if m and m.dedicated_cpus)
        if machine.dedicated_cpus and machine.cpus > left:
            text = f"{machine.cpus} dedicated CPUs are asked for, and the node has {left} left to give"
            raise Refused(text, hint="use a smaller server type or another node")

    def hibernate(self, fake: Fake) -> None:
        """Its memory is kept, and takes room. Raises DiskFull."""
        size = fake.saved.memory_mib * MIB
        self.claim(size)
        before = {"running": fake.saved.running, "started": fake.saved.started, "booted": fake.saved.booted}
        began = Start(warm=fake.saved.began.warm)
        self.turn_off(fake, Phase.HIBERNATED, "hibernated", kept=size, began=began, **before)

    def drop_memory(self, fake: Fake, why: str) -> None:
        """A hibernated machine is off like any other."""
        fresh = {**self._without_memory(fake), "running": None, "started": None}
        self._set_phase(fake, Phase.OFF, reason=why, **fresh)

    def _without_memory(self, fake: Fake) -> dict[str, Any]:
        self.used -= fake.saved.kept
        return {"kept": 0, "damaged": False, "cold_start": ""}

    def turn_off(self, fake: Fake, phase: Phase, reason: str, **more: Any) -> None:
        """Stop it; what was connected to it is hung up."""
        self.ports.pop(fake.saved.port, None)
        self.memory_used -= fake.saved.memory_mib
        runs = (*fake.saved.runs[:-1], (fake.saved.runs[-1][0], clock.now().timestamp())) if fake.saved.runs else ()
        ended = {"running": None, "started": None, "woken": False}
        self._set_phase(fake, phase, reason=reason, runs=runs, **{**ended, **more})
        for stream in fake.streams:
            stream.hang_up()
        fake.streams.clear()

    def resume(self, fake: Fake) -> None:
        """A paused machine goes on; one that was turned on paused begins."""
        self._set_phase(fake, Phase.RUNNING, greets=not fake.saved.booted)

    def pause(self, fake: Fake) -> None:
        """It stands still."""
        self._set_phase(fake, Phase.PAUSED)

    def restart(self, fake: Fake) -> None:
        """Its guest starts again, unless it is paused; out of the rescue system it needs a new start."""
        if fake.saved.phase is not Phase.RUNNING:
            return
        if fake.saved.has and fake.saved.has.rescue:
            self.turn_off(fake, Phase.OFF, "the guest left the rescue system", rebooting=True)
        else:
            self._set_phase(fake, Phase.RUNNING, woken=False)

    def _set_phase(self, fake: Fake, phase: Phase, *, greets: bool = True, **changes: object) -> None:
        fresh = {"reason": "", "rebooting": False, "host_restarted": False, "phase": phase, "since": clock.now()}
        booted = phase is Phase.RUNNING or (fake.saved.booted and fake.saved.on)
        self.keep(fake, **{**fresh, "booted": booted, **changes})
        if phase is Phase.RUNNING and greets:
            fake.write(fake.greeting())

    def why_silent(self, fake: Fake) -> str:
        """Why the guest agent of a machine that is on does not answer now; empty: it does."""
        if fake.saved.phase is Phase.PAUSED:
            return "the guest is paused"
        if self.faults.guest_agent_absent or self.faults.guest_agent_hangs or self.boots_for(fake):
            return "no guest agent answers in this machine"
        return ""

    def boots_for(self, fake: Fake) -> float:
        """Seconds until the guest of a machine that is on has booted."""
        return 0.0 if fake.saved.woken else max(0.0, self.ready_after - fake.saved.age())

    def tell(self) -> None:
        self.cursor += 1
        self.changed.notify_all()

    def claim(self, size: int) -> None:
        """Take bytes of the disk. Raises DiskFull."""
        free = 0 if self.faults.disk_full else self.disk - self.used
        if size > free:
            raise DiskFull(f"no room for {size} bytes: {free} of {self.disk} are free", hint="free room on the node")
        self.used += size

    def check_parts(self, machine: Machine) -> None:
        """Raises NotFound when an image or a volume that its guest shall have is not here, Conflict when another
        machine's guest still has the volume."""
        for image in (machine.iso, machine.rescue.image if machine.rescue else None):
            if image and image not in self.images:
                raise NotFound(f"image {image} is not on this node", hint="copy it here first")
        for attached in machine.volumes:
            if attached.volume not in self.made_volumes:
                text = f"volume {attached.volume} of machine {machine.uuid} is not on this node"
                raise NotFound(text, hint="was it lost? detach it to start the machine without")
            if (other := self.user_of(attached.volume, machine.uuid)) is not None:
                raise Conflict(f"volume {attached.volume} is in use by machine {other}", hint="detach it there first")

    def user_of(self, volume: UUID, besides: UUID | None = None) -> UUID | None:
        """A machine that has the volume: by its definition, or in its running guest."""
        users = (u for u, fake in self.fakes.items() if u != besides and volume in fake.saved.volumes)
        return next(users, None)

    def forget_volume(self, volume: UUID) -> None:
        """The volume is gone, and its room is free."""
        if found := self.made_volumes.pop(volume, None):
            self.store.forget_volume(volume)
            self.used -= found.size

    def keep_warm(self, image: WarmImage) -> None:
        """Have a warm image, or know something else of it. Its room is claimed already."""
        self.warm_kept[image.id] = image
        self._save_warm()

    def forget_warm(self, id: str) -> None:
        """The warm image is gone, and its room is free."""
        if found := self.warm_kept.pop(id, None):
            self.used -= found.size
            self._save_warm()

    def see_warm(self, key: str) -> bool:
        """Whether a machine of that key was started before without a warm image; it is remembered."""
        seen = key in self._warm_seen
        if not seen:
            self._warm_seen.add(key)
            self._save_warm()
        return seen

    def _save_warm(self) -> None:
        self.store.save_warm(Warm(images=tuple(self.warm_kept.values()), seen=tuple(sorted(self._warm_seen))))


def _why_cold(saved: Saved) -> str:
    """Why a hibernated machine can't go on; empty: it can."""
    if saved.damaged:
        return "its memory is damaged"
    if saved.machine and saved.machine.rescue:
        return "the rescue system was to be booted instead of what it was hibernated with"
    wanted = {a.volume for a in saved.machine.volumes} if saved.machine else set()
    gone = {a.volume for a in saved.running.volumes} - wanted if saved.running else set()
    return f"volume {gone.pop()} was taken from it while it was hibernated" if gone else ""
