"""A running QEMU as we hold it: its process, its QMP connection, its guest agent, and what it said last."""

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from paddock.base.errors import Refused, Unavailable
from paddock.hypervisor.qemu import cmdline, files
from paddock.hypervisor.qemu.guest_agent import GuestAgent
from paddock.hypervisor.qemu.layout import MachineDir
from paddock.hypervisor.qemu.process import Process, connect
from paddock.hypervisor.qemu.qmp import Qmp, QmpThread
from paddock.hypervisor.qemu.readiness import Signs
from paddock.machine.state import Phase

QUIT_WAIT = 3.0  # seconds that QEMU has to end after it was told so (which takes 2 s at most), or killed
LOG_SEEN = 64 * 1024  # bytes of QEMU's log that are looked at
QMP_WAIT = 3.0  # seconds for a hung QEMU to answer before we say so
AGENT_WAIT = 3.0  # seconds for QEMU to take a connection to the guest agent
GUEST_SHUTDOWN = "the guest shut itself down"
RESCUE_LEFT = "it was restarted out of the rescue system"
_RESETS = {"guest-reset", "host-qmp-system-reset"}  # why a QEMU with -no-reboot is asked to end
SILENT = "QEMU does not answer on its monitor: it is stopped, or its storage hangs"
RUNNING = {"running", "shutdown", "suspended", "postmigrate", "finish-migrate"}
_TROUBLE = {
    "io-error": "QEMU stopped it after an I/O error: is the node's disk full? `paddock start` goes on with it",
    "internal-error": "QEMU stopped it after an internal error: reset it",
    "guest-panicked": "its kernel panicked: reset it",
}

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Live:
    """One running machine. `changed` is called, from the QMP thread, when the guest's state changed."""

    directory: MachineDir
    process: Process
    thread: QmpThread
    changed: Callable[["Live"], None]
    asked: Callable[["Live", str, bool], None]
    serial_from: int = 0
    log_from: int = 0
    status: str = ""
    ending: str = ""  # why it will end
    qmp: Qmp | None = None
    signs: Signs = field(default_factory=Signs)
    agent: GuestAgent = field(init=False)
    listener: Callable[[str, dict[str, Any]], None] | None = None  # hears all events, on the QMP thread
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.agent = GuestAgent(lambda timeout: connect(self.directory, self.process, "agent.sock", timeout))

    @property
    def phase(self) -> Phase:
        return Phase.RUNNING if self.status in RUNNING or not self.status else Phase.PAUSED

    @property
    def trouble(self) -> str:
        """Why it does not run although nobody paused it."""
        return _TROUBLE.get(self.status, "") if self.connected else SILENT

    @property
    def connected(self) -> bool:
        return self.qmp is not None and self.qmp.connected

    def control(self) -> Qmp:
        """The QMP connection, made again when it was lost. Raises Unavailable, Refused."""
        with self._lock:
            if not self.connected:
                try:
                    sock = connect(self.directory, self.process, "qmp.sock", QMP_WAIT)
                except OSError as e:
                    raise Unavailable(f"QEMU's monitor can't be reached: {e}") from e
                self.attach(Qmp.connect(self.thread, sock, self.on_event, QMP_WAIT))
            assert self.qmp
            return self.qmp

    def attach(self, qmp: Qmp) -> None:
        """Use this connection from now on, and hold one to the guest agent too."""
        self.qmp = qmp
        with contextlib.suppress(Unavailable, Refused):
            self.agent.hold(AGENT_WAIT)
        self.status = qmp.status
        if qmp.status == "shutdown":
            self.thread.post(self._quit(rebooting=self._was_reset()))

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Raises as `Qmp.execute`."""
        return self.control().execute(command, arguments)

    def give(self, name: str, fd: int) -> None:
        """Hand over a descriptor. Raises as `Qmp.execute`."""
        self.control().give(name, fd)

    def give_set(self, number: int, fd: int) -> None:
        """The same, into the set of that number. Raises as `Qmp.execute`."""
        self.control().give_set(number, fd)

    def refresh(self) -> str:
        """Ask for the run state now. Raises Unavailable."""
        self.status = str(self.execute("query-status")["status"])
        return self.status

    def block_nodes(self) -> set[str]:
        """The names of what QEMU has open as disks, and of the layers below them."""
        return {node["node-name"] for node in self.execute("query-named-block-nodes", {"flat": True})}

    def agent_open(self) -> bool:
        """Whether a guest agent has opened its channel: QEMU knows without asking the guest."""
        return any(c["label"] == "agent0" and c["frontend-open"] for c in self._chardevs())

    def serial_taken(self) -> bool:
        """Whether somebody is connected to the serial console, which serves one."""
        return any(c["label"] == "serial0" and not c["filename"].startswith("disconnected:") for c in self._chardevs())

    def serial(self, limit: int) -> str:
        """The last bytes of what this boot wrote."""
        return files.read_tail(self.directory.serial_log, limit, self.serial_from).decode(errors="replace")

    def _chardevs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.execute("query-chardev")
        return found

    def end(self) -> None:
        """Make it end, by its monitor or by force. Returns when the process is gone."""
        if not self.process.gone():
            with contextlib.suppress(Unavailable, Refused):
                self.control().quit()
        if not self.process.gone(QUIT_WAIT):
            log.warning("QEMU %d did not end within %g s: it is killed", self.process.pid, QUIT_WAIT)
            self.process.kill()
            if not self.process.gone(QUIT_WAIT):
                raise Unavailable(
                    f"QEMU {self.process.pid} does not end, killed or not", hint="its storage hangs: see `dmesg`"
                )

    def let_go(self) -> None:
        """Hang up; it goes on."""
        self.agent.let_go()
        if self.qmp:
            self.qmp.close()

    def on_event(self, name: str, data: dict[str, Any]) -> None:
        """What QEMU tells by itself, on the QMP thread."""
        if listener := self.listener:
            listener(name, data)
        if name == "SHUTDOWN" and data.get("reason") in _RESETS:
            self.thread.post(self._quit(rebooting=True))
        elif name == "SHUTDOWN" and data.get("guest"):
            self.thread.post(self._quit())
        elif name in ("STOP", "RESUME", "SUSPEND", "WAKEUP"):
            self.thread.post(self._look_again())
        elif name == "RESET":
            self.serial_from = files.size_of(self.directory.serial_log)
            self.signs = Signs()

    def _was_reset(self) -> bool:
        """Whether it is shut down because it was reset, while nobody of us listened. Only in the rescue system is a
        reset an end; that QEMU notes in its log when its guest switches itself off."""
        words = self.process.words()
        if cmdline.RESET_ENDS not in words:
            return False
        said = files.read_tail(self.directory.qemu_log, LOG_SEEN, self.log_from)
        return cmdline.TRACE_SHUTDOWN.encode() not in said

    async def _quit(self, rebooting: bool = False) -> None:
        """The guest switched itself off; QEMU waits for us to notice (-no-shutdown), and may go now."""
        self.asked(self, RESCUE_LEFT if rebooting else GUEST_SHUTDOWN, rebooting)
        if self.qmp:
            with contextlib.suppress(Unavailable, Refused):
                await self.qmp.request("quit")

    async def _look_again(self) -> None:
        if self.qmp:
            with contextlib.suppress(Unavailable, Refused):
                self.status = str((await self.qmp.request("query-status"))["status"])
                self.changed(self)

    def cut_logs(self, maximum: int, keep: int) -> None:
        """Keep the logs of a guest that talks a lot from filling the disk."""
        gone = files.cut(self.directory.serial_log, maximum, keep)
        self.serial_from = max(0, self.serial_from - gone)
        files.cut(self.directory.qemu_log, maximum, keep)
