"""The fake's machines: defined, turned on and off, brought to their definition while they run."""

from typing import Any
from uuid import UUID

from paddock import __version__
from paddock.base import clock
from paddock.base.errors import Conflict, Invalid
from paddock.hypervisor.base import Capabilities
from paddock.hypervisor.fake_adapt import brought, pending
from paddock.hypervisor.fake_fork import FakeForks
from paddock.hypervisor.fake_host import Fake, FakeHost
from paddock.hypervisor.fake_metrics import made_up
from paddock.hypervisor.fake_warm import FakeWarm
from paddock.machine.spec import MIB, Machine, Power
from paddock.machine.state import (
    Accelerator,
    Adapted,
    Change,
    Fork,
    HostFacts,
    MachineState,
    Metrics,
    Phase,
    Progress,
    Readiness,
    Sizes,
)


class FakeMachines:
    """See `paddock.hypervisor.base.Machines`."""

    def __init__(self, host: FakeHost, warm: FakeWarm) -> None:
        self._host = host
        self._warm = warm
        self._forks = FakeForks(host)
        self._hibernating: dict[UUID, float] = {}  # since when, as a monotonic time

    def capabilities(self) -> Capabilities:
        return Capabilities(driver="fake", isolated=True)

    def facts(self) -> HostFacts:
        host = self._host
        with host.faults.around("facts"), host.changed:
            return HostFacts(
                version=__version__, hostname="fake", cpus=host.cpus, memory_mib=host.memory_mib,
                memory_free_mib=max(0, host.memory_mib - host.memory_used), disk=host.disk,
                disk_free=host.disk - host.used,
                accelerator=Accelerator.TCG, accelerator_reason="nothing is run at all", hypervisor="fake",
                use=host.use(),
                boot_id=host.boot_id, no_nested="", huge_pages_mib=host.memory_mib // 4, dedicated_cpus=host.cpus - 1,
                warm=self._warm.known(),
            )  # fmt: skip

    def ensure(self, machine: Machine, epoch: int) -> None:  # noqa: ARG002 - the fence keeps epochs
        host = self._host
        with host.faults.around("ensure", machine.uuid), host.changed:
            fake = host.fakes.get(machine.uuid)
            if fake is None or machine.system_disk.name not in fake.saved.disks:
                raise Conflict(f"machine {machine.uuid} has no disk {machine.system_disk.name}", hint="make it first")
            manifest = host.images.get(machine.image)
            if machine.kernel_args and manifest and not manifest.direct_boot:
                text = f"image {manifest.name} boots a kernel of its own: it gets no arguments here"
                raise Invalid(text, field="kernel_args")
            for attached in machine.volumes:
                if attached.volume not in host.made_volumes:
                    raise Conflict(f"there is no volume {attached.volume} on this node", hint="make it first")
            if fake.saved.machine != machine:
                host.keep(fake, machine=machine)

    def power(self, machine: UUID, power: Power, epoch: int) -> MachineState:  # noqa: ARG002 - the fence keeps epochs
        host = self._host
        with host.faults.around("power", machine), host.changed:
            fake = host.find(machine)
            if power in (Power.ON, Power.ON_PAUSED):
                self._on(fake, power)
            elif power in (Power.PAUSE, Power.RESUME):
                self._hold(host.running(machine), power)
            elif power in (Power.REBOOT, Power.RESET):
                host.restart(host.running(machine))
            elif power is Power.OFF and fake.saved.phase is Phase.HIBERNATED:
                host.drop_memory(fake, "powered off")
            elif fake.on and (power is Power.OFF or self._obeys(fake)):
                why = "powered off" if power is Power.OFF else "the guest shut down"
                host.turn_off(fake, Phase.OFF, why)
            return fake.saved.state()

    def _obeys(self, fake: Fake) -> bool:
        return fake.saved.phase is Phase.RUNNING and not self._host.faults.shutdown_ignored

    def _on(self, fake: Fake, power: Power) -> None:
        if not fake.on:
            phase = Phase.RUNNING if power is Power.ON else Phase.PAUSED
            if _begins_as_fork(fake):  # before anything is taken for it
                self._forks.check(fake, phase is Phase.PAUSED)
            self._host.turn_on(fake, phase, lambda fake: self._begin(fake, phase is Phase.PAUSED))
        elif power is Power.ON and fake.saved.phase is Phase.PAUSED:
            self._host.resume(fake)

    def _begin(self, fake: Fake, paused: bool) -> dict[str, Any]:
        return (self._forks if _begins_as_fork(fake) else self._warm).begin(fake, paused)

    def _hold(self, fake: Fake, power: Power) -> None:
        if power is Power.RESUME and fake.saved.phase is Phase.PAUSED:
            self._host.resume(fake)
        elif power is Power.PAUSE and fake.saved.phase is Phase.RUNNING:
            self._host.pause(fake)

    def hibernate(self, machine: UUID, epoch: int) -> Progress:  # noqa: ARG002 - the fence keeps epochs
        host = self._host
        with host.faults.around("hibernate", machine), host.changed:
            if host.find(machine).saved.phase is Phase.HIBERNATED:
                return Progress(done=True)
            fake = host.running(machine)
            if fake.saved.has and fake.saved.has.rescue:
                raise Conflict("it runs the rescue system", hint="reboot it first")
            total = fake.saved.memory_mib * MIB
            begun = self._hibernating.setdefault(machine, clock.monotonic())
            if (age := clock.monotonic() - begun) < host.faults.copy_seconds:
                return Progress(done=False, bytes_done=int(total * age / host.faults.copy_seconds), bytes_total=total)
            del self._hibernating[machine]
            if error := host.faults.copy_error:
                return Progress(done=False, bytes_total=total, error=error)
            host.hibernate(fake)
            return Progress(done=True, bytes_done=total, bytes_total=total)

    def fork(self, machine: UUID, point: UUID, epoch: int) -> Fork:  # noqa: ARG002 - the fence keeps epochs
        with self._host.faults.around("fork", machine), self._host.changed:
            self._host.find(machine)
            return self._forks.fork(machine, point)

    def drop_fork(self, point: UUID) -> None:
        with self._host.faults.around("drop_fork"), self._host.changed:
            self._forks.drop(point)

    def remove(self, machine: UUID, epoch: int) -> None:  # noqa: ARG002 - the fence keeps epochs
        host = self._host
        with host.faults.around("remove", machine), host.changed:
            fake = host.fakes.get(machine)
            if fake is None:
                return
            if fake.on:
                host.turn_off(fake, Phase.OFF, "removed")
            host.store.forget(machine)
            host.used -= sum(d.size for d in fake.saved.disks.values()) + fake.saved.kept
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
            if host.faults.never_ready or host.boots_for(fake):
                return Readiness(ready=False, waiting_for="ssh", last_words=words)
            return Readiness(ready=True, by=("ssh",) if host.faults.guest_agent_absent else ("ssh", "agent"))

    def adapt(self, machine: UUID, epoch: int) -> Adapted:  # noqa: ARG002 - the fence keeps epochs
        host = self._host
        with host.faults.around("adapt", machine), host.changed:
            fake = host.find(machine)
            wanted, has = fake.saved.machine, fake.saved.has
            if wanted is None or has is None:
                return Adapted()
            started = fake.saved.started or has
            can = brought(started, has, wanted)
            host.check_parts(can)
            if can != has:
                host.memory_used += can.memory_mib - fake.saved.memory_mib
                host.keep(fake, running=can, memory_mib=can.memory_mib)
            return Adapted(pending=tuple(pending(started, can, wanted, agent=host.why_silent(fake) == "")))

    def metrics(self, machine: UUID, start: float, end: float, step: float) -> Metrics:
        with self._host.faults.around("metrics", machine), self._host.changed:
            saved = self._host.find(machine).saved
        return made_up(machine, saved.runs, start, end, step, now=clock.now().timestamp())

    def sizes(self, machine: UUID) -> Sizes:
        with self._host.faults.around("sizes", machine), self._host.changed:
            fake = self._host.find(machine)
            disk = sum(d.size for d in fake.saved.disks.values())
            return Sizes(disk=disk, logs=len(fake.log), memory=0, other=0)


def _begins_as_fork(fake: Fake) -> bool:
    return fake.saved.fresh and fake.saved.machine is not None and fake.saved.machine.fork is not None
