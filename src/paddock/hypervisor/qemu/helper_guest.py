"""A throw-away guest that works on a server's disk, so that a tenant's disk is never mounted on the host.

It boots the kernel and initrd of the image `rescue` with our scripts (guest/) added, has the one disk and no network,
does one job of ours, says how it went over a virtio port, and ends. It never outlives us: the kernel kills it when the
thread that started it is gone. Whether the disk that it works on is worth anything afterwards is its caller's matter.
"""

import hashlib
import logging
import re
import shutil
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from paddock.base import clock, cpio
from paddock.base.errors import Refused, Unavailable
from paddock.hypervisor.qemu import files, identity, process
from paddock.hypervisor.qemu.cmdline import SANDBOX, TCG_CACHE_MIB, Binary
from paddock.hypervisor.qemu.copies import GivenUp
from paddock.hypervisor.qemu.devices import dotted
from paddock.hypervisor.qemu.layout import Layout, MachineDir
from paddock.hypervisor.qemu.process import Process
from paddock.hypervisor.qemu.room import Room
from paddock.machine.image import ImageManifest, Role
from paddock.machine.state import Accelerator

MEMORY_MIB = 384
JOB_SECONDS = 900.0
START_WAIT = 30.0  # seconds from exec until its port is there
END_WAIT = 30.0  # from its last word until QEMU has closed the disk
OVERHEAD_MIB = 64  # of QEMU itself
ROOM = Room(2)  # of a node: their memory is in no placement
_PREPARING = threading.Lock()
LINE, LINES = 4096, 2000  # bytes and number of what it may say
SOCKET = "helper.sock"
_CMDLINE = "console=ttyS0 quiet loglevel=3 panic=-1 rdinit=/helper/init"
_SCRIPTS = {"helper-init": "init"}  # by another name in the guest
_VALUE = re.compile(r"[!-~]{1,512}")

Say = Callable[[int, str], None]  # per cent, and what it is doing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What it shall do: a script of ours in guest/, and its arguments, which may repeat."""

    name: str
    arguments: tuple[tuple[str, str], ...] = ()

    def text(self) -> bytes:
        """As it is sent."""
        lines = [("job", self.name), *self.arguments]
        for word, value in lines:
            if not _VALUE.fullmatch(value):
                raise Refused(f"{word} can't be told to the helper guest: it is no single word")
        return "".join(f"{word} {value}\n" for word, value in lines).encode() + b"end \n"


@dataclass
class Outcome:
    """What it said: values by word, in order."""

    said: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        """Every value of a word."""
        return [value for key, value in self.said if key == word]


@dataclass(frozen=True)
class Boot:
    """What it boots, under what, by which program."""

    kernel: Path
    initrd: Path
    binary: Binary
    accelerator: Accelerator


@dataclass(frozen=True)
class Place:
    """Where it works: a directory of its own, made and removed for it; the disk, as the block node that QEMU takes,
    named from inside that directory; and a lock that it holds until its very end."""

    root: Path
    disk: dict[str, Any]
    lock: int


def prepare(layout: Layout, rescue: ImageManifest, binary: Binary, accelerator: Accelerator) -> Boot:
    """Kernel and initrd with this version's scripts, made once. Raises Refused for an image that is no such system."""
    image = layout.image(rescue.sha256)
    if rescue.file(Role.KERNEL) is None or rescue.file(Role.INITRD) is None:
        raise Refused(f"image {rescue.name} can't work on disks: it has no kernel or no initrd")
    scripts = _scripts()
    identity.make_directory(layout.helpers)
    initrd = layout.helpers / f"{rescue.sha256[:16]}-{scripts.digest}"
    with _PREPARING:
        if not initrd.exists():
            for old in layout.helpers.iterdir():
                old.unlink(missing_ok=True)
            files.write_whole(initrd, _aligned((image / Role.INITRD).read_bytes()) + scripts.archive, sync=False)
        identity.give(initrd, writable=False)
    return Boot(image / Role.KERNEL, initrd, binary, accelerator)


def work(boot: Boot, place: Place, job: Job, stop: threading.Event, say: Say, seconds: float = JOB_SECONDS) -> Outcome:
    """Do the job in at most `seconds`. Returns when QEMU has closed the disk. The thread that calls this must live as
    long as the guest, which is killed with it.

    Raises GivenUp, Refused with the guest's reason, Unavailable when it died, fell silent or took too long."""
    deadline = clock.monotonic() + seconds

    def wait(lacking: str) -> None:
        say(0, f"waiting {lacking}")
        _check(stop, deadline)

    try:
        with ROOM.taken(size_mib(boot), wait):
            remove(place.root)
            identity.make_machine_directory(place.root)
            return _Guest(boot, place, deadline, stop, say).do(job)
    finally:
        remove(place.root)


def size_mib(boot: Boot) -> int:
    """What one may take of the host's memory, all in all."""
    return MEMORY_MIB + OVERHEAD_MIB + (0 if boot.accelerator == Accelerator.KVM else TCG_CACHE_MIB)


def remove(root: Path) -> None:
    """What a guest of an earlier process left. It has died with that."""
    shutil.rmtree(root, ignore_errors=True)


class _Guest:
    """One of them."""

    def __init__(self, boot: Boot, place: Place, deadline: float, stop: threading.Event, say: Say) -> None:
        self._boot = boot
        self._place = place
        self._directory = MachineDir(place.root)
        self._deadline = deadline
        self._stop = stop
        self._say = say

    def do(self, job: Job) -> Outcome:
        """The job, and its end."""
        text = job.text()
        started = process.start(words(self._boot, self._place.disk), self._directory, self._place.lock)
        try:
            outcome = self._talk(started, text)
            if not started.gone(END_WAIT):
                raise Unavailable("the helper guest did its job, but does not end", hint="ask again")
            if (how := started.reap()) != process.ENDED_WELL:
                raise Unavailable(f"the helper guest did its job, but {how}: {self._last_words()}", hint="ask again")
            return outcome
        finally:
            started.end()

    def _talk(self, started: Process, text: bytes) -> Outcome:
        with self._connect(started) as sock:
            sock.sendall(text)
            sock.settimeout(0.2)
            outcome, buffer = Outcome(), b""
            while len(outcome.said) < LINES and len(buffer) < LINE:
                *lines, buffer = (buffer + self._receive(sock, started)).split(b"\n")
                for line in lines:
                    if self._heard(line.decode(errors="replace"), outcome):
                        return outcome
        raise Refused("the helper guest said more than it may", hint="is the disk's system a hostile one? see its log")

    def _connect(self, started: Process) -> socket.socket:
        sock = process.connect_soon(self._directory, started, START_WAIT, SOCKET)
        if sock is None:
            raise Unavailable(f"the helper guest does not start: {self._last_words()}", hint="see the node's log")
        return sock

    def _receive(self, sock: socket.socket, started: Process) -> bytes:
        while True:
            _check(self._stop, self._deadline)
            gone = started.gone()  # before we look: what it said last is still there
            try:
                data = sock.recv(LINE)
                gone = True
            except TimeoutError:
                data = b""
            except OSError:
                data, gone = b"", True
            if data:
                return data
            if gone:
                raise Unavailable(f"the helper guest died: {self._last_words()}", hint="ask again")

    def _heard(self, line: str, outcome: Outcome) -> bool:
        """Take one line; true at the last one. Raises Refused when it says why it can't."""
        word, _, value = line.partition(" ")
        match word:
            case "done":
                return True
            case "refused":
                raise Refused(value or "the helper guest does not say why it can't do it")
            case "progress":
                percent, _, doing = value.partition(" ")
                self._say(min(int(percent), 99) if percent.isdecimal() else 0, doing)
            case _:
                outcome.said.append((word, value))
        return False

    def _last_words(self) -> str:
        """Of QEMU, or of the guest's kernel."""
        said = process.last_words(self._directory)
        kernel = files.read_tail(self._directory.serial_log, 400).decode(errors="replace")
        return " ".join(f"{said} {kernel}".split())[-600:] or "it said nothing"


def words(boot: Boot, disk: dict[str, Any]) -> list[str]:
    """The command line: pure."""
    kvm = boot.accelerator == Accelerator.KVM
    return [
        # Where memory runs out all the same, the kernel takes this one first: it can be asked for again.
        "choom", "-n", "1000", "--",
        "setpriv", "--no-new-privs", "--pdeathsig", "KILL", "prlimit", "--core=0",
        boot.binary.program,
        "-name", "paddock-helper",
        "-no-user-config",
        "-nodefaults",
        "-no-reboot",
        *(["-sandbox", SANDBOX] if boot.binary.sandbox else []),
        "-machine", "q35,usb=off,vmport=off",
        "-accel", "kvm" if kvm else f"tcg,tb-size={TCG_CACHE_MIB}",
        "-cpu", "host" if kvm else "max",
        "-smp", "1",
        "-m", f"size={MEMORY_MIB}M",
        "-rtc", "base=utc",
        "-display", "none",
        "-chardev", "file,id=serial0,path=serial.log",
        "-serial", "chardev:serial0",
        "-device", "virtio-serial-pci,id=serial1",
        "-chardev", f"socket,id=helper0,path={SOCKET},server=on,wait=off",
        "-device", "virtserialport,bus=serial1.0,nr=1,chardev=helper0,name=paddock.helper.0",
        "-device", "virtio-scsi-pci,id=scsi0",
        "-blockdev", dotted({**disk, "node-name": "disk"}),
        "-device", "scsi-hd,bus=scsi0.0,scsi-id=0,drive=disk,werror=report,rerror=report",
        "-kernel", str(boot.kernel),
        "-initrd", str(boot.initrd),
        "-append", _CMDLINE,
    ]  # fmt: skip


def _check(stop: threading.Event, deadline: float) -> None:
    if stop.is_set():
        raise GivenUp
    if clock.monotonic() > deadline:
        raise Unavailable("the helper guest took too long", hint="is the node busy? ask again")


@dataclass(frozen=True)
class _Scripts:
    archive: bytes
    digest: str


def _scripts() -> _Scripts:
    found = sorted((f for f in (resources("paddock.hypervisor.qemu") / "guest").iterdir()), key=lambda f: f.name)
    entries = [cpio.directory("helper")]
    entries += [cpio.file(f"helper/{_SCRIPTS.get(f.name, f.name)}", f.read_bytes(), 0o755) for f in found]
    archive = cpio.archive(entries)
    return _Scripts(archive, hashlib.sha256(archive).hexdigest()[:16])


def _aligned(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
