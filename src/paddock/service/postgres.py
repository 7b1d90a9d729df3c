"""The embedded PostgreSQL: a private server in the state directory, on a unix socket only, never as root.

Here its directory is made and its command line; the supervisor runs it like any other process. It outlives a
supervisor that is killed, and the next one adopts it. Trust authentication is safe since its files and its socket lie
in a directory that only its user (and root) may enter.
"""

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from paddock.base import clock
from paddock.base.errors import Refused, Unavailable
from paddock.base.run import Identity, run, spawn
from paddock.base.statedir import StateDir
from paddock.service import pgprograms, procs
from paddock.service.pgprograms import Programs
from paddock.service.state import check_reachable, service_identity, socket_directory

NAME = "paddock"  # of the database and of its owner
PORT = 5432  # part of the socket's name, nothing more
LONGEST_SOCKET = f".s.PGSQL.{PORT}.lock"
INITDB = ("--username", NAME, "--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-instructions")
SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "16MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "128MB",
    "min_wal_size": "32MB",
    "autovacuum_max_workers": "1",
    "max_worker_processes": "0",
    "max_parallel_workers": "0",
    "max_logical_replication_workers": "0",
    "jit": "off",
    "huge_pages": "off",
    "unix_socket_permissions": "0700",
}
START_WITHIN = 120.0  # seconds: after a crash it replays its log first
STOP_WITHIN = 60.0
ORPHAN_WAIT = 2.0  # seconds


@dataclass(frozen=True)
class Cluster:
    """One data directory and the programs that it belongs to."""

    programs: Programs
    data: Path
    sockets: Path
    identity: Identity | None
    connections: int = 60
    port: int = PORT

    @property
    def url(self) -> str:
        return f"postgresql://{NAME}@/{NAME}?host={quote(str(self.sockets), safe='')}&port={self.port}"

    def argv(self) -> tuple[str, ...]:
        """The server's command line."""
        chosen = SETTINGS | {"unix_socket_directories": _quoted(self.sockets), "port": str(self.port)}
        chosen["max_connections"] = str(self.connections)
        if self.programs.major >= 18:
            chosen["io_method"] = "sync"
        options = [word for key, value in chosen.items() for word in ("-c", f"{key}={value}")]
        return (str(self.programs.path("postgres")), "-D", str(self.data), *options)

    def client(self, program: str, *args: str | Path) -> tuple[str, ...]:
        """The command line of a client program that speaks to this server; the environment can't mislead it."""
        where = ("--host", str(self.sockets), "--port", str(self.port), "--username", NAME)
        return (str(self.programs.path(program)), *where, *map(str, args))

    def answers(self) -> str:
        """Empty when a connection succeeds; else why not."""
        done = run(self.client("pg_isready", "--dbname", "postgres", "--timeout", "2"), check=False, timeout=5)
        return "" if done.code == 0 else (done.stdout.strip() or done.stderr.strip() or "no answer")

    def running(self) -> procs.Mark | None:
        """The server that runs on this data directory, whoever started it."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None
        found = procs.mark(pid)
        return found if found and procs.cwd(pid) == self.data.resolve() else None

    def forget_dead(self) -> None:
        """Remove the lock files of a server that is gone: another process with its pid, or its own zombie, would keep a
        new one from starting. Its backends must have ended before: without the files nobody would notice them."""
        if self.running() is not None:
            return
        self._end_orphans()
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        lock = self.sockets / f".s.PGSQL.{self.port}.lock"
        if not _names_a_postgres(lock):
            lock.unlink(missing_ok=True)

    def _end_orphans(self) -> None:
        """End what a killed server left behind. Backends see its death at once, unless they are busy."""
        place = self.data.resolve()
        for orphan in [procs.mark(p) for p in procs.pids() if procs.cwd(p) == place]:
            if orphan and _is_postgres(orphan.pid) and not procs.wait_gone(orphan, ORPHAN_WAIT):
                procs.send(orphan, signal.SIGKILL)
                if not procs.wait_gone(orphan, ORPHAN_WAIT):
                    raise Unavailable(f"process {orphan.pid} of a PostgreSQL that was killed does not end")

    def start(self, log: Path) -> procs.Mark:
        """Start it and wait until it answers; one that runs is taken as it is. Raises Unavailable with its last
        words."""
        found = self.running()
        child = None
        if found is None:
            self.forget_dead()
            child = spawn(self.argv(), output=log, cwd=Path("/"), identity=self.identity)
        end = clock.monotonic() + START_WITHIN
        while why := self.answers():
            if (child and child.poll() is not None) or clock.monotonic() > end:
                self.stop()
                raise Unavailable(f"PostgreSQL did not start: {why}; it said: {tail(log)}", hint=f"see {log}")
            clock.sleep(0.02)
        server = self.running()
        if server is None:
            raise Unavailable(f"a PostgreSQL answers in {self.sockets} that is not of {self.data}", hint="stop it")
        return server

    def stop(self) -> None:
        """Stop it in order, breaking off its clients' transactions; when it does not, at once (it recovers)."""
        server = self.running()
        for number, patience in ((signal.SIGINT, STOP_WITHIN), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0)):
            if server is None or not procs.send(server, number) or procs.wait_gone(server, patience):
                return
        raise Unavailable(f"PostgreSQL (process {server.pid if server else '?'}) can't be stopped")


def _is_postgres(pid: int) -> bool:
    """A backend writes what it does over its command line, beginning with `postgres:`."""
    words = procs.argv(pid)
    return bool(words) and Path(words[0].partition(":")[0]).name == "postgres"


def _names_a_postgres(lock: Path) -> bool:
    """Whether the first line of a socket's lock file is the pid of a PostgreSQL that lives."""
    try:
        pid = int(lock.read_text().partition("\n")[0])
    except (OSError, ValueError):
        return False
    return procs.mark(pid) is not None and _is_postgres(pid)


def identity(state: StateDir) -> Identity | None:
    """As whom PostgreSQL runs: a system user when we are root, who must be able to pass through the state
    directory."""
    chosen = service_identity()
    check_reachable(state.root, chosen)
    return chosen


def make_directory(state: StateDir, owner: Identity | None) -> None:
    """The directory of all that is PostgreSQL's, 0700 and its user's."""
    if not state.database.exists():
        state.database.mkdir(mode=0o700)
        if owner:
            os.chown(state.database, owner.uid, owner.gid)
    found = state.database.lstat()
    wanted = owner.uid if owner else os.geteuid()
    if found.st_uid != wanted or found.st_mode & 0o077:
        raise Refused(
            f"{state.database} is not of user {wanted} alone: owner {found.st_uid}, mode {found.st_mode & 0o777:o}",
            hint=f"chown -R {wanted} {state.database} && chmod 700 {state.database}, if it is Paddock's",
        )


def majors(state: StateDir) -> list[int]:
    """The major versions that have a complete data directory here, newest first."""
    found = [p for p in state.database.iterdir() if p.name.isdigit() and (p / "PG_VERSION").exists()]
    return sorted((int(p.name) for p in found), reverse=True)


def sockets(state: StateDir, owner: Identity | None) -> Path:
    """Where the server's socket is: in its directory, or if that path is too long, where it was put before."""
    note = state.database.parent / "db-sockets"  # beside it: PostgreSQL's user must not choose it
    if note.exists():
        noted = Path(note.read_text(encoding="utf-8").strip())
        if noted.is_dir() and noted.stat().st_uid == (owner.uid if owner else os.geteuid()):
            return noted
    chosen = socket_directory(state.database, LONGEST_SOCKET, owner)
    if chosen != state.database:
        note.write_text(f"{chosen}\n", encoding="utf-8")
    return chosen


def initialize(cluster: Cluster, final: Path) -> None:
    """Make the data directory `final` with an empty database in it; whole or not at all."""
    part = cluster.data
    discard(part)
    run([cluster.programs.path("initdb"), *INITDB, "--pgdata", part], identity=cluster.identity, timeout=300)
    run(
        [cluster.programs.path("postgres"), "--single", "-D", part, "postgres"],
        input=f"CREATE DATABASE {NAME};\n",
        identity=cluster.identity,
        timeout=120,
    )
    if part != final:
        part.rename(final)


def discard(data: Path) -> None:
    """Remove a data directory that was never finished."""
    if data.exists():
        shutil.rmtree(data)


def choose(state: StateDir, found: list[Programs]) -> tuple[Programs, Programs | None]:
    """The programs to run, and those of the data that is there if it must be moved over first.

    The data decides: without programs newer than it that we would begin with, it stays as it is. Raises Refused when
    nothing here can read it.
    """
    if not found:
        raise pgprograms.missing()
    there = majors(state)
    if not there:
        return found[0], None
    of_data = next((p for p in found if p.major == there[0]), None)
    if of_data is None:
        have = ", ".join(p.version for p in found)
        raise Refused(
            f"the data in {state.database} is of PostgreSQL {there[0]}, and there is only {have}",
            hint=f"apt-get install postgresql-{there[0]}: with both, Paddock moves the data to the newer one by itself",
        )
    if found[0].major > of_data.major:
        return found[0], of_data
    return of_data, None


def _quoted(path: Path) -> str:
    """A path as one element of a list in PostgreSQL's settings."""
    return '"' + str(path).replace('"', '""') + '"'


def tail(log: Path, size: int = 1500, after: int = 0) -> str:
    """The last lines of a log, at most `size` bytes of them, and nothing of its first `after` bytes."""
    try:
        with log.open("rb") as file:
            file.seek(max(after, file.seek(0, os.SEEK_END) - size))
            return file.read(size).decode(errors="replace").strip()
    except OSError:
        return ""
