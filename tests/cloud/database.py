"""A real PostgreSQL for the tests of this run, in a state directory of its own."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from paddock.base.statedir import DATABASE_ENV, STATE_ENV, StateDir
from paddock.service import pgupgrade, state


def start() -> StateDir:
    """Start it, point the environment at it, and have it ended with this process.

    Done once per process, and where pytest-xdist runs several, by each for itself: it may have been started before.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    done, _, whose = os.environ.get("PADDOCK_TEST_STARTED", "").partition(" ")
    if done and whose == worker:
        return StateDir(Path(done))
    root = Path(tempfile.mkdtemp(prefix="pkdb-", dir="/tmp"))
    root.rmdir()  # made anew by its owner, with the right permissions
    where = StateDir(root)
    state.make(where)
    cluster = pgupgrade.prepare(where, lambda _: None)
    with (cluster.data / "postgresql.auto.conf").open("a") as settings:
        settings.write("fsync = off\nfull_page_writes = off\n")  # no test cuts the machine's power
    cluster.start(where.log / "postgresql.log")
    owner = os.getpid()

    def end() -> None:
        if os.getpid() == owner:
            cluster.stop()
            shutil.rmtree(root, ignore_errors=True)

    atexit.register(end)
    os.environ.update({DATABASE_ENV: cluster.url, STATE_ENV: str(root), "PADDOCK_TEST_STARTED": f"{root} {worker}"})
    return where
