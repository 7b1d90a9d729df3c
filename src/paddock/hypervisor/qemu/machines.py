"""The machines of a node: the Machines protocol over QEMU processes that outlive us.

Each machine is a slot in memory: its definition, its last run, and while it runs, what we hold of its QEMU. The files
in its directory say the same, so that the next process finds everything again.
"""

import contextlib
import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from paddock.base import clock
from paddock.base.errors import Conflict, NotFound, PaddockError, Refused, Unavailable
from paddock.hypervisor.base import Capabilities
from paddock.hypervisor.qemu import cmdline, files, host, identity, process, readiness, record, scope, seed, start
from paddock.hypervisor.qemu.accel import AcceleratorChoice
from paddock.hypervisor.qemu.binary import find_binary
from paddock.hypervisor.qemu.images import ImageStore
from paddock.hypervisor.qemu.layout import Layout, MachineDir
from paddock.hypervisor.qemu.live import Live
from paddock.hypervisor.qemu.process import Process
from paddock.hypervisor.qemu.qmp import Qmp, QmpThread
from paddock.hypervisor.qemu.record import Run, Spec
from paddock.hypervisor.qemu.slot import Slot, ending, state_of, unseen
from paddock.hypervisor.qemu.watch import Watcher
from paddock.machine.spec import Machine, Power
from paddock.machine.state import Accelerator, Change, HostFacts, MachineState, Phase, Readiness

LOG_MAXIMUM = 4 * 1024 * 1024  # bytes of serial.log and qemu.log
LOG_KEEP = 1024 * 1024
SERIAL_SEEN = 4096  # bytes that readiness looks at
AGENT_WAIT = 1.0  # seconds for the guest agent to take a shutdown, else the ACPI button

log = logging.getLogger(__name__)


class QemuMachines:
    """See `paddock.hypervisor.base.Machines`."""

    def __init__(self, layout: Layout, images: ImageStore, choice: AcceleratorChoice) -> None:
        self._layout = layout
        self._images = images
        self._choice = choice
        self._qmp = QmpThread()
        self._changed = threading.Condition()
        self._cursor = int(clock.now().timestamp() * 1000)  # never one of an earlier process
        self._slots: dict[UUID, Slot] = {}
        self._reconnecting: set[UUID] = set()
        self._helpers = ThreadPoolExecutor(2, "reconnect")
        self._watcher = Watcher(self._tick)
        self._closed = False
        self._adopt_all()

    def capabilities(self) -> Capabilities:
        return Capabilities(driver="qemu")

    def facts(self) -> HostFacts:
        return host.facts(self._layout.root, self._choice.known())

    def ensure(self, machine: Machine, epoch: int) -> None:
        slot = self._slot(machine.uuid)
        with slot.lock:
            if not slot.directory.system_disk.exists():
                raise Conflict(f"machine {machine.uuid} has no system disk", hint="make it first")
            if slot.spec and slot.spec.machine == machine and slot.directory.seed.exists():
                if slot.spec.epoch != epoch:
                    self._accept(slot, Spec(epoch=epoch, machine=machine))
                return
            manifest = self._images.manifest(machine.image)
            # Refuse now what QEMU would not take later.
            cmdline.command_line(machine, manifest, find_binary(), Accelerator.TCG, paused=False)
            files.write_whole(slot.directory.seed, seed.seed_iso(seed.seed_files(machine)), sync=False)
            identity.give(slot.directory.seed, writable=False)
            self._accept(slot, Spec(epoch=epoch, machine=machine))
            log.info("machine %s (%s) is defined", machine.uuid, machine.name)

    def power(self, machine: UUID, power: Power, epoch: int) -> None:
        slot = self._defined(machine)
        with slot.lock:
            self._note_epoch(slot, epoch)
            match power:
                case Power.ON | Power.ON_PAUSED:
                    self._on(slot, paused=power == Power.ON_PAUSED)
                case Power.OFF:
                    self._off(slot, "powered off")
                case Power.SHUTDOWN:
                    if slot.live:
                        _ask(slot.live, "powerdown")
                case Power.REBOOT:
                    _ask(_running(slot), "reboot")
                case Power.RESET:
                    _running(slot).execute("system_reset")

    def remove(self, machine: UUID, epoch: int) -> None:  # noqa: ARG002 - the fence keeps epochs
        slot = self._slot(machine)
        with slot.lock:
            self._off(slot, "removed")
            if slot.directory.root.exists():
                shutil.rmtree(slot.directory.root)
                log.info("machine %s is removed", machine)
            with self._changed:
                self._slots.pop(machine, None)
                slot.spec = None
                self._tell()

    def state(self, machine: UUID) -> MachineState:
        return state_of(self._defined(machine))

    def changes(self, cursor: int, timeout: float) -> Change:
        with self._changed:
            self._changed.wait_for(lambda: self._cursor != cursor, timeout=max(0.0, timeout))
            return Change(cursor=self._cursor, machines=tuple(state_of(s) for s in self._slots.values() if s.spec))

    def readiness(self, machine: UUID) -> Readiness:
        slot = self._defined(machine)
        live, spec = slot.live, slot.spec
        if live is None or spec is None or live.phase == Phase.PAUSED:
            words = files.read_tail(slot.directory.serial_log, 400).decode(errors="replace")
            return Readiness(ready=False, waiting_for=f"power: it is {state_of(slot).phase}", last_words=words)
        network = spec.machine.network
        guest = readiness.Guest(
            manifest=self._images.manifest(spec.machine.image),
            agent=live.agent,
            agent_open=lambda: _agent_open(live),
            ssh=(network.ssh_address, network.ssh_port),
            serial=lambda: live.serial(SERIAL_SEEN),
        )
        return readiness.look(guest, live.signs)

    def running(self, machine: UUID) -> Live:
        """What is held of a machine that is on. Raises NotFound, Conflict."""
        return _running(self._defined(machine))

    def directory(self, machine: UUID) -> MachineDir:
        """Raises NotFound."""
        return self._defined(machine).directory

    def close(self) -> None:
        """Let go; machines go on. A second time does nothing."""
        if self._closed:
            return
        self._closed = True
        self._watcher.close()
        self._helpers.shutdown(cancel_futures=True)
        for slot in self._slots.values():
            if slot.live:
                slot.live.let_go()
        self._qmp.close()

    def _on(self, slot: Slot, paused: bool) -> None:
        if slot.live and not slot.live.process.gone():
            if not paused and slot.live.refresh() not in ("running", "shutdown"):
                slot.live.execute("cont")
                slot.live.refresh()
                self._save(slot)
            return
        self._ended(slot)
        self._start(slot, paused)

    def _start(self, slot: Slot, paused: bool) -> None:
        assert slot.spec
        machine, directory = slot.spec.machine, slot.directory
        manifest, binary = self._images.manifest(machine.image), find_binary()
        accelerator = self._choice.find().accelerator
        words = cmdline.command_line(machine, manifest, binary, accelerator, paused)
        start.check_port(machine.network)
        marks = start.marks(directory)
        started = start.launch(words, directory)
        run = Run(
            phase=Phase.RUNNING, pid=started.pid, boot_id=process.boot_id(), accelerator=accelerator,
            since=clock.now(), serial_from=marks.serial, log_from=marks.qemu,
        )  # fmt: skip
        live = self._live(slot, started, run)
        try:
            with start.plain_errors(directory):
                record.write_run(directory, run)
                scope.put_into_scope(machine.uuid, machine.name, started.pid)
                live.attach(self._meet(live, machine, run))
        except BaseException as e:
            self._stillborn(slot, live, str(e))
            raise
        with self._changed:
            slot.run, slot.live = run, live
            self._tell()
        self._watcher.add(started.pidfd, lambda: self._ended(slot, live))
        log.info("machine %s runs under %s as process %d", machine.uuid, accelerator, started.pid)

    def _meet(self, live: Live, machine: Machine, run: Run) -> Qmp:
        """The connection to a QEMU that was just started. Raises what it died of."""
        try:
            qmp = start.meet(self._qmp, live.process, machine, live.directory, live.on_event)
        except Unavailable:
            live.process.kill()
            live.process.gone(2)
            qmp = None
        if qmp is None:
            ended = live.process.reap()
            raise start.why_it_died(machine, process.last_words(live.directory, run.log_from), ended)
        return qmp

    def _stillborn(self, slot: Slot, live: Live, why: str) -> None:
        """Nobody would hold this QEMU: end it, and have a state that says it is off."""
        live.process.end()
        live.let_go()
        self._note_off(slot, why)

    def _note_off(self, slot: Slot, why: str) -> None:
        with self._changed:
            slot.run = Run(phase=Phase.OFF, since=clock.now(), reason=why)
            self._tell()
        self._save(slot)

    def _off(self, slot: Slot, why: str) -> None:
        live = slot.live
        if live is None:
            if unknown := process.find(slot.directory, slot.uuid, slot.run.pid):
                unknown.end()
                self._note_off(slot, why)
            return
        self._asked(slot, live, why)
        live.end()
        self._ended(slot, live)

    def _asked(self, slot: Slot, live: Live, why: str) -> None:
        """Write down that it is going to end, and why, before it does."""
        live.ending = live.ending or why
        with slot.saving:
            if slot.live is not live or slot.run.ending:
                return
            slot.run = slot.run.model_copy(update={"ending": why})
            self._save(slot)

    def _ended(self, slot: Slot, live: Live | None = None) -> None:
        """Its process is gone: say how, once, whoever notices first. When this returns it is on disk too."""
        live = live or slot.live
        if live is None or not live.process.gone():
            return
        with slot.saving:
            if slot.live is not live:
                return
            self._watcher.drop(live.process.pidfd)
            how, said = live.process.reap(), process.last_words(slot.directory, slot.run.log_from)
            with self._changed:
                slot.run = ending(slot.run, how, said, live.ending)
                slot.live = None
                self._tell()
            self._save(slot)
        live.let_go()
        log.info("machine %s is %s: %s", slot.uuid, slot.run.phase, slot.run.reason)

    def _tick(self) -> None:
        for slot in list(self._slots.values()):
            if live := slot.live:
                live.cut_logs(LOG_MAXIMUM, LOG_KEEP)
                if not live.connected and slot.uuid not in self._reconnecting:
                    self._reconnecting.add(slot.uuid)
                    self._helpers.submit(self._reconnect, slot.uuid, live)

    def _reconnect(self, uuid: UUID, live: Live) -> None:
        """A hung QEMU may take seconds to say nothing: not in the thread that watches all the others."""
        try:
            live.control()
            self._tell_all()
        except PaddockError as e:
            log.warning("machine %s: %s", uuid, e)
        finally:
            self._reconnecting.discard(uuid)

    def _live(self, slot: Slot, started: Process, run: Run) -> Live:
        return Live(
            slot.directory,
            started,
            self._qmp,
            changed=lambda _: self._tell_all(),
            asked=lambda live, why: self._asked(slot, live, why),
            serial_from=run.serial_from,
        )

    def _accept(self, slot: Slot, spec: Spec) -> None:
        record.write_spec(slot.directory, spec)
        with self._changed:
            slot.spec = spec
            self._tell()

    def _note_epoch(self, slot: Slot, epoch: int) -> None:
        """Shown in the state; kept on disk with the next definition, since the fence keeps the one that counts."""
        if slot.spec and slot.spec.epoch < epoch:
            slot.spec = slot.spec.model_copy(update={"epoch": epoch})

    def _save(self, slot: Slot) -> None:
        """A full or broken disk keeps nobody from stopping a machine: what is not written is found out by looking."""
        try:
            with slot.saving, contextlib.suppress(FileNotFoundError):
                record.write_run(slot.directory, slot.run)
        except OSError as e:
            log.warning("machine %s: that it is %s could not be written down: %s", slot.uuid, slot.run.phase, e)

    def _tell(self) -> None:
        self._cursor += 1
        self._changed.notify_all()

    def _tell_all(self) -> None:
        with self._changed:
            self._tell()

    def _slot(self, uuid: UUID) -> Slot:
        with self._changed:
            return self._slots.setdefault(uuid, Slot(uuid, self._layout.machine(uuid)))

    def _defined(self, uuid: UUID) -> Slot:
        slot = self._slots.get(uuid)
        if slot is None or slot.spec is None:
            raise NotFound(f"there is no machine {uuid} on this node")
        return slot

    def _adopt_all(self) -> None:
        """Find again what an earlier process of ours defined and started."""
        names = [d.name for d in self._layout.machines.iterdir() if d.is_dir()]
        uuids = [UUID(name) for name in names if _is_uuid(name)]
        with ThreadPoolExecutor(8, "adopt") as pool:
            for slot in pool.map(self._adopt, uuids):
                if slot.spec or slot.live:
                    self._slots[slot.uuid] = slot

    def _adopt(self, uuid: UUID) -> Slot:
        directory = self._layout.machine(uuid)
        slot = Slot(uuid, directory, record.read_spec(directory), record.read_run(directory))
        try:
            found = process.find(directory, uuid, slot.run.pid)
        except (PaddockError, OSError) as e:
            log.error("machine %s: %s", uuid, e)
            found = None
        if found:
            self._adopt_process(slot, found)
        elif slot.run.phase in (Phase.RUNNING, Phase.PAUSED):
            slot.run = ending(slot.run, unseen(slot.run), process.last_words(directory, slot.run.log_from))
            self._save(slot)
        return slot

    def _adopt_process(self, slot: Slot, found: Process) -> None:
        known = slot.run if slot.run.pid == found.pid else Run(since=clock.now(), boot_id=process.boot_id())
        slot.run = known.model_copy(update={"phase": Phase.RUNNING, "pid": found.pid, "reason": ""})
        slot.live = live = self._live(slot, found, slot.run)
        self._watcher.add(found.pidfd, lambda: self._ended(slot, live))
        try:
            self._prove(slot, live.control())
        except PaddockError as e:
            log.warning("machine %s runs as process %d, but %s", slot.uuid, found.pid, e)
            return
        self._save(slot)
        log.info("machine %s was found running as process %d", slot.uuid, found.pid)

    def _prove(self, slot: Slot, qmp: Qmp) -> None:
        if qmp.uuid != slot.uuid:
            raise Refused(f"BUG: machine {qmp.uuid} answers in the directory of {slot.uuid}")
        if slot.run.accelerator is None and slot.live:
            enabled = slot.live.execute("query-kvm")["enabled"]
            accelerator = Accelerator.KVM if enabled else Accelerator.TCG
            slot.run = slot.run.model_copy(update={"accelerator": accelerator})


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


def _is_uuid(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False
