"""Makes, checks and locks a state directory.

A plain user's is 0700. Root's is 0711, so that service users reach what is theirs in it; nobody can list it, and each
directory inside has its own owner and permissions. No directory's permissions are ever widened.
"""

import contextlib
import fcntl
import json
import os
import pwd
import secrets
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

import paddock
from paddock.base import clock
from paddock.base.errors import Conflict, Refused
from paddock.base.files import write_private
from paddock.base.run import Identity, run
from paddock.base.statedir import StateDir
from paddock.service import procs

VERSION = 1  # of the layout
SOCKET_PATH_LIMIT = 107  # bytes: sockaddr_un.sun_path less its NUL
LONGEST_SOCKET = "agent-" + "n" * 32 + ".sock"
SERVICE_USER = "paddock"
GUEST_USER = "paddock-vm"
PRIVATE = ("log", "uploads")
PASSED = ("images", "nodes")  # as root, QEMU's user passes through these to what is its own


@dataclass
class Lock:
    """Held as long as the file is open."""

    fd: int

    def release(self) -> None:
        os.close(self.fd)


def make(state: StateDir) -> None:
    """Make the state directory, or check that it is ours; whatever is missing in it is made.

    Raises Refused or Conflict, saying why and what to do; then nothing has been changed in it.
    """
    _make_root(state.root)
    if not state.marker.exists():
        _claim(state)
    _check_marker(state)
    _narrow(state.root)
    for name in PRIVATE:
        _directory(state.root / name, 0o700)
    for name in PASSED:
        _directory(state.root / name, 0o711 if os.geteuid() == 0 else 0o700)
    _make_run(state)
    _make_secret(state.secret_key)


def check(state: StateDir) -> None:
    """Raises Refused when there is no state directory, or none of ours, or one of a newer version."""
    if not state.root.is_dir():
        raise Refused(f"there is no state directory {state.root}", hint="`paddock up` makes one")
    _check_owner(state.root)
    _check_marker(state)


def lock(state: StateDir) -> Lock:
    """Be the one supervisor of this directory. Raises Conflict naming the process that is."""
    fd = os.open(state.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        owner = holder(state)
        who = f"process {owner.pid}" if owner else "another process"
        raise Conflict(
            f"{who} runs Paddock in {state.root} already",
            hint="`paddock status` shows it, `paddock down` stops it; another cloud needs another --state-dir",
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return Lock(fd)


def holder(state: StateDir) -> procs.Mark | None:
    """The supervisor of this directory, verified: the process that the lock names holds the file open."""
    if not _locked(state.lock):
        return None
    try:
        found = procs.mark(int(state.lock.read_text() or 0))
    except (OSError, ValueError):
        return None
    return found if found and procs.has_open(found.pid, state.lock) else None


def service_identity(name: str = SERVICE_USER) -> Identity | None:
    """The system user that a service runs as when we are root; None when we are not: then it runs as we do."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise Refused(
            f"there is no system user {name}, as which this runs when Paddock is root",
            hint=f"adduser --system --group --no-create-home --home /nonexistent {name}",
        ) from None
    return Identity(entry.pw_uid, entry.pw_gid)


def check_reachable(directory: Path, identity: Identity | None) -> None:
    """Raises Refused when the service user can't pass through `directory` or one above it; names that one."""
    if identity is None or passable(directory, identity):
        return
    above = [*reversed(directory.parents), directory]
    closed = next((d for d in above if not passable(d, identity)), directory)
    raise Refused(
        f"the service user {pwd.getpwuid(identity.uid).pw_name} can't pass through {closed}",
        hint=f"take a --state-dir elsewhere (root's default is /var/lib/paddock), or allow it: chmod o+x {closed}",
    )


def passable(path: Path, identity: Identity | None) -> bool:
    """Whether that user may enter the directory (or run the file)."""
    return run(["test", "-x", path], identity=identity, check=False).code == 0


def socket_directory(wanted: Path, longest: str, identity: Identity | None) -> Path:
    """`wanted`, if a socket `longest` in it has a path that fits; else a fresh private directory with a short path.

    A path with a comma does not fit either: PostgreSQL's clients take it for a list.
    """
    if len(os.fsencode(wanted / longest)) <= SOCKET_PATH_LIMIT and "," not in str(wanted):
        return wanted
    runtime = os.environ.get("XDG_RUNTIME_DIR", "") if os.geteuid() else "/run"
    base = runtime if runtime and os.access(runtime, os.W_OK | os.X_OK) else "/tmp"  # noqa: S108 (mkdtemp: 0700, random)
    made = Path(tempfile.mkdtemp(prefix="paddock-", dir=base))
    if identity:
        os.chown(made, identity.uid, identity.gid)
    return made


def _make_root(root: Path) -> None:
    try:
        root.parent.mkdir(parents=True, exist_ok=True, mode=0o755 if os.geteuid() == 0 else 0o700)
        with contextlib.suppress(FileExistsError):
            root.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700)
            root.chmod(0o711 if os.geteuid() == 0 else 0o700)  # the umask may have taken some away: it is new and ours
        if not root.is_dir():
            raise Refused(f"{root} is not a directory", hint="choose another --state-dir")
        _check_owner(root)
    except OSError as e:
        raise Refused(
            f"the state directory {root} can't be made or read: {e.strerror}", hint="choose another --state-dir"
        ) from e


def _check_owner(root: Path) -> None:
    found = root.stat()
    if found.st_uid != os.geteuid():
        raise Refused(
            f"{root} belongs to {_user(found.st_uid)}, not to {_user(os.geteuid())}",
            hint="run Paddock as that user, or choose another --state-dir",
        )


def _claim(state: StateDir) -> None:
    """Put our marker into an empty directory. What an operator writes for us may be there before us."""
    strangers = _strangers(state)
    if state.marker.exists():
        return  # another `paddock up` was here a moment ago
    if strangers:
        raise Refused(
            f"{state.root} is not empty, and no state directory of Paddock: it has {', '.join(sorted(strangers)[:3])}",
            hint="choose another --state-dir",
        )
    made = {"version": VERSION, "created": clock.now().isoformat(timespec="seconds"), "paddock": paddock.__version__}
    write_private(state.marker, json.dumps(made) + "\n")


def is_begun(state: StateDir) -> bool:
    """Whether there is more in the directory than what an operator writes for us before the first `paddock up`."""
    return state.marker.exists() or bool(_strangers(state))


def _strangers(state: StateDir) -> list[str]:
    expected = (state.config, state.catalogue, state.keys)
    others = (p.name for p in state.root.iterdir() if p not in expected)
    return [name for name in others if not name.startswith(f".{state.marker.name}")]


def _check_marker(state: StateDir) -> None:
    try:
        found = json.loads(state.marker.read_text(encoding="utf-8"))
        version = int(found["version"])
    except FileNotFoundError:
        raise Refused(
            f"{state.root} is not a state directory of Paddock",
            hint="choose another --state-dir, or begin by `paddock up`",
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise Refused(
            f"{state.marker} can't be understood: {e}", hint="it marks the directory as ours; restore it from a backup"
        ) from e
    if version > VERSION:
        raise Refused(
            f"{state.root} was made by a newer Paddock ({found.get('paddock', '?')}, layout {version};"
            f" this is {paddock.__version__}, layout {VERSION})",
            hint="upgrade Paddock, or choose another --state-dir",
        )


def _narrow(root: Path) -> None:
    mode = stat.S_IMODE(root.stat().st_mode)
    wanted = mode & (0o711 if os.geteuid() == 0 else 0o700)
    if wanted != mode:
        root.chmod(wanted)


def _directory(path: Path, mode: int) -> None:
    """A directory of ours; one that is there keeps its permissions."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)
        path.chmod(mode)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise Refused(f"{path} is not a directory of {_user(os.geteuid())}", hint="move it away")


def _make_run(state: StateDir) -> None:
    """`run`: a directory; or, where the paths of its sockets would be too long, a link to a short one."""
    if state.run.is_symlink():
        if _trusted(state.run.readlink()):
            return
        state.run.unlink()  # it lay in the runtime directory, which a restart of the host empties
    if not state.run.is_dir():
        chosen = socket_directory(state.run, LONGEST_SOCKET, None)
        if chosen != state.run:
            state.run.symlink_to(chosen)
            return
    _directory(state.run, 0o700)


def _trusted(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _make_secret(path: Path) -> None:
    if not path.exists():
        write_private(path, secrets.token_urlsafe(48) + "\n")
    if path.stat().st_mode & 0o077:
        raise Refused(f"{path} can be read by others, so it is no secret any more", hint=f"chmod 600 {path}")


def _locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
