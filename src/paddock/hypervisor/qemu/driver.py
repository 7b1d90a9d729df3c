"""The QEMU driver: the protocols of a hypervisor over one state directory."""

import contextlib
import logging
import os
from pathlib import Path
from typing import Literal
from uuid import UUID

import anyio
from anyio.abc import ByteStream, SocketAttribute

from paddock.base import clock
from paddock.base.errors import Conflict, NotFound, PaddockError, Unavailable
from paddock.hypervisor.base import MAX_CHUNK
from paddock.hypervisor.qemu import files, helper_guest, identity, process
from paddock.hypervisor.qemu.accel import AcceleratorChoice
from paddock.hypervisor.qemu.binary import find_binary
from paddock.hypervisor.qemu.edit import Edits
from paddock.hypervisor.qemu.guest_agent import GuestAgent, check_hash
from paddock.hypervisor.qemu.helper_guest import Boot
from paddock.hypervisor.qemu.images import ImageStore
from paddock.hypervisor.qemu.layout import Layout
from paddock.hypervisor.qemu.live import Live
from paddock.hypervisor.qemu.machines import QemuMachines
from paddock.hypervisor.qemu.snapshot import Snapshots
from paddock.hypervisor.qemu.storage import QemuDisks
from paddock.hypervisor.qemu.volumes import QemuVolumes
from paddock.hypervisor.qemu.warm.node import WarmNode
from paddock.hypervisor.streams import Preceded
from paddock.machine.keys import Chord, check
from paddock.machine.state import FileChunk, GuestResult
from paddock.machine.warm import WARM_BUDGET, Policy

log = logging.getLogger(__name__)

HANG_UP_LOOKS = 10  # times that we look whether QEMU has noticed that the console's last user hung up
HANG_UP_WAIT = 0.05  # seconds between
FILE_WAIT = 30.0  # seconds for a part of a file
KEY_HOLD = 20  # milliseconds
KEY_PAUSE = 0.06  # seconds from one chord to the next: a keyboard remembers 16 bytes
PASSWORD_WAIT = 8.0  # seconds: the guest agent runs a program for it


class QemuHypervisor:
    """A host that runs machines by QEMU. One per state directory and process; guests outlive it. `warm` says when it
    makes warm images unasked, which take up to `warm_budget` bytes."""

    def __init__(
        self,
        state_dir: Path,
        accelerator: Literal["auto", "kvm", "tcg"] = "auto",
        warm: Policy = "second-use",
        warm_budget: int = WARM_BUDGET,
    ) -> None:
        self._layout = layout = Layout(Path(state_dir).absolute())
        for path in (layout.root, layout.machines, layout.images, layout.overlays):
            identity.make_directory(path)
        log.info("QEMU runs %s", identity.describe_identity())
        self._images = ImageStore(layout, arrived=self._probe)
        self.accelerator = AcceleratorChoice(accelerator, layout.accelerator, self._images.kernels)
        self.warm = WarmNode(layout, self._images, self.accelerator, warm, warm_budget)
        self.machines = QemuMachines(layout, self._images, self.accelerator, self.warm)
        self._snapshots = Snapshots(layout, self._live_of, self._boot_of)
        self._edits = Edits(layout, self._boot_of)
        self.machines.before_start = self._edits.settle
        self.machines.before_removal = self._forget
        self.disks = QemuDisks(layout, self._images, self._snapshots, self._edits, self.machines.state, self.warm.leave)
        self.volumes = QemuVolumes(self.machines)
        self.guest = QemuGuest(self.machines)
        self.streams = QemuStreams(self.machines)

    def close(self) -> None:
        """Let go of connections and threads; machines go on."""
        self._images.close()
        self._snapshots.close()
        self._edits.close()
        self.warm.close()
        self.machines.close()

    def _live_of(self, machine: UUID) -> Live | None:
        try:
            return self.machines.running(machine)
        except (NotFound, Conflict):
            return None

    def _boot_of(self, image: str) -> Boot:
        """What helper guests boot. Raises NotFound, Refused."""
        return helper_guest.prepare(
            self._layout, self._images.manifest(image), find_binary(), self.accelerator.find().accelerator
        )

    def _forget(self, machine: UUID) -> None:
        self._snapshots.forget(machine)
        self._edits.forget(machine)

    def _probe(self) -> None:
        """An image came, perhaps with the first kernel: find the accelerator before a machine waits for it."""
        with contextlib.suppress(PaddockError):
            self.accelerator.find()


class QemuGuest:
    """See `paddock.hypervisor.base.Guest`."""

    def __init__(self, machines: QemuMachines) -> None:
        self._machines = machines

    def exec(self, machine: UUID, argv: tuple[str, ...], stdin: str, timeout: float) -> GuestResult:
        return self._agent(machine).exec(argv, stdin, timeout)

    def read_file(self, machine: UUID, path: str, offset: int, limit: int) -> FileChunk:
        return self._agent(machine).read_chunk(path, offset, min(limit, MAX_CHUNK), FILE_WAIT)

    def write_file(self, machine: UUID, path: str, offset: int, data: bytes) -> None:
        self._agent(machine).write_chunk(path, offset, data[:MAX_CHUNK], FILE_WAIT)

    def set_password(self, machine: UUID, user: str, password_hash: str) -> None:
        check_hash(password_hash)
        self._agent(machine).set_password(user, password_hash, PASSWORD_WAIT)

    def _agent(self, machine: UUID) -> GuestAgent:
        live = self._machines.running(machine)
        if not live.agent_open():
            raise Unavailable(
                "no guest agent answers in this machine",
                hint="it is still booting, or its image has no qemu-guest-agent",
            )
        return live.agent


class QemuStreams:
    """See `paddock.hypervisor.base.Streams`."""

    def __init__(self, machines: QemuMachines) -> None:
        self._machines = machines

    async def console(self, machine: UUID, scrollback: int = 0) -> ByteStream:
        live = self._machines.running(machine)
        for _ in range(HANG_UP_LOOKS):
            if not await anyio.to_thread.run_sync(live.serial_taken):
                past = files.read_tail(live.directory.serial_log, scrollback) if scrollback > 0 else b""
                return Preceded(past, await self._open(live, "serial.sock"))
            await anyio.sleep(HANG_UP_WAIT)
        raise Conflict("somebody else has this console open", hint="close it there, or read the console's log")

    async def vnc(self, machine: UUID) -> ByteStream:
        return await self._open(self._machines.running(machine), "vnc.sock")

    def console_log(self, machine: UUID, limit: int) -> str:
        path = self._machines.directory(machine).serial_log
        return files.read_tail(path, limit).decode(errors="replace")

    def send_keys(self, machine: UUID, chords: tuple[Chord, ...]) -> None:
        check(chords)
        live = self._machines.running(machine)
        for keys in chords:
            pressed = [{"type": "qcode", "data": key} for key in keys]
            live.execute("send-key", {"keys": pressed, "hold-time": KEY_HOLD})
            clock.sleep(KEY_PAUSE)

    async def _open(self, live: Live, name: str) -> ByteStream:
        """By the directory's descriptor: the path of a unix socket may have 107 bytes only."""
        fd = os.open(live.directory.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            stream = await anyio.connect_unix(f"/proc/self/fd/{fd}/{name}")
        except OSError as e:
            raise Unavailable(f"QEMU's {name} can't be reached: {e}") from e
        finally:
            os.close(fd)
        try:
            sock = stream.extra_attributes[SocketAttribute.raw_socket]()
            process.check_peer(sock, live.process, live.directory.root / name)
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise
        return stream
