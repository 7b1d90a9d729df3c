"""The machines of a node: the Machines protocol over QEMU processes that outlive us."""

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

from paddock.base import ovmf
from paddock.base.errors import Conflict, Invalid, Refused, Unavailable
from paddock.hypervisor.base import Capabilities
from paddock.hypervisor.qemu import adapt, cmdline, disks, files, firmware, host, identity, readiness, seed, usage
from paddock.hypervisor.qemu.accel import AcceleratorChoice
from paddock.hypervisor.qemu.binary import find_binary
from paddock.hypervisor.qemu.images import ImageStore
from paddock.hypervisor.qemu.layout import Layout, MachineDir
from paddock.hypervisor.qemu.live import Live
from paddock.hypervisor.qemu.metrics import Meter
from paddock.hypervisor.qemu.record import Spec
from paddock.hypervisor.qemu.runs import Runs
from paddock.hypervisor.qemu.slot import Slot, state_of
from paddock.hypervisor.qemu.warm.node import WarmNode
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import Machine, Power
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

SERIAL_SEEN = 4096  # bytes that readiness looks at
AGENT_WAIT = 1.0  # seconds for the guest agent to take a shutdown, else the ACPI button

log = logging.getLogger(__name__)


class QemuMachines:
    """See `paddock.hypervisor.base.Machines`."""

    def __init__(self, layout: Layout, images: ImageStore, choice: AcceleratorChoice, warm: WarmNode) -> None:
        self._layout = layout
        self._images = images
        self._choice = choice
        self._warm = warm
        self._runs = Runs(layout, images, choice, warm)
        self.volume_store = self._runs.volumes
        self._use = usage.NodeMeter(layout)
        self._meter = Meter(layout.root / "metrics.sqlite3", self._runs.slots)
        self.before_start: Callable[[UUID], None] = lambda _: None  # others finish what they do with its disk
        self.before_removal: Callable[[UUID], None] = lambda _: None  # others let go of its directory

    def capabilities(self) -> Capabilities:
        return Capabilities(driver="qemu", uefi=ovmf.find() is not None)

    def facts(self) -> HostFacts:
        facts = host.facts(self._layout.root, self._choice.known(), self._use.look())
        return facts.model_copy(update={"warm": self._warm.warm_images()})

    def ensure(self, machine: Machine, epoch: int) -> None:
        slot = self._runs.slot(machine.uuid)
        with slot.lock:
            if not slot.directory.system_disk.exists():
                raise Conflict(f"machine {machine.uuid} has no system disk", hint="make it first")
            if slot.spec and slot.spec.machine == machine and _has_files(slot):
                if slot.spec.epoch != epoch:
                    self._runs.accept(slot, Spec(epoch=epoch, machine=machine))
                return
            # Refuse now what QEMU would not take later.
            cmdline.command_line(machine, self._booted(machine), find_binary(), Accelerator.TCG, paused=False)
            with self.volume_store.lock if machine.volumes else contextlib.nullcontext():
                self._check_volumes(machine)
                _write_seeds(slot, machine)
                self._write_firmware(slot, machine)
                self._runs.accept(slot, Spec(epoch=epoch, machine=machine))
            log.info("machine %s (%s) is defined", machine.uuid, machine.name)

    def adapt(self, machine: UUID, epoch: int) -> Adapted:
        slot = self._runs.defined(machine)
        with slot.lock:
            self._runs.note_epoch(slot, epoch)
            if slot.live is None or slot.live.process.gone():
                return Adapted()
            assert slot.spec
            for attached in slot.spec.machine.volumes:
                identity.give(self.volume_store.file(attached.volume), writable=True)
            return adapt.adapt(slot.live, slot.spec.machine, slot.run.given)

    def power(self, machine: UUID, power: Power, epoch: int) -> MachineState:
        slot = self._runs.defined(machine)
        with slot.lock:
            self._runs.note_epoch(slot, epoch)
            match power:
                case Power.ON | Power.ON_PAUSED:
                    self.before_start(machine)
                    self._runs.on(slot, paused=power == Power.ON_PAUSED)
                case Power.OFF:
                    self._runs.off(slot, "powered off")
                case Power.SHUTDOWN:
                    if slot.live:
                        _ask(slot.live, "powerdown")
                case Power.REBOOT:
                    _ask(_running(slot), "reboot")
                case Power.RESET:
                    _running(slot).execute("system_reset")
                case Power.PAUSE:
                    self._runs.pause(_running(slot))
                case Power.RESUME:
                    self._runs.resume(slot, _running(slot))
            return state_of(slot)

    def hibernate(self, machine: UUID, epoch: int) -> Progress:
        slot = self._runs.defined(machine)
        with slot.lock:
            self._runs.note_epoch(slot, epoch)
        return self._runs.hibernate(slot)

    def fork(self, machine: UUID, point: UUID, epoch: int) -> Fork:
        slot = self._runs.defined(machine)
        with slot.lock:
            self._runs.note_epoch(slot, epoch)
        return self._runs.fork(slot, point)

    def drop_fork(self, point: UUID) -> None:
        self._runs.drop_fork(point)

    def remove(self, machine: UUID, epoch: int) -> None:  # noqa: ARG002 - the fence keeps epochs
        slot = self._runs.slot(machine)
        with slot.lock:
            self.before_removal(machine)
            self._runs.forks.forget(machine)
            self._runs.off(slot, "removed")
            if slot.directory.root.exists():
                warm = disks.warm_of(slot.directory.root)
                shutil.rmtree(slot.directory.root)
                log.info("machine %s is removed", machine)
                if warm:
                    self._warm.store.sweep()
            self._runs.forget(slot)
            self._meter.forget(machine)

    def state(self, machine: UUID) -> MachineState:
        return state_of(self._runs.defined(machine))

    def changes(self, cursor: int, timeout: float) -> Change:
        return self._runs.changes(cursor, timeout)

    def readiness(self, machine: UUID) -> Readiness:
        slot = self._runs.defined(machine)
        live, spec = slot.live, slot.spec
        if live is None or spec is None or live.phase == Phase.PAUSED:
            words = files.read_tail(slot.directory.serial_log, 400).decode(errors="replace")
            return Readiness(ready=False, waiting_for=f"power: it is {state_of(slot).phase}", last_words=words)
        network, manifest = spec.machine.network, self._images.manifest(_booted_image(slot))
        if slot.run.fork:  # what cloud-init has left there is of its parent's boot
            manifest = manifest.model_copy(update={"cloud_init": False})
        guest = readiness.Guest(
            manifest=manifest,
            agent=live.agent,
            agent_open=lambda: _agent_open(live),
            ssh=(network.ssh_address, network.ssh_port),
            serial=lambda: live.serial(SERIAL_SEEN),
            warm=bool(slot.run.warm or slot.run.fork),
        )
        return readiness.look(guest, live.signs)

    def metrics(self, machine: UUID, start: float, end: float, step: float) -> Metrics:
        self._runs.defined(machine)
        return self._meter.metrics(machine, start, end, step)

    def sizes(self, machine: UUID) -> Sizes:
        self._runs.defined(machine)
        return usage.sizes(self._layout.machine(machine))

    def running(self, machine: UUID) -> Live:
        """What is held of a machine that is on. Raises NotFound, Conflict."""
        return _running(self._runs.defined(machine))

    def all_running(self) -> list[Live]:
        """What is held of all that are on, as of now."""
        return [live for slot in self._runs.slots() if (live := slot.live)]

    @contextlib.contextmanager
    def held(self, machine: UUID) -> Iterator[None]:
        """Meanwhile its definition and its power stay as they are. Raises NotFound."""
        with self._runs.defined(machine).lock:
            yield

    def user_of(self, volume: UUID) -> UUID | None:
        """The machine whose definition has the volume."""
        return next((slot.uuid for slot in self._runs.slots() if volume in _volumes_of(slot)), None)

    def directory(self, machine: UUID) -> MachineDir:
        """Raises NotFound."""
        return self._runs.defined(machine).directory

    def close(self) -> None:
        """Let go; machines go on. A second time does nothing."""
        self._meter.close()
        self._runs.close()

    def _booted(self, machine: Machine) -> ImageManifest:
        """What a start boots; and all that it needs is here. Raises NotFound, Invalid."""
        if machine.iso and self._images.manifest(machine.iso).file(Role.ISO) is None:
            raise Invalid(f"image {machine.iso[:12]} is no ISO", field="iso", hint="import it as an ISO")
        system = self._images.manifest(machine.image)
        if machine.rescue is None:
            return system
        rescue = self._images.manifest(machine.rescue.image)
        if rescue.file(Role.KERNEL) is None or rescue.file(Role.INITRD) is None:
            raise Invalid(f"image {rescue.name} is no rescue system: it has no kernel or no initrd", field="rescue")
        return rescue

    def _write_firmware(self, slot: Slot, machine: Machine) -> None:
        """What it remembers is kept for as long as its disk."""
        if machine.firmware == "uefi":
            image = self._images.file(machine.image, Role.VARIABLES)
            firmware.keep_variables(slot.directory, machine.system_disk.generation, image)
        elif slot.live is None:
            firmware.forget_variables(slot.directory)

    def _check_volumes(self, machine: Machine) -> None:
        """They are here, and no other machine has them. Raises NotFound, Conflict, Invalid."""
        if len({a.volume for a in machine.volumes}) < len(machine.volumes):
            raise Invalid("a volume is named twice", field="volumes")
        for attached in machine.volumes:
            self.volume_store.file(attached.volume)
            user = self.user_of(attached.volume)
            if user and user != machine.uuid:
                raise Conflict(f"volume {attached.volume} is attached to machine {user}", hint="detach it there first")


def _has_files(slot: Slot) -> bool:
    rescue = slot.spec is not None and slot.spec.machine.rescue is not None
    uefi = slot.spec is not None and slot.spec.machine.firmware == "uefi"
    directory = slot.directory
    has_variables = directory.efi_variables.exists() or not uefi
    return directory.seed.exists() and directory.rescue_seed.exists() == rescue and has_variables


def _write_seeds(slot: Slot, machine: Machine) -> None:
    directory = slot.directory
    _write_seed(directory.seed, seed.seed_files(machine))
    if machine.rescue:
        _write_seed(directory.rescue_seed, seed.rescue_files(machine, machine.rescue))
    else:
        directory.rescue_seed.unlink(missing_ok=True)


def _write_seed(path: Path, texts: dict[str, str]) -> None:
    files.write_whole(path, seed.seed_iso(texts), sync=False)
    identity.give(path, writable=False)


def _volumes_of(slot: Slot) -> set[UUID]:
    return {a.volume for a in spec.machine.volumes} if (spec := slot.spec) else set()


def _booted_image(slot: Slot) -> str:
    """What its QEMU was started with."""
    assert slot.spec
    given = slot.run.given
    return (given.rescue if given else "") or slot.spec.machine.image


def _running(slot: Slot) -> Live:
    if slot.live is None:
        raise Conflict(f"machine {slot.uuid} is {slot.run.phase}", hint="start it first")
    return slot.live


def _agent_open(live: Live) -> bool:
    try:
        return live.agent_open()
    except (Unavailable, Refused):
        return False


def _ask(live: Live, mode: str) -> None:
    """Ask the guest to end or restart itself: by its guest agent, else as a person at its keyboard would."""
    if _agent_open(live):
        with contextlib.suppress(Unavailable, Refused):
            live.agent.shutdown(mode, AGENT_WAIT)
            return
    if mode == "powerdown":
        live.execute("system_powerdown")
    else:
        keys = [{"type": "qcode", "data": key} for key in ("ctrl", "alt", "delete")]
        live.execute("send-key", {"keys": keys})
