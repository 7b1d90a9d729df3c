"""Inside the fake's guests: a guest agent that knows a few commands, a serial port that echoes, a blank screen."""

from uuid import UUID

from anyio.abc import ByteStream

from paddock.base import clock
from paddock.base.errors import Unavailable
from paddock.hypervisor.base import MAX_CHUNK
from paddock.hypervisor.fake_files import FakeFiles
from paddock.hypervisor.fake_host import Fake, FakeHost
from paddock.hypervisor.fake_streams import RFB_VERSION, BlankScreen, LocalStream
from paddock.machine.keys import Chord, check
from paddock.machine.spec import Machine
from paddock.machine.state import FileChunk, GuestResult, Phase

PASSWORD_SECONDS = 0.2  # until a guest that does not answer is given up
COMMANDS = 100  # of each guest that are remembered

# What ends well in a fake guest and says nothing: all that it takes to mount a volume is among it.
_SILENT = ("true", "sh", "bash", "mkdir", "mount", "umount", "mountpoint", "udevadm", "systemctl", "resize2fs",
           "xfs_growfs", "mkfs.ext4", "mkfs.xfs", "blkid", "sync", "chmod", "chown", "tee", "test")  # fmt: skip


class FakeGuest:
    """See `paddock.hypervisor.base.Guest`. What ran is in the machine's `commands`, passwords in its `saved`."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    def exec(self, machine: UUID, argv: tuple[str, ...], stdin: str, timeout: float) -> GuestResult:
        with self._host.faults.around("exec", machine):
            fake = self._answering(machine, timeout)
            fake.commands[:] = [*fake.commands[1 - COMMANDS :], argv]
            with self._host.changed:
                ours = files_of(fake).script(argv, stdin)
            return ours or _pretend(fake.saved.machine, argv, stdin)

    def read_file(self, machine: UUID, path: str, offset: int, limit: int) -> FileChunk:
        with self._host.faults.around("read_file", machine):
            fake = self._answering(machine, PASSWORD_SECONDS)
            with self._host.changed:
                return files_of(fake).read(path, offset, min(limit, MAX_CHUNK))

    def write_file(self, machine: UUID, path: str, offset: int, data: bytes) -> None:
        with self._host.faults.around("write_file", machine):
            fake = self._answering(machine, PASSWORD_SECONDS)
            with self._host.changed:
                files_of(fake).write(path, offset, data)

    def set_password(self, machine: UUID, user: str, password_hash: str) -> None:
        with self._host.faults.around("set_password", machine):
            fake = self._answering(machine, PASSWORD_SECONDS)
            with self._host.changed:
                self._host.keep(fake, passwords={**fake.saved.passwords, user: password_hash})

    def _answering(self, machine: UUID, timeout: float) -> Fake:
        """The machine, once its guest agent answers. Raises NotFound, Conflict, Unavailable."""
        host = self._host
        with host.changed:
            fake = host.running(machine)
            wait = host.boots_for(fake)
            silent = host.faults.guest_agent_hangs or fake.saved.phase is Phase.PAUSED or wait > timeout
            absent = host.faults.guest_agent_absent
        if absent:
            hint = "it is still booting, or its image has no qemu-guest-agent"
            raise Unavailable(f"no guest agent answers in machine {machine}", hint=hint)
        clock.sleep(timeout if silent else wait)
        if silent:
            raise Unavailable(f"the guest agent of machine {machine} did not answer within {timeout:g} s")
        return fake


class FakeStreams:
    """See `paddock.hypervisor.base.Streams`."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def console(self, machine: UUID, scrollback: int = 0) -> ByteStream:
        with self._host.faults.around("console", machine), self._host.changed:
            fake = self._host.running(machine)
            past = bytes(fake.log[-scrollback:]) if scrollback > 0 else b""
            return self._opened(fake, LocalStream(past + fake.greeting(), lambda data: self._typed(fake, data)))

    def _typed(self, fake: Fake, data: bytes) -> bytes:
        with self._host.changed:
            return fake.write(data) if fake.saved.phase is Phase.RUNNING else b""

    async def vnc(self, machine: UUID) -> ByteStream:
        with self._host.faults.around("vnc", machine), self._host.changed:
            return self._opened(self._host.running(machine), LocalStream(RFB_VERSION, BlankScreen().answer))

    def send_keys(self, machine: UUID, chords: tuple[Chord, ...]) -> None:
        check(chords)
        with self._host.faults.around("send_keys", machine), self._host.changed:
            self._host.running(machine).pressed += chords

    def _opened(self, fake: Fake, stream: LocalStream) -> LocalStream:
        fake.streams = [s for s in fake.streams if not s.closed] + [stream]
        return stream

    def console_log(self, machine: UUID, limit: int) -> str:
        with self._host.faults.around("console_log", machine), self._host.changed:
            log = self._host.find(machine).log
            return bytes(log[max(0, len(log) - limit) :]).decode(errors="replace")


def files_of(fake: Fake) -> FakeFiles:
    """The files of its guest, of which some are there from the beginning."""
    if fake.files is None:
        fake.files = FakeFiles(lambda argv, stdin: _pretend(fake.saved.machine, argv, stdin))
    return fake.files


def _pretend(machine: Machine | None, argv: tuple[str, ...], stdin: str) -> GuestResult:
    name = argv[0].rsplit("/", 1)[-1]
    hostname = machine.seed.hostname if machine else ""
    answers = {"echo": " ".join(argv[1:]) + "\n", "hostname": hostname + "\n", "cat": stdin, "false": "", "sleep": ""}
    answers |= dict.fromkeys(_SILENT, "")
    if name not in answers:
        return GuestResult(exit_code=127, stdout="", stderr=f"{argv[0]}: not found\n")
    return GuestResult(exit_code=int(name == "false"), stdout=answers[name], stderr="")
