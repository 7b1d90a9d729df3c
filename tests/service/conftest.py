"""State directories for the tests: where PostgreSQL's user gets to, and nothing left running in them afterwards."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.base.run import run
from paddock.base.statedir import StateDir
from paddock.service import pgupgrade, procs, state
from paddock.service.postgres import Cluster
from paddock.service.supervisor import recorded


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody can pass through: pytest's own is not, when root runs it."""
    made = Path(tempfile.mkdtemp(prefix="paddock-test-"))
    made.chmod(0o711)
    yield made
    for directory in [d.parent for d in made.rglob("paddock-state.json")]:
        end_all(StateDir(directory))
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def data() -> Iterator[Path]:
    """PostgreSQL's directory as it is after the first start's initdb, to be copied: initdb takes longer."""
    made = Path(tempfile.mkdtemp(prefix="paddock-test-"))
    made.chmod(0o711)
    directory = StateDir(made / "state")
    state.make(directory)
    prepared(directory)
    yield directory.database
    shutil.rmtree(made)


@pytest.fixture
def furnished(directory: StateDir, data: Path) -> StateDir:
    """A state directory whose database is made."""
    return furnish(directory, data)


def furnish(directory: StateDir, data: Path) -> StateDir:
    """Give a state directory a database."""
    run(["cp", "--archive", "--reflink=auto", data, directory.database])
    return directory


@pytest.fixture
def directory(place: Path) -> StateDir:
    """A state directory, made."""
    made = StateDir(place / "state")
    state.make(made)
    return made


def end_all(directory: StateDir) -> None:
    """End the supervisor of a directory, its children and its PostgreSQLs, and remove what it has elsewhere."""
    marks = [procs.Mark(r["pid"], r["start"]) for r in recorded(directory) if r["pid"]]
    for mark in [state.holder(directory), *marks, *servers_of(directory)]:
        if mark is not None:
            procs.send(mark, signal.SIGKILL)
            procs.wait_gone(mark, 5)
    elsewhere = [directory.run.readlink()] if directory.run.is_symlink() else []
    note = directory.root / "db-sockets"
    if note.exists():
        elsewhere.append(Path(note.read_text().strip()))
    for path in elsewhere:
        shutil.rmtree(path, ignore_errors=True)


def servers_of(directory: StateDir) -> list[procs.Mark | None]:
    """The PostgreSQLs that run on data in this directory, whatever its name."""
    within = f"{directory.database.resolve()}/"
    found = [p for p in procs.pids() if str(procs.cwd(p) or "").startswith(within)]
    return [procs.mark(p) for p in found if Path((procs.argv(p) or [""])[0]).name == "postgres"]


def start(cluster: Cluster, directory: StateDir) -> procs.Mark:
    """Start it as the supervisor would."""
    return cluster.start(directory.log / "postgres.log")


def prepared(directory: StateDir) -> Cluster:
    """A new cluster, its data made."""
    return pgupgrade.prepare(directory, lambda _text: None)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
