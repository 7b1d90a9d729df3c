"""The QEMU processes of a node's machines: spawned, watched, and found again after a restart of ours.

Each machine is a slot in memory: its definition, its last run, and while it runs, what we hold of its QEMU. The files
in its directory say the same, so that the next process finds everything again.
"""

import contextlib
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from paddock.base import clock
from paddock.base.errors import NotFound, PaddockError, Unavailable
from paddock.hypervisor.qemu import disks, host, identity, memory, process, record, scope, start
from paddock.hypervisor.qemu.accel import AcceleratorChoice
from paddock.hypervisor.qemu.images import ImageStore
from paddock.hypervisor.qemu.layout import Layout
from paddock.hypervisor.qemu.live import Live
from paddock.hypervisor.qemu.pinning import Pinning
from paddock.hypervisor.qemu.process import Process
from paddock.hypervisor.qemu.qmp import Qmp, QmpThread
from paddock.hypervisor.qemu.record import Run, Spec
from paddock.hypervisor.qemu.slot import Slot, ending, host_restarted, state_of, unseen
from paddock.hypervisor.qemu.volume_store import VolumeStore
from paddock.hypervisor.qemu.warm import pool
from paddock.hypervisor.qemu.watch import Watcher
from paddock.machine.spec import Machine
from paddock.machine.state import Accelerator, Change, Phase

LOG_MAXIMUM = 4 * 1024 * 1024  # bytes of serial.log and qemu.log
LOG_KEEP = 1024 * 1024

log = logging.getLogger(__name__)


class Held:
    """All machines of a node, and what is held of those that run. What happens to them is in `Runs`."""

    def __init__(self, layout: Layout, images: ImageStore, choice: AcceleratorChoice) -> None:
        self._layout = layout
        self._images = images
        self._choice = choice
        self.volumes = VolumeStore(layout)
        self._pinning = Pinning(os.sched_getaffinity(0))
        self._qmp = QmpThread()
        self._changed = threading.Condition()
        self._cursor = int(clock.now().timestamp() * 1000)  # never one of an earlier process
        self._slots: dict[UUID, Slot] = {}
        self._reconnecting: set[UUID] = set()
        self._helpers = ThreadPoolExecutor(2, "reconnect")
        self._watcher = Watcher(self._tick)
        self.closed = False
        self._adopt_all()

    def slots(self) -> list[Slot]:
        """Those that are defined, as of now."""
        with self._changed:
            return [slot for slot in self._slots.values() if slot.spec]

    def slot(self, uuid: UUID) -> Slot:
        with self._changed:
            return self._slots.setdefault(uuid, Slot(uuid, self._layout.machine(uuid)))

    def defined(self, uuid: UUID) -> Slot:
        slot = self._slots.get(uuid)
        if slot is None or slot.spec is None:
            raise NotFound(f"there is no machine {uuid} on this node")
        return slot

    def accept(self, slot: Slot, spec: Spec) -> None:
        record.write_spec(slot.directory, spec)
        with self._changed:
            slot.spec = spec
            self._tell()

    def note_epoch(self, slot: Slot, epoch: int) -> None:
        """Shown in the state; kept on disk with the next definition, since the fence keeps the one that counts."""
        if slot.spec and slot.spec.epoch < epoch:
            slot.spec = slot.spec.model_copy(update={"epoch": epoch})

    def forget(self, slot: Slot) -> None:
        """It is removed from this node."""
        with self._changed:
            self._slots.pop(slot.uuid, None)
            slot.spec = None
            self._tell()

    def changes(self, cursor: int, timeout: float) -> Change:
        """See `Machines.changes`."""
        with self._changed:
            self._changed.wait_for(lambda: self._cursor != cursor, timeout=max(0.0, timeout))
            return Change(cursor=self._cursor, machines=tuple(state_of(s) for s in self._slots.values() if s.spec))

    def close(self) -> None:
        """Let go; machines go on. A second time does nothing."""
        if self.closed:
            return
        self.closed = True
        self._watcher.close()
        self._helpers.shutdown(cancel_futures=True)
        for slot in self._slots.values():
            if slot.live:
                slot.live.let_go()
        self._qmp.close()

    def _spawn(self, slot: Slot, machine: Machine, words: list[str], run: Run) -> tuple[Live, Run]:
        """A QEMU that answers, and that nobody knows of yet."""
        assert run.accelerator, "BUG: a machine is started under nothing"
        host.refuse_unable(machine, run.accelerator)
        start.check_port(machine.network)
        cpus = self._pinning.claim(machine.uuid, machine.cpus) if machine.dedicated_cpus else ()
        try:
            return self._spawned(slot, machine, words, run.model_copy(update={"cpus": cpus}))
        except BaseException:
            self._let_cpus_go(slot)
            raise

    def _spawned(self, slot: Slot, machine: Machine, words: list[str], run: Run) -> tuple[Live, Run]:
        directory = slot.directory
        started = start.launch(words, directory, [self.volumes.file(a.volume) for a in machine.volumes])
        new = {"phase": Phase.RUNNING, "pid": started.pid, "boot_id": process.boot_id(), "since": clock.now()}
        run = run.model_copy(update=new)
        live = self._live(slot, started, run)
        try:
            with start.plain_errors(directory):
                record.write_run(directory, run)
                scope.put_into_scope(machine.uuid, machine.name, started.pid)
                live.attach(self._meet(live, machine, run))
            self._pinning.place(machine.uuid, live)
            if run.cpus:
                self._pinning.settle(self._lives())
        except BaseException as e:
            self._stillborn(slot, live, str(e))
            raise
        return live, run

    def _taken(self, slot: Slot, machine: Machine, ready: pool.Ready, run: Run) -> tuple[Live, Run]:
        """One that was held ready is the machine's QEMU from now on; its guest stands still, and nobody knows of it
        yet."""
        directory = slot.directory
        for attached in machine.volumes:
            identity.give(self.volumes.file(attached.volume), writable=True)
        new = {"phase": Phase.RUNNING, "pid": ready.process.pid, "boot_id": process.boot_id(), "since": clock.now()}
        run = run.model_copy(update=new)
        with start.plain_errors(directory):
            record.write_run(directory, run)  # first: the next process of ours knows what it is
            pool.move_in(ready, directory, directory.seed.read_bytes())
        marks = start.marks(directory)
        run = run.model_copy(update={"serial_from": marks.serial, "log_from": marks.qemu})
        live = self._live(slot, ready.process, run)
        try:
            with start.plain_errors(directory):
                record.write_run(directory, run)
                scope.put_into_scope(machine.uuid, machine.name, ready.process.pid)
                live.agent.use(ready.agent)
                live.control()
            self._pinning.place(machine.uuid, live)
        except BaseException as e:
            self._stillborn(slot, live, str(e))
            raise
        return live, run

    def _publish(self, slot: Slot, live: Live, run: Run) -> None:
        with self._changed:
            slot.run, slot.live = run, live
            self._tell()
        self._watcher.add(live.process.pidfd, lambda: self._ended(slot, live))
        log.info("machine %s runs under %s as process %d", slot.uuid, run.accelerator, live.process.pid)

    def _lives(self) -> dict[UUID, Live]:
        return {slot.uuid: slot.live for slot in list(self._slots.values()) if slot.live}

    def _let_cpus_go(self, slot: Slot) -> None:
        if self._pinning.release(slot.uuid):
            self._pinning.settle(self._lives())

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
        self._let_cpus_go(slot)
        self._note_off(slot, why, Phase.HIBERNATED if memory.is_there(slot.directory) else Phase.OFF)

    def _note_off(self, slot: Slot, why: str, phase: Phase = Phase.OFF) -> None:
        with self._changed:
            slot.run = Run(phase=phase, since=clock.now(), reason=why)
            self._tell()
        self._save(slot)

    def _asked(self, slot: Slot, live: Live, why: str, rebooting: bool = False) -> None:
        """Write down that it is going to end, and why, before it does."""
        live.ending = live.ending or why
        with slot.saving:
            if slot.live is not live or slot.run.ending:
                return
            slot.run = slot.run.model_copy(update={"ending": why, "rebooting": rebooting})
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
            self._let_cpus_go(slot)
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
            asked=lambda live, why, rebooting: self._asked(slot, live, why, rebooting),
            serial_from=run.serial_from,
            log_from=run.log_from,
        )

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

    def _adopt_all(self) -> None:
        """Find again what an earlier process of ours defined and started."""
        pool.put_back(self._layout.machines)
        names = [d.name for d in self._layout.machines.iterdir() if d.is_dir()]
        uuids = [UUID(name) for name in names if _is_uuid(name)]
        with ThreadPoolExecutor(8, "adopt") as helpers:
            for slot in helpers.map(self._adopt, uuids):
                if slot.spec or slot.live:
                    self._slots[slot.uuid] = slot
                    self._pinning.adopt(slot.uuid, slot.run.cpus if slot.live else ())
        self._pinning.settle(self._lives())

    def _adopt(self, uuid: UUID) -> Slot:
        directory = self._layout.machine(uuid)
        slot = Slot(uuid, directory, record.read_spec(directory), record.read_run(directory))
        try:
            found = process.find(directory, slot.run.pid)
        except (PaddockError, OSError) as e:
            log.error("machine %s: %s", uuid, e)
            found = None
        if slot.run.unborn and not host_restarted(slot.run):
            self._end_unborn(slot, found)
        elif found:
            self._adopt_process(slot, found)
        elif slot.run.phase in (Phase.RUNNING, Phase.PAUSED) and memory.is_there(directory):
            slot.run = Run(phase=Phase.HIBERNATED, since=clock.now(), reason="hibernated")
            self._save(slot)
        elif slot.run.phase in (Phase.RUNNING, Phase.PAUSED):
            slot.run = ending(slot.run, unseen(slot.run), process.last_words(directory, slot.run.log_from))
            self._save(slot)
        return slot

    def _end_unborn(self, slot: Slot, found: Process | None) -> None:
        """An earlier process of ours ended while it gave a guest of a warm image its identity: its next start is the
        first. Not so after a restart of the host, when the record may be older than the disk."""
        disks.disuse(slot.directory)
        try:
            if found:
                found.end()
        except Unavailable as e:
            log.error("machine %s: %s", slot.uuid, e)
        slot.run = Run(phase=Phase.OFF, since=clock.now(), reason="the node agent ended before it had its identity")
        self._save(slot)

    def _adopt_process(self, slot: Slot, found: Process) -> None:
        known = slot.run if slot.run.pid == found.pid else Run(since=clock.now(), boot_id=process.boot_id())
        slot.run = known.model_copy(update={"phase": Phase.RUNNING, "pid": found.pid, "reason": ""})
        slot.live = live = self._live(slot, found, slot.run)
        self._watcher.add(found.pidfd, lambda: self._ended(slot, live))
        try:
            live.control()
            self._find_accelerator(slot, live)
        except PaddockError as e:
            log.warning("machine %s runs as process %d, but %s", slot.uuid, found.pid, e)
            return
        self._save(slot)
        log.info("machine %s was found running as process %d", slot.uuid, found.pid)

    def _find_accelerator(self, slot: Slot, live: Live) -> None:
        if slot.run.accelerator is None:
            enabled = live.execute("query-kvm")["enabled"]
            accelerator = Accelerator.KVM if enabled else Accelerator.TCG
            slot.run = slot.run.model_copy(update={"accelerator": accelerator})


def _is_uuid(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False
