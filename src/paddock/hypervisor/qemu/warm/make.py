"""Making a warm image: a guest of nobody is booted, takes off its identity, stands still, and is written down.

Then two guests start from it, and what their kernels call random is compared: an image whose guests do not differ is
never used. All of it happens in a directory beside, which gets the image's name when it is whole.
"""

import contextlib
import errno
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

from paddock.base import clock
from paddock.base.errors import PaddockError, Refused, Unavailable
from paddock.hypervisor.qemu import (
    cmdline,
    copies,
    disks,
    files,
    identity,
    memory,
    process,
    readiness,
    seed,
    start,
)
from paddock.hypervisor.qemu.cmdline import Binary
from paddock.hypervisor.qemu.copies import GivenUp
from paddock.hypervisor.qemu.layout import Layout, MachineDir, WarmDir, image_file
from paddock.hypervisor.qemu.live import Live
from paddock.hypervisor.qemu.qmp import Qmp, QmpThread
from paddock.hypervisor.qemu.room import Room
from paddock.hypervisor.qemu.warm import guest
from paddock.hypervisor.qemu.warm.key import Key
from paddock.hypervisor.qemu.warm.start import nobody, words
from paddock.hypervisor.qemu.warm.store import Part, Record
from paddock.hypervisor.qemu.warm.ways import WAYS
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import MIB, Machine
from paddock.machine.state import Accelerator

BOOT_SECONDS = 1200.0
SETTLE_SECONDS = 300.0
UNPLUG_SECONDS = 60.0
SAVE_SECONDS = 300.0
SAMPLE_SECONDS = 60.0
LOOK_EVERY = 0.1  # seconds
ROOM = Room(1)  # of a node: their memory is in no placement
OVERHEAD_MIB = 64 + cmdline.TCG_CACHE_MIB  # of QEMU itself
# Where memory runs out all the same, the kernel takes these first.
_ALONE = ["choom", "-n", "1000", "--", "setpriv", "--no-new-privs", "--pdeathsig", "KILL", "nice", "-n", "10"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is to be made, of what."""

    key: Key
    machine: Machine  # one that it is for
    manifest: ImageManifest
    binary: Binary
    accelerator: Accelerator


class Maker:
    """Makes one. The thread that calls `make` must live as long as that takes: its guests are killed with it."""

    def __init__(self, layout: Layout, thread: QmpThread, plan: Plan, stop: threading.Event) -> None:
        self._layout = layout
        self._thread = thread
        self.plan = plan
        self._way = WAYS[plan.key.way]
        self._stop = stop
        self._id = f"{plan.key.id}-{secrets.token_hex(4)}"  # of its own, since an older one's disk may be in use
        self._scratch = WarmDir(layout.warm / f".{self._id}")
        self.doing = "beginning"

    def make(self) -> Record:
        """Returns when it has its name. Raises Hopeless when there can be none of this image, GivenUp, DiskFull,
        Refused, Unavailable."""
        begun = clock.monotonic()
        try:
            with self._plain_errors():
                self._make()
                record = self._described(clock.monotonic() - begun)
                self._name(record)
        finally:
            shutil.rmtree(self._scratch.root, ignore_errors=True)
        log.info("warm image %s of %s was made in %.0f s", record.id, record.name, record.seconds)
        return record

    def _make(self) -> None:
        machine = nobody(self.plan.machine, "warm")
        with ROOM.taken(machine.memory_mib + OVERHEAD_MIB, self._wait_for_room):
            self._prepare(machine)
            self._boot_and_save(machine)
            self._compare(machine)

    @contextlib.contextmanager
    def _plain_errors(self) -> Iterator[None]:
        """A disk that is full is said to be, whatever it was that failed for it."""
        size = self.plan.machine.memory_mib * MIB
        try:
            yield
        except (guest.Hopeless, GivenUp):
            raise
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise disks.full(self._layout.warm, size) from e
            raise Refused(f"no warm image can be made in {self._layout.warm}: {e}", hint="see `paddock doctor`") from e
        except PaddockError as e:
            if shutil.disk_usage(self._layout.warm).free < copies.RESERVE:
                raise disks.full(self._layout.warm, size) from e
            raise

    def _prepare(self, machine: Machine) -> None:
        root = self._scratch.root
        shutil.rmtree(root, ignore_errors=True)
        copies.check_room(MachineDir(self._layout.warm), machine.memory_mib * MIB)
        identity.make_machine_directory(root)
        disk = machine.system_disk
        disks.make_over(self._scratch, image_file(disk.image or "", Role.DISK), disk.size)
        text = seed.seed_iso({**seed.seed_files(machine), "network-config": seed.ANY_CARD})
        files.write_whole(self._scratch.seed, text, sync=False)

    def _boot_and_save(self, machine: Machine) -> None:
        plan = self.plan
        warm = self._way.template()
        line = cmdline.command_line(machine, plan.manifest, plan.binary, plan.accelerator, paused=False, warm=warm)
        with self._running(self._scratch, machine, line) as live:
            self.doing = "booting its guest"
            self._wait_booted(live)
            self.doing = "taking off its identity"
            self._unplug(live)
            guest.settle(live.agent, SETTLE_SECONDS, lambda: self._check(live))
            self.doing = "writing its memory"
            # Where nobody is connected its guest agent sleeps for 100 ms again and again: who begins would wait for it.
            with live.agent.conversation(SAVE_SECONDS):
                live.execute("stop")
                self._save(live)

    def _wait_booted(self, live: Live) -> None:
        """Until nothing of its boot is left to do."""
        deadline = clock.monotonic() + BOOT_SECONDS
        manifest = self.plan.manifest
        while not (live.agent_open() and live.agent.ping(1.0) and self._boot_is_over(live, manifest)):
            self._wait(live, deadline, "its guest has no guest agent that answers")

    def _boot_is_over(self, live: Live, manifest: ImageManifest) -> bool:
        if not manifest.cloud_init:
            return True
        return live.agent.read_file(readiness.CLOUD_INIT_RESULT, 2.0) is not None

    def _unplug(self, live: Live) -> None:
        """A guest that booted without a network card would have waited for one."""
        live.execute("device_del", {"id": "net0"})
        deadline = clock.monotonic() + UNPLUG_SECONDS
        while any(device["name"] == "net0" for device in live.execute("qom-list", {"path": "/machine/peripheral"})):
            self._wait(live, deadline, "its guest does not let its network card go")
        live.execute("netdev_del", {"id": "net0"})

    def _save(self, live: Live) -> None:
        self._way.begin_writing(live, self._scratch)
        deadline = clock.monotonic() + SAVE_SECONDS
        while (found := memory.migration(live)).get("status") in memory.UNDER_WAY:
            self._wait(live, deadline, "QEMU does not write its memory")
        if found.get("status") != "completed":
            raise Refused(f"QEMU can't write its memory: {found.get('error-desc', found.get('status'))}")

    def _compare(self, machine: Machine) -> None:
        """Two guests that start from it must not think of the same numbers."""
        self.doing = "comparing two guests of it"
        self._keep_from_change()
        first, second = self._sample(machine), self._sample(machine)
        if first == second:
            raise guest.Hopeless("two guests that started from it drew the same random numbers")

    def _sample(self, template: Machine) -> str:
        machine = template.model_copy(update={"uuid": uuid4()})
        plan, directory = self.plan, WarmDir(self._layout.warm / f".{self._id}-guest")
        shutil.rmtree(directory.root, ignore_errors=True)
        identity.make_machine_directory(directory.root)
        try:
            disks.make_over(directory, f"../{self._scratch.root.name}/{disks.WARM_DISK}", machine.system_disk.size)
            shutil.copy(self._scratch.seed, directory.seed)
            line = words(machine, plan.manifest, plan.binary, plan.accelerator, self._scratch.root.name)
            with self._running(directory, machine, line) as live:
                self._way.read(live, self._scratch)
                live.execute("cont")
                guest.tell(live.agent, guest.probe, SAMPLE_SECONDS, lambda: self._check(live))
                return guest.sample(live.agent)
        finally:
            shutil.rmtree(directory.root, ignore_errors=True)

    @contextlib.contextmanager
    def _running(self, directory: WarmDir, machine: Machine, line: list[str]) -> Iterator[Live]:
        """A QEMU that ends with this."""
        started = start.launch([*_ALONE, *line], directory)
        live = Live(directory, started, self._thread, changed=lambda _: None, asked=lambda *_: None)
        try:
            live.attach(self._met(live, machine))
            yield live
        except (Unavailable, Refused) as e:
            if not isinstance(e, guest.Hopeless) and live.process.gone(0.5):
                said = process.last_words(directory)
                raise Unavailable(f"its guest ended while {self.doing}: {said or started.reap()}") from e
            raise
        finally:
            live.end()
            started.reap()
            live.let_go()

    def _met(self, live: Live, machine: Machine) -> Qmp:
        qmp = start.meet(self._thread, live.process, machine, live.directory, live.on_event)
        if qmp is None:
            raise Unavailable(f"QEMU does not start: {process.last_words(live.directory)}")
        return qmp

    def _keep_from_change(self) -> None:
        """Guests that start from it may read it. Older QEMUs take no file as memory that they could not write to, even
        if they never do: the checksum tells."""
        for name in self._way.parts:
            writable = name == "ram" and self._way.shared and not self.plan.binary.private_files
            identity.give(self._scratch.root / name, writable=writable)

    def _described(self, seconds: float) -> Record:
        self.doing = "taking its checksums"
        parts = {name: Part(size=size, sha256=found) for name, (size, found) in self._hashed().items()}
        return Record(
            id=self._id, key=self.plan.key, name=self.plan.manifest.name, disk=self.plan.machine.system_disk.size,
            seed=self._scratch.seed.stat().st_size, parts=parts, made=clock.now(), seconds=round(seconds, 1),
        )  # fmt: skip

    def _hashed(self) -> dict[str, tuple[int, str]]:
        return {name: memory.hashed(self._scratch.root / name, sync=True) for name in self._way.parts}

    def _name(self, record: Record) -> None:
        keep = {*self._way.parts, "warm.json"}
        for path in self._scratch.root.iterdir():
            if path.name not in keep:
                path.unlink()
        files.write_whole(self._scratch.record, record.model_dump_json(indent=1).encode())
        identity.make_directory(self._scratch.root)
        os.rename(self._scratch.root, self._layout.warm_image(record.id).root)

    def _wait_for_room(self, lacking: str) -> None:
        self.doing = f"waiting {lacking}"
        if self._stop.is_set():
            raise GivenUp

    def _check(self, live: Live) -> None:
        """That there is something to wait for."""
        if self._stop.is_set():
            raise GivenUp
        if live.process.gone() or live.trouble:
            raise Unavailable(f"no warm image can be made: {live.trouble or 'its guest ended'}")

    def _wait(self, live: Live, deadline: float, why: str) -> None:
        self._stop.wait(LOOK_EVERY)
        self._check(live)
        if clock.monotonic() > deadline:
            raise Unavailable(f"no warm image can be made: {why}", hint="is the node busy? ask again")
