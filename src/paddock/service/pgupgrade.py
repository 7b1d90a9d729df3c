"""Bringing the embedded PostgreSQL's data into being: made anew, moved over to a newer major version, backed up.

An upgrade dumps the old data and restores it into a new directory, which gets its name only when it is complete; the
old one is untouched until then and kept afterwards under another name. So each step can be broken off and repeated.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from paddock.base.errors import DiskFull, NotFound
from paddock.base.run import Identity, run
from paddock.base.statedir import StateDir
from paddock.service import pgprograms
from paddock.service.pgprograms import Programs
from paddock.service.postgres import (
    NAME,
    PORT,
    Cluster,
    choose,
    discard,
    identity,
    initialize,
    majors,
    make_directory,
    sockets,
)

HOURS = 4 * 3600.0  # a dump or a restore may take so long
UPGRADE_PORT = PORT + 1  # so that no client meets a server in the midst of an upgrade


def prepare(state: StateDir, doing: Callable[[str], None], connections: int = 60) -> Cluster:
    """The cluster to run, its data there and of the version of its programs. Can be repeated after any failure.

    Raises Refused when there are no programs, none that can read the data, or no user to run them as.
    """
    owner = identity(state)
    make_directory(state, owner)
    _finish_swaps(state)
    new, old = choose(state, pgprograms.find(state))
    doing(f"PostgreSQL {new.version}")
    cluster = _cluster(state, new, owner)
    if old is not None:
        _upgrade(state, _cluster(state, old, owner), cluster, doing)
    elif not (cluster.data / "PG_VERSION").exists():
        doing(f"PostgreSQL {new.version}: making its data directory")
        _finish_part(cluster)
    _set_aside_older(state, new.major)
    cluster.forget_dead()
    return dataclasses.replace(cluster, connections=connections)


def existing(state: StateDir) -> Cluster | None:
    """The cluster whose data is there, if any; nothing is made or changed."""
    if not state.database.is_dir() or not (there := majors(state)):
        return None
    owner = identity(state)
    programs = next((p for p in pgprograms.find(state) if p.major == there[0]), None)
    return _cluster(state, programs, owner) if programs else None


def backup(state: StateDir, target: Path) -> None:
    """Write a dump of the database to a file that is not there yet (0600; `pg_restore` reads it). The server must run.

    Raises CommandFailed with pg_dump's words.
    """
    cluster = existing(state)
    if cluster is None:
        raise pgprograms.missing()
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.close(fd)
    try:
        run(cluster.client("pg_dump", "--format", "custom", "--file", target, NAME), timeout=HOURS)
    except BaseException:
        target.unlink()
        raise


def restore(state: StateDir, dump: Path, doing: Callable[[str], None]) -> Path:
    """Put a dump that `backup` wrote in the place of the database, while nothing runs. Returns where the replaced data
    was put. The new data gets its name only when it is complete.

    Raises NotFound without the file, CommandFailed with pg_restore's words: then all is as before.
    """
    if not dump.is_file():
        raise NotFound(f"there is no file {dump}")
    cluster = prepare(state, doing)
    cluster.stop()
    part, copy = _part(cluster), state.database / "restore.dump"
    part.stop()
    shutil.copyfile(dump, copy)
    try:
        if cluster.identity:
            os.chown(copy, cluster.identity.uid, cluster.identity.gid)
        doing("restoring the database")
        _restore(part, copy, state.log / "postgres-restore.log")
    finally:
        copy.unlink()
    return _swap(cluster.data, part.data)


def _swap(data: Path, part: Path) -> Path:
    """Put complete new data in the place of the old: the path of the old. Broken off anywhere, `_finish_swaps` ends it.

    A name of its own says that a swap is under way: `.replaced` stays for as long as a person keeps it.
    """
    data.rename(_replacing(data))
    part.rename(data)
    return _keep_replaced(data)


def _finish_swaps(state: StateDir) -> None:
    """End the swaps that were broken off. Without this, an empty database would take the place of the data."""
    for old in state.database.glob("*.replacing"):
        data = old.with_suffix("")
        part = data.with_name(f"{data.name}.part")
        if data.exists():
            _keep_replaced(data)
        elif part.exists():  # it was complete before the swap began, and nothing has touched it since
            part.rename(data)
            _keep_replaced(data)
        else:
            old.rename(data)


def _keep_replaced(data: Path) -> Path:
    """Only now, with the new data in its place, does what an earlier restore replaced go."""
    replaced = data.with_name(f"{data.name}.replaced")
    discard(replaced)
    _replacing(data).rename(replaced)
    return replaced


def _replacing(data: Path) -> Path:
    return data.with_name(f"{data.name}.replacing")


def _cluster(state: StateDir, programs: Programs, owner: Identity | None) -> Cluster:
    usable = pgprograms.reachable(programs, state, owner)
    return Cluster(usable, state.database / str(programs.major), sockets(state, owner), owner)


def _part(cluster: Cluster) -> Cluster:
    """The same, while its data directory is not complete."""
    return dataclasses.replace(cluster, data=cluster.data.with_name(f"{cluster.data.name}.part"), port=UPGRADE_PORT)


def _finish_part(cluster: Cluster) -> None:
    part = _part(cluster)
    part.stop()
    initialize(part, cluster.data)


def _upgrade(state: StateDir, old: Cluster, new: Cluster, doing: Callable[[str], None]) -> None:
    old.stop()  # one that outlived a killed supervisor: it listens where clients look
    old = dataclasses.replace(old, port=UPGRADE_PORT)
    part = _part(new)
    part.stop()
    log = state.log / "postgres-upgrade.log"
    dump = state.database / "upgrade.dump"
    _check_room(state, old.data)
    doing(f"PostgreSQL {old.programs.version} to {new.programs.version}: dumping the data")
    old.start(log)
    try:
        dump.unlink(missing_ok=True)
        run(
            # the newer pg_dump: it knows what the newer server wants
            (str(new.programs.path("pg_dump")), *old.client("pg_dump")[1:], "--format", "custom",
             "--no-owner", "--no-privileges", "--file", str(dump), NAME),
            identity=new.identity, timeout=HOURS,
        )  # fmt: skip
    finally:
        old.stop()
    doing(f"PostgreSQL {old.programs.version} to {new.programs.version}: restoring the data")
    _restore(part, dump, log)
    part.data.rename(new.data)
    dump.unlink()


def _restore(part: Cluster, dump: Path, log: Path) -> None:
    """Make the new data directory, still under its temporary name, from the dump."""
    initialize(part, part.data)
    part.start(log)
    try:
        run(
            part.client("pg_restore", "--exit-on-error", "--single-transaction", "--no-owner", "--dbname", NAME, dump),
            identity=part.identity,
            timeout=HOURS,
        )
        run(part.client("psql", "--no-psqlrc", "--quiet", "--command", "ANALYZE", NAME), timeout=HOURS)
    finally:
        part.stop()


def _set_aside_older(state: StateDir, major: int) -> None:
    """Rename the data of older versions, which an upgrade left: a person may remove it once content."""
    for older in majors(state):
        if older < major:
            discard(state.database / f"{older}.old")
            (state.database / str(older)).rename(state.database / f"{older}.old")


def _check_room(state: StateDir, data: Path) -> None:
    """A dump and a second copy must fit beside the data. Raises DiskFull."""
    need = 2 * sum(p.lstat().st_size for p in data.rglob("*"))
    free = shutil.disk_usage(state.database).free
    if free < need:
        raise DiskFull(
            f"the upgrade of the database needs {need >> 20} MiB in {state.database}, of which {free >> 20} are free",
            hint="make room; nothing has been changed",
        )
