"""The files of a fake guest, in memory: to be copied, and to be where commands write that are watched."""

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from posixpath import dirname, join

from paddock.base import clock
from paddock.base.errors import NotFound, Refused
from paddock.base.ids import new_correlation_id
from paddock.hypervisor import guest_scripts as scripts
from paddock.machine.spec import MIB
from paddock.machine.state import FileChunk, GuestResult

ROOM = 64 * MIB  # in all files of a guest
Run = Callable[[tuple[str, ...], str], GuestResult]


@dataclass
class FakeFile:
    """A file or, with `data` None, a directory. It is there from `since` on (of a clock that never jumps)."""

    data: bytes | None
    mode: int = 0o644
    since: float = 0.0


class FakeFiles:
    """One guest's files. `run` pretends to run a command."""

    def __init__(self, run: Run) -> None:
        self._run = run
        directories = ("/", "/etc", "/root", "/srv", "/tmp", "/var", "/var/tmp")  # noqa: S108  (of a guest)
        self.files = {path: FakeFile(None, 0o755) for path in directories}
        self.files["/etc/hostname"] = FakeFile(run(("hostname",), "").stdout.encode())

    def read(self, path: str, offset: int, limit: int) -> FileChunk:
        data = self._file(path).data or b""
        return FileChunk(data=data[offset : offset + limit], end=offset + limit >= len(data))

    def write(self, path: str, offset: int, data: bytes) -> None:
        file = self._file(path)
        before = file.data or b""
        if sum(len(f.data or b"") for f in self.files.values()) + len(data) > ROOM:
            raise Refused("the guest agent refuses guest-file-write: No space left on device")
        file.data = before[:offset].ljust(offset, b"\0") + data + before[offset + len(data) :]

    def script(self, argv: tuple[str, ...], stdin: str) -> GuestResult | None:
        """What one of our scripts does; None for any other command."""
        known: dict[str, Callable[..., GuestResult]] = {
            scripts.STAT.name: self._stat, scripts.PACK.name: self._pack, scripts.PREPARE.name: self._prepare,
            scripts.PLACE.name: self._place, scripts.UNPACK.name: self._unpack, scripts.CLEAR.name: self._clear,
            scripts.STOP.name: self._clear,
        }  # fmt: skip
        name, arguments = (argv[3], argv[4:]) if len(argv) > 3 and argv[1] == "-c" else ("", ())
        if name == scripts.START.name:
            return self._start(arguments, stdin)
        return known[name](*arguments) if name in known else None

    def _there(self, path: str) -> FakeFile | None:
        file = self.files.get(path.rstrip("/") or "/")
        return file if file and file.since <= clock.monotonic() else None

    def _file(self, path: str) -> FakeFile:
        file = self._there(path)
        if file is None:
            raise NotFound(f"there is no file {path} in the guest")
        if file.data is None:
            raise Refused(f"the guest agent refuses guest-file-open: {path}: Is a directory")
        return file

    def _stat(self, path: str) -> GuestResult:
        file = self._there(path)
        if file is None:
            return _said("none\n")
        return _said(f"{'directory' if file.data is None else 'file'} {file.mode:o} {len(file.data or b'')}\n")

    def _pack(self, path: str) -> GuestResult:
        packed, base = io.BytesIO(), path.rstrip("/")
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, file in sorted(self.files.items()):
                if name == base or name.startswith(base + "/"):
                    tar.addfile(*_member("." + name.removeprefix(base), file))
        ours = self._ours("/var/tmp")  # noqa: S108
        self.files[ours] = FakeFile(packed.getvalue(), 0o600)
        return _said(f"{ours}\n{len(packed.getvalue())}\n")

    def _prepare(self, path: str, name: str, kind: str, how: str) -> GuestResult:
        there = self._there(path)
        target = join(path, name) if there and there.data is None else path.rstrip("/")
        already = self._there(target)
        if already and (already.data is None if kind == "file" else how == "keep"):
            return _failed(scripts.TAKEN, f"{target} is there already")
        if (parent := self._there(dirname(target))) is None or parent.data is not None:
            return _failed(scripts.NOTHING, f"there is no directory {dirname(target)}")
        ours = self._ours(dirname(target))
        self.files[ours] = FakeFile(b"", 0o600)
        return _said(f"{ours}\n{target}\n")

    def _place(self, ours: str, target: str, mode: str, size: str) -> GuestResult:
        data = self.files[ours].data or b""
        if len(data) != int(size):
            return _failed(scripts.CUT, f"{len(data)} of {size} bytes arrived")
        self.files[target] = FakeFile(data, int(mode, 8))
        del self.files[ours]
        return _said("")

    def _unpack(self, ours: str, target: str, _how: str, size: str) -> GuestResult:
        data = self.files[ours].data or b""
        if len(data) != int(size):
            return _failed(scripts.CUT, f"{len(data)} of {size} bytes arrived")
        self._clear(target)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                content = tar.extractfile(member)
                path = join(target, member.name).rstrip("/").removesuffix("/.")
                self.files[path] = FakeFile(content.read() if content else None, member.mode)
        return self._clear(ours)

    def _clear(self, ours: str, *_more: str) -> GuestResult:
        for path in [p for p in self.files if p == ours or p.startswith(ours + "/")]:
            del self.files[path]
        return _said("")

    def _start(self, argv: tuple[str, ...], stdin: str) -> GuestResult:
        """All that a command says is there at once; `sleep` ends when it should."""
        ours, result = self._ours("/var/tmp"), self._run(argv, stdin)  # noqa: S108
        seconds = float(argv[1]) if argv[0] == "sleep" else 0.0
        self.files[ours] = FakeFile(None, 0o700)
        for name, text in (("out", result.stdout), ("err", result.stderr)):
            self.files[f"{ours}/{name}"] = FakeFile(text.encode())
        self.files[f"{ours}/code"] = FakeFile(f"{result.exit_code}\n".encode(), since=clock.monotonic() + seconds)
        return _said(f"{ours}\n4711\n")

    def _ours(self, directory: str) -> str:
        return join(directory, f".paddock-{new_correlation_id()}")


def _member(name: str, file: FakeFile) -> tuple[tarfile.TarInfo, io.BytesIO | None]:
    info = tarfile.TarInfo(name)
    info.mode, info.size = file.mode, len(file.data or b"")
    info.type = tarfile.DIRTYPE if file.data is None else tarfile.REGTYPE
    return info, io.BytesIO(file.data or b"")


def _said(text: str) -> GuestResult:
    return GuestResult(exit_code=0, stdout=text, stderr="")


def _failed(code: int, text: str) -> GuestResult:
    return GuestResult(exit_code=code, stdout="", stderr=text + "\n")
