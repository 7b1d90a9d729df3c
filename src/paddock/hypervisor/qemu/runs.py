"""What happens to a node's machines: turned on and off, put to sleep and woken, begun from a warm image."""

import logging
from uuid import UUID

from paddock.base.errors import Conflict, PaddockError, Refused, Unavailable
from paddock.hypervisor.qemu import cmdline, disks, memory, process, record, start
from paddock.hypervisor.qemu.accel import AcceleratorChoice
from paddock.hypervisor.qemu.binary import find_binary
from paddock.hypervisor.qemu.fork import make as fork_make
from paddock.hypervisor.qemu.fork import start as fork_start
from paddock.hypervisor.qemu.fork.point import Point
from paddock.hypervisor.qemu.held import Held
from paddock.hypervisor.qemu.hibernate import Hibernations
from paddock.hypervisor.qemu.images import ImageStore
from paddock.hypervisor.qemu.layout import Layout
from paddock.hypervisor.qemu.live import RUNNING, Live
from paddock.hypervisor.qemu.record import Given, Run
from paddock.hypervisor.qemu.slot import Slot
from paddock.hypervisor.qemu.warm import start as warm_start
from paddock.hypervisor.qemu.warm.node import WarmNode
from paddock.hypervisor.qemu.warm.store import Record
from paddock.machine.spec import Machine
from paddock.machine.state import Fork, Phase, Progress

TIME_WAIT = 5.0  # seconds for a guest agent to take the time

log = logging.getLogger(__name__)


class Runs(Held):
    """What happens to the machines of a node. Callers of what changes a slot hold its lock."""

    def __init__(self, layout: Layout, images: ImageStore, choice: AcceleratorChoice, warm: WarmNode) -> None:
        super().__init__(layout, images, choice)
        self._warm = warm
        self._hibernations = Hibernations(self.volumes.file, self._hibernated)
        self.forks = fork_make.Forks(layout)
        for slot in list(self._slots.values()):
            self._finish_forks(slot)

    def close(self) -> None:
        """Let go; machines go on. A second time does nothing."""
        if not self.closed:
            self._hibernations.close()
            self.forks.close()
        super().close()

    def on(self, slot: Slot, paused: bool) -> None:
        if slot.live and not slot.live.process.gone():
            if not paused:
                self.resume(slot, slot.live)
            return
        self._ended(slot)
        self._start(slot, paused)

    def pause(self, live: Live) -> None:
        """Its CPUs stand still."""
        if live.refresh() in RUNNING:
            live.execute("stop")
            live.refresh()
            self._tell_all()

    def resume(self, slot: Slot, live: Live) -> None:
        """Its CPUs go on. One that is about to end is left to that."""
        self._hibernations.give_up(slot)
        if live.refresh() not in ("running", "shutdown"):
            memory.stop_writing(live)  # or reading: what an earlier process of ours had begun
            memory.load(live)
            memory.discard(slot.directory)
            live.execute("cont")
            live.refresh()
            self._save(slot)
            self._tell_all()
            self._helpers.submit(_tell_time, live)

    def hibernate(self, slot: Slot) -> Progress:
        """How far it is. Call it without the slot's lock. Raises Conflict, DiskFull, Refused."""
        live = slot.live
        if live is None or live.process.gone():
            self._ended(slot)
            if slot.run.phase is Phase.HIBERNATED:
                return Progress(done=True)
            raise Conflict(f"machine {slot.uuid} is {slot.run.phase}", hint="start it first")
        if self.forks.busy(slot.uuid):
            raise Conflict("it is being forked", hint="ask again when that is done")
        return self._hibernations.hibernate(slot, live, find_binary().version)

    def fork(self, slot: Slot, point: UUID) -> Fork:
        """How far it is. Call it without the slot's lock. Raises Conflict, DiskFull, Refused."""
        live = slot.live
        if live is None or live.process.gone():
            self._ended(slot)
            self.forks.forget(slot.uuid)
            raise Conflict(f"machine {slot.uuid} is {slot.run.phase}", hint="start it first")
        return self.forks.fork(slot, live, point, find_binary().version)

    def drop_fork(self, point: UUID) -> None:
        """Nobody begins from it any more."""
        self.forks.drop(point)
        self._warm.store.sweep()

    def _hibernated(self, slot: Slot, live: Live) -> None:
        """Its memory is in a file: end its QEMU."""
        with slot.saving:
            slot.run = slot.run.model_copy(update={"ending": "hibernated", "hibernated": True})
            self._save(slot)
        try:
            live.end()
        except Unavailable:
            slot.run = slot.run.model_copy(update={"ending": "", "hibernated": False})
            raise
        self._ended(slot, live)

    def off(self, slot: Slot, why: str) -> None:
        self._hibernations.give_up(slot)
        live = slot.live
        if live is None:
            if slot.run.phase is Phase.HIBERNATED:
                memory.discard(slot.directory)
                self._note_off(slot, why)
            if unknown := process.find(slot.directory, slot.run.pid):
                unknown.end()
            if unknown or slot.run.rebooting:  # it shall stay off now
                self._note_off(slot, why)
            return
        self._asked(slot, live, why)
        live.end()
        memory.discard(slot.directory)
        self._ended(slot, live)

    def _start(self, slot: Slot, paused: bool) -> None:
        cold = self._goes_on(slot, paused)
        if cold is None:
            return
        assert slot.spec
        machine = slot.spec.machine
        fresh = disks.is_fresh(slot.directory)
        if machine.fork and fresh:
            self._begin_fork(slot, machine, paused)
            return
        not_warm = self._begins_warm(slot, machine, paused) if fresh else ""
        if not_warm is None:
            return
        run = self._run(slot, machine).model_copy(update={"cold_start": cold, "not_warm": not_warm})
        try:
            spawned = self._spawn(slot, machine, self._words(machine, paused), run)
        except BaseException:
            if fresh:  # the next start is the first
                disks.disuse(slot.directory)
            raise
        self._publish(slot, *spawned)

    def _run(self, slot: Slot, machine: Machine) -> Run:
        """The record of a start as it would be now."""
        marks = start.marks(slot.directory)
        return Run(
            accelerator=self._choice.find().accelerator, given=Given.of(machine),
            started=record.without_secrets(machine), serial_from=marks.serial, log_from=marks.qemu,
        )  # fmt: skip

    def _begins_warm(self, slot: Slot, machine: Machine, paused: bool) -> str | None:
        """None when it runs, from a warm image. Else why it does not, and its disk is as it was."""
        start.check_port(machine.network)
        found, why = self._warm.choose(machine, slot.directory, paused)
        if found and self._takes_ready(slot, machine, found):
            return None
        try:
            if found:
                self._warm.store.stand_on(found, slot.directory, machine.system_disk.size)
                self._wake_warm(slot, machine, found)
                return None
        except PaddockError as e:
            log.warning("machine %s boots: its warm image could not be used: %s", slot.uuid, e)
            why = f"its warm image could not be used: {e.message}"
        if disks.warm_of(slot.directory.root):
            disks.renew(self._layout, slot.directory, machine.system_disk)
            self._warm.store.sweep()  # its warm image may be gone meanwhile, but for the disk that it stood on
        disks.use(slot.directory)
        return why

    def _takes_ready(self, slot: Slot, machine: Machine, found: Record) -> bool:
        """Whether it runs, as one that was held ready."""
        ready = self._warm.pool.take(found, machine)
        if ready is None:
            return False
        try:
            about = {"warm": found.id, "pooled": True, "unborn": True}
            run = self._run(slot, machine).model_copy(update=about)
            live, run = self._taken(slot, machine, ready, run)
            disks.use(slot.directory)
            self._wake_up(slot, machine, live, run)
        except BaseException as e:
            ready.end()
            if not isinstance(e, PaddockError):
                raise
            log.warning("machine %s can't have the guest that was held ready: %s", slot.uuid, e)
            return False
        return True

    def _wake_warm(self, slot: Slot, machine: Machine, found: Record) -> None:
        manifest, binary = self._images.manifest(machine.image), find_binary()
        run = self._run(slot, machine).model_copy(update={"warm": found.id, "unborn": True})
        assert run.accelerator, "BUG: a machine is started under nothing"
        words = warm_start.words(machine, manifest, binary, run.accelerator, found.id)
        live, run = self._spawn(slot, machine, words, run)
        disks.use(slot.directory)
        try:
            found.way.read(live, self._layout.warm_image(found.id))
        except BaseException as e:
            self._stillborn(slot, live, str(e))
            raise
        self._wake_up(slot, machine, live, run)

    def _wake_up(self, slot: Slot, machine: Machine, live: Live, run: Run) -> None:
        """Its guest goes on as somebody of its own."""
        try:
            answered = warm_start.wake(live, machine, self._images.manifest(machine.image))
            live.refresh()
            born = run.model_copy(update={"answered": answered, "unborn": False})
            with start.plain_errors(slot.directory):
                record.write_run(slot.directory, born)  # or the next process of ours would end it as nobody
        except BaseException as e:
            self._stillborn(slot, live, str(e))
            raise
        self._publish(slot, live, born)

    def _begin_fork(self, slot: Slot, machine: Machine, paused: bool) -> None:
        """It goes on where its parent stood. Whatever fails leaves it off, and as if it had never been started."""
        if paused:
            raise Refused("a fork begins with its guest running: it could not become somebody of its own")
        start.check_port(machine.network)
        beginning = fork_start.note(slot.directory)
        try:
            found = self._stand_on_fork(slot, machine)
            live, run = self._wake_fork(slot, machine, found)
        except BaseException:
            if beginning.exists():
                self._unbegin(slot, machine)
            raise
        disks.use(slot.directory)
        beginning.unlink()
        self._publish(slot, live, run)

    def _stand_on_fork(self, slot: Slot, machine: Machine) -> Point:
        version, accelerator = find_binary().version, self._choice.find().accelerator
        with self._warm.store.standing():
            found = fork_start.find(self._layout, machine, slot.directory, version, accelerator)
            fork_start.note(slot.directory).touch(0o600)
            fork_start.stand_on(self._layout, found, slot.directory, machine.system_disk.size)
        return found

    def _wake_fork(self, slot: Slot, machine: Machine, found: Point) -> tuple[Live, Run]:
        about = {"fork": str(found.point), "depth": found.depth, "warm": found.warm}
        run = self._run(slot, machine).model_copy(update=about)
        words = fork_start.reaching(self._words(machine, True, bool(found.warm)), machine.network, found.depth)
        live, run = self._spawn(slot, machine, [*words, "-incoming", "defer"], run)
        try:
            fork_start.restore(live, self._layout, found)
            fork_start.wake(live, machine, found, self._images.manifest(machine.image).default_user)
            live.refresh()
        except BaseException as e:
            self._stillborn(slot, live, str(e))
            raise
        return live, run

    def _unbegin(self, slot: Slot, machine: Machine) -> None:
        disks.renew(self._layout, slot.directory, machine.system_disk)
        fork_start.note(slot.directory).unlink(missing_ok=True)
        self._warm.store.sweep()

    def _finish_forks(self, slot: Slot) -> None:
        """What an earlier process of ours had begun: parents go on, and children that were nobody yet are off."""
        if fork_start.note(slot.directory).exists() and slot.spec:
            self.off(slot, "the node agent ended while it began as a fork")
            self._unbegin(slot, slot.spec.machine)
        if fork_make.note(slot.directory).exists():
            if live := slot.live:
                self._helpers.submit(fork_make.put_right, slot, live)
            else:
                fork_make.note(slot.directory).unlink(missing_ok=True)

    def _goes_on(self, slot: Slot, paused: bool) -> str | None:
        """None when it went on with the memory that it was hibernated with. Else why it can't; empty when it never
        was: then it starts anew."""
        if slot.run.phase is not Phase.HIBERNATED and not memory.is_there(slot.directory):
            return ""
        try:
            self._wake(slot, paused)
        except memory.Unusable as e:
            log.warning("machine %s starts anew: %s", slot.uuid, e)
            memory.discard(slot.directory)
            return f"it started anew: {e.message}"
        return None

    def _wake(self, slot: Slot, paused: bool) -> None:
        """Raises Unusable; any other error leaves its memory where it is, to be gone on with later."""
        assert slot.spec
        wanted, accelerator = slot.spec.machine, self._choice.find().accelerator
        now = memory.marks(slot.directory, wanted, self.volumes.file)
        kept = memory.check(slot.directory, wanted, find_binary().version, accelerator, now)
        ports = {"ssh_port": wanted.network.ssh_port, "ssh_address": wanted.network.ssh_address}
        network = kept.machine.network.model_copy(update=ports)
        machine = kept.machine.model_copy(update={"network": network})
        bare = self._words(machine.model_copy(update={"volumes": ()}), True, kept.warm)
        words = memory.words(kept, fork_start.reaching(bare, network, kept.depth))
        given = kept.given and kept.given.model_copy(update={"network": network})
        run = Run(
            accelerator=accelerator, given=given, started=machine, serial_from=kept.serial_from,
            log_from=start.marks(slot.directory).qemu, warm=slot.run.warm,
            fork=slot.run.fork, depth=kept.depth,
        )  # fmt: skip
        live, run = self._spawn(slot, machine, words, run)
        try:
            memory.load(live)
            memory.discard(slot.directory)  # before the guest changes its disk
            if not paused:
                live.execute("cont")
            live.refresh()
        except BaseException as e:
            self._stillborn(slot, live, str(e))
            raise
        self._publish(slot, live, run)
        self._helpers.submit(_tell_time, live)

    def _words(self, machine: Machine, paused: bool, warm: bool = False) -> list[str]:
        """`warm`: its memory is that of one that had begun from a warm image."""
        booted = self._images.manifest(machine.rescue.image if machine.rescue else machine.image)
        accelerator = self._choice.find().accelerator
        shape = cmdline.Warm() if warm else None
        return cmdline.command_line(machine, booted, find_binary(), accelerator, paused, shape)


def _tell_time(live: Live) -> None:
    """Its clock stood still with it. A guest without an agent has to find out by itself."""
    try:
        if live.agent_open():
            live.agent.set_time(TIME_WAIT)
    except PaddockError as e:
        log.info("the guest of QEMU %d did not take the time: %s", live.process.pid, e)
