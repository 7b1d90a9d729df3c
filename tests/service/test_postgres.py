"""The embedded PostgreSQL, for real: made, adopted, survived, moved to a newer version, backed up."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from paddock.base.errors import CommandFailed, Refused
from paddock.base.run import run, spawn
from paddock.base.statedir import StateDir
from paddock.service import pgprograms, pgupgrade, plan, procs, state
from paddock.service.pgprograms import Programs
from paddock.service.postgres import Cluster, choose, majors
from tests.service.conftest import as_root, furnish, prepared, servers_of, start

pytestmark = pytest.mark.slow

FIND = pgprograms.find  # the real one: tests replace it


@pytest.fixture
def cluster(furnished: StateDir) -> Cluster:
    made = prepared(furnished)
    start(made, furnished)
    return made


def query(cluster: Cluster, sql: str) -> object:
    with psycopg.connect(cluster.url) as connection:
        row = connection.execute(sql.encode()).fetchone()
        return row[0] if row else None


def execute(cluster: Cluster, sql: str) -> None:
    with psycopg.connect(cluster.url) as connection:
        connection.execute(sql.encode())


def programs_of(directory: StateDir, major: int) -> Programs:
    found = next((p for p in FIND(directory) if p.major == major), None)
    if found is None:
        pytest.skip(f"no PostgreSQL {major} here")
    return found


def only(monkeypatch: pytest.MonkeyPatch, directory: StateDir, *versions: int) -> None:
    """As if the host had these alone, the first preferred."""
    found = [programs_of(directory, v) for v in versions]
    monkeypatch.setattr(pgprograms, "find", lambda _directory: found)


def test_it_answers_on_its_socket_alone_and_is_private(cluster: Cluster, directory: StateDir) -> None:
    assert query(cluster, "SHOW listen_addresses") == ""
    assert query(cluster, "SHOW fsync") == "on"
    assert directory.database.stat().st_mode & 0o777 == 0o700
    owner = directory.database.stat().st_uid
    assert owner == (state.service_identity().uid if os.geteuid() == 0 else os.geteuid())  # type: ignore[union-attr]
    server = cluster.running()
    assert server is not None
    assert Path(f"/proc/{server.pid}").stat().st_uid == owner


def test_one_that_runs_is_adopted(cluster: Cluster, directory: StateDir) -> None:
    first = cluster.running()
    assert start(prepared(directory), directory) == first


def test_what_was_committed_survives_sigkill(cluster: Cluster, directory: StateDir) -> None:
    execute(cluster, "CREATE TABLE kept AS SELECT generate_series(1, 1000)")
    server = cluster.running()
    assert server is not None
    procs.send(server, signal.SIGKILL)
    assert procs.wait_gone(server, 5)
    assert cluster.running() is None
    start(cluster, directory)
    assert query(cluster, "SELECT count(*) FROM kept") == 1000


def test_socket_lock_of_a_zombie_is_no_hindrance(cluster: Cluster, directory: StateDir) -> None:
    """Some hosts reap orphans slowly, and PostgreSQL takes a zombie for alive."""
    server = cluster.running()
    assert server
    procs.send(server, signal.SIGKILL)
    assert procs.wait_gone(server, 5)
    zombie = spawn(["true"], output=directory.log / "zombie.log", identity=cluster.identity)
    try:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        for lock in (cluster.data / "postmaster.pid", cluster.sockets / f".s.PGSQL.{cluster.port}.lock"):
            lines = lock.read_text().split("\n")
            lock.write_text("\n".join([str(zombie.pid), *lines[1:]]))
        start(cluster, directory)
        assert query(cluster, "SELECT 1") == 1
    finally:
        zombie.wait()


def test_backends_of_a_killed_server_are_ended_before_the_next_starts(cluster: Cluster, directory: StateDir) -> None:
    """One that is busy does not notice the death; two servers on the same data would destroy it."""
    with psycopg.connect(cluster.url) as connection:
        backend = procs.mark(connection.info.backend_pid)
        server = cluster.running()
        assert backend
        assert server
        procs.send(backend, signal.SIGSTOP)
        procs.send(server, signal.SIGKILL)
        assert procs.wait_gone(server, 5)
        assert procs.alive(backend)
        start(cluster, directory)
        assert not procs.alive(backend)
    assert query(cluster, "SELECT 1") == 1


def test_a_pid_file_with_the_pid_of_another_process_does_not_stop_it(cluster: Cluster, directory: StateDir) -> None:
    cluster.stop()
    other = spawn(["sleep", "60"], output=directory.log / "other.log", identity=cluster.identity)
    try:
        pid_file = cluster.data / "postmaster.pid"
        pid_file.write_text(f"{other.pid}\n{cluster.data}\n0\n5432\n\n\n0 0\n")
        if cluster.identity:
            os.chown(pid_file, cluster.identity.uid, cluster.identity.gid)
        assert cluster.running() is None
        start(cluster, directory)
        assert query(cluster, "SELECT 1") == 1
    finally:
        other.kill()
        other.wait()


def test_stop_does_not_wait_for_clients(cluster: Cluster) -> None:
    with psycopg.connect(cluster.url) as connection:
        connection.execute("SELECT 1")
        cluster.stop()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


@pytest.mark.parametrize("name", ['with space, comma, "quotes" and \'', "l" * 90])
def test_any_path_will_do(place: Path, data: Path, name: str) -> None:
    directory = StateDir(place / name)
    state.make(directory)
    furnish(directory, data)
    cluster = prepared(directory)
    start(cluster, directory)
    assert query(cluster, "SELECT 1") == 1
    assert prepared(directory).url == cluster.url  # the next one finds it in the same place


@pytest.mark.slow
def test_an_initdb_that_was_broken_off_is_begun_again(directory: StateDir) -> None:
    made = prepared(directory)
    made.data.rename(made.data.with_name(f"{made.data.name}.part"))
    assert (prepared(directory).data / "PG_VERSION").exists()
    assert not made.data.with_name(f"{made.data.name}.part").exists()


@pytest.mark.slow
def test_data_moves_to_a_newer_version(directory: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, directory, 16)
    old = prepared(directory)
    assert old.programs.major == 16
    start(old, directory)
    execute(old, "CREATE TABLE kept (id int PRIMARY KEY, word text)")
    execute(old, "INSERT INTO kept SELECT n, 'word ' || n FROM generate_series(1, 5000) n")
    only(monkeypatch, directory, 18, 16)
    new = prepared(directory)  # the old one still runs: its supervisor was killed
    assert new.programs.major == 18
    start(new, directory)
    assert query(new, "SELECT count(*) || max(word) FROM kept") == "5000word 999"
    assert sorted(p.name for p in directory.database.iterdir() if p.is_dir()) == ["16.old", "18"]
    assert majors(directory) == [18]


@pytest.mark.slow
@pytest.mark.parametrize("at", ["dumping", "restoring"])
def test_an_upgrade_that_was_broken_off_is_repeated(
    directory: StateDir, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    only(monkeypatch, directory, 16)
    old = prepared(directory)
    start(old, directory)
    execute(old, "CREATE TABLE kept AS SELECT 7 AS n")
    only(monkeypatch, directory, 18, 16)
    child = os.fork()
    if child == 0:  # a process that dies in the middle, with its servers left running
        pgupgrade.prepare(directory, lambda text: os._exit(9) if at in text else None)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert majors(directory) == [16]
    new = prepared(directory)
    start(new, directory)
    assert query(new, "SELECT n FROM kept") == 7
    assert len([m for m in servers_of(directory) if m]) >= 1


@pytest.mark.slow
def test_a_restore_that_fails_leaves_the_old_data_in_use(
    directory: StateDir, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    only(monkeypatch, directory, 16)
    old = prepared(directory)
    start(old, directory)
    execute(old, "CREATE TABLE kept AS SELECT 7 AS n")
    real = programs_of(directory, 16)
    broken = place / "broken"
    broken.mkdir(mode=0o755)
    for program in programs_with_failing_restore(directory, broken, monkeypatch):
        assert program.exists()
    with pytest.raises(CommandFailed, match="pg_restore"):
        prepared(directory)
    assert majors(directory) == [16]
    monkeypatch.setattr(pgprograms, "find", lambda _directory: [real])
    start(prepared(directory), directory)
    assert query(old, "SELECT n FROM kept") == 7


def programs_with_failing_restore(directory: StateDir, broken: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """PostgreSQL 18's programs, but a pg_restore that always fails."""
    new, old = programs_of(directory, 18), programs_of(directory, 16)
    for program in new.bin.iterdir():
        (broken / program.name).symlink_to(program)
    (broken / "pg_restore").unlink()
    (broken / "pg_restore").symlink_to("/bin/false")
    monkeypatch.setattr(pgprograms, "find", lambda _directory: [Programs(broken, new.version), old])
    return list(broken.iterdir())


def test_data_without_its_programs_is_refused(furnished: StateDir) -> None:
    directory = furnished
    next(directory.database.glob("1?")).rename(directory.database / "12")
    with pytest.raises(Refused, match="of PostgreSQL 12, and there is only"):
        choose(directory, pgprograms.find(directory))
    with pytest.raises(Refused, match="no PostgreSQL was found"):
        choose(directory, [])


def test_data_newer_than_what_we_would_begin_with_stays(furnished: StateDir) -> None:
    found = [Programs(Path("/x"), "15.1"), Programs(Path("/y"), "18.4")]
    assert choose(furnished, found) == (found[1], None)


@pytest.mark.slow
@as_root
def test_programs_out_of_reach_are_copied_once(directory: StateDir, place: Path) -> None:
    source = programs_of(directory, 18)
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    tree = closed / "site-packages" / pgprograms.WHEEL
    shutil.copytree(source.bin.parent, tree / source.bin.parent.name, symlinks=True)
    shutil.copytree(
        source.bin.parent.parent.with_name(pgprograms.WHEEL_LIBRARIES), tree.with_name(pgprograms.WHEEL_LIBRARIES)
    )
    hidden = Programs(tree / source.bin.parent.name / "bin", source.version)
    identity = state.service_identity()
    copied = pgprograms.reachable(hidden, directory, identity)
    assert copied.bin.is_relative_to(directory.postgresql)
    assert pgprograms.reachable(hidden, directory, identity) == copied
    for name in ("postgres", "initdb", "pg_dump", "psql"):
        assert source.version in run([copied.path(name), "--version"], identity=identity).stdout
    assert copied in pgprograms.find(directory)
    assert not [p for p in directory.postgresql.rglob("*") if not p.is_symlink() and p.stat().st_mode & 0o022]
    assert not [p for p in directory.postgresql.iterdir() if p.name.startswith(".")]


def test_backup_is_a_dump_that_restores(cluster: Cluster, directory: StateDir, place: Path) -> None:
    execute(cluster, "CREATE TABLE kept AS SELECT 7 AS n")
    target = place / "backup.dump"
    pgupgrade.backup(directory, target)
    assert target.stat().st_mode & 0o777 == 0o600
    execute(cluster, "DROP TABLE kept")
    run(cluster.client("pg_restore", "--dbname", "paddock", target))
    assert query(cluster, "SELECT n FROM kept") == 7
    with pytest.raises(FileExistsError):
        pgupgrade.backup(directory, target)


def test_an_external_database_that_does_not_answer_is_named_without_its_password(place: Path) -> None:
    url = f"postgresql://someone:verysecret@/nothing?host={place}"
    with pytest.raises(Exception, match="does not answer") as caught:
        plan.check_database(url)
    assert "verysecret" not in str(caught.value)


def test_an_external_database_in_which_we_may_not_make_tables(cluster: Cluster) -> None:
    execute(cluster, "CREATE ROLE guest LOGIN")
    plan.check_database(cluster.url)
    with pytest.raises(Refused, match="guest may not make tables"):
        plan.check_database(cluster.url.replace("paddock@", "guest@"))


def test_restore_puts_a_dump_in_the_place_of_the_data(cluster: Cluster, furnished: StateDir, tmp_path: Path) -> None:
    execute(cluster, "CREATE TABLE kept (n int)")
    execute(cluster, "INSERT INTO kept VALUES (42)")
    dump = tmp_path / "monday.dump"
    pgupgrade.backup(furnished, dump)
    execute(cluster, "DROP TABLE kept")
    replaced = pgupgrade.restore(furnished, dump, lambda _: None)
    start(prepared(furnished), furnished)
    assert query(cluster, "SELECT n FROM kept") == 42
    assert (replaced / "PG_VERSION").exists()


@pytest.mark.parametrize("at", [".part", pytest.param(".replacing", marks=pytest.mark.slow)])
def test_a_restore_that_dies_in_the_swap_is_finished(
    cluster: Cluster, furnished: StateDir, tmp_path: Path, at: str
) -> None:
    execute(cluster, "CREATE TABLE kept AS SELECT 42 AS n")
    dump = tmp_path / "monday.dump"
    pgupgrade.backup(furnished, dump)
    execute(cluster, "UPDATE kept SET n = 7")
    replaced = cluster.data.with_name(f"{cluster.data.name}.replaced")
    replaced.mkdir()  # of an earlier restore
    assert _dies_renaming(at, lambda: pgupgrade.restore(furnished, dump, lambda _: None)) == 9
    start(prepared(furnished), furnished)
    assert query(cluster, "SELECT n FROM kept") == 42
    assert (replaced / "PG_VERSION").exists()
    assert sorted(p.name for p in furnished.database.iterdir() if p.is_dir()) == [cluster.data.name, replaced.name]


def _dies_renaming(suffix: str, work: Callable[[], object]) -> int:
    """The exit code of a process that does the work, and is gone just before it renames what has this suffix."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    rename = Path.rename
    try:
        Path.rename = lambda path, target: os._exit(9) if path.suffix == suffix else rename(path, target)  # type: ignore
        work()
    finally:
        os._exit(1)


def test_a_broken_dump_changes_nothing(cluster: Cluster, furnished: StateDir, tmp_path: Path) -> None:
    execute(cluster, "CREATE TABLE kept (n int)")
    dump = tmp_path / "broken.dump"
    dump.write_bytes(b"PGDMP" + bytes(100))
    with pytest.raises(CommandFailed, match="pg_restore"):
        pgupgrade.restore(furnished, dump, lambda _: None)
    start(prepared(furnished), furnished)
    assert query(cluster, "SELECT count(*) FROM kept") == 0
    assert not (furnished.database / "restore.dump").exists()
