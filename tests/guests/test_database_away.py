"""PostgreSQL goes away and comes back: the API says so at once, and what was under way ends as asked."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.base import clock
from paddock.base.statedir import StateDir
from paddock.service import pgupgrade, state
from paddock.service.postgres import Cluster
from tests.guests.stack import Stack, stack, until
from tests.service.conftest import end_all

pytestmark = [pytest.mark.guest, pytest.mark.slow]


class Database:
    """A PostgreSQL of the test's own, which the cloud knows by its URL only."""

    def __init__(self) -> None:
        self.directory = StateDir(Path(tempfile.mkdtemp(prefix="pkpg-", dir="/tmp")) / "s")
        self.directory.root.parent.chmod(0o711)
        state.make(self.directory)
        self.cluster: Cluster = pgupgrade.prepare(self.directory, lambda _: None, 100)

    def start(self) -> None:
        self.cluster.start(self.directory.log / "postgres.log")

    def stop(self) -> None:
        self.cluster.stop()


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    made = Database()
    made.start()
    try:
        yield made
    finally:
        made.stop()
        end_all(made.directory)
        shutil.rmtree(made.directory.root.parent)


@pytest.fixture(scope="module")
def away(database: Database) -> Iterator[Stack]:
    with stack(database_url=database.cluster.url, workers=2) as made:
        yield made


def refusal(cloud: Stack) -> tuple[float, float]:
    """Ask while there is no database; the seconds of the slowest answer to a reader and to a writer."""
    took = []
    for method, path, body in (
        ("GET", "/v1/servers", None),
        ("POST", "/v1/servers", {"name": "never", "server_type": "nano", "image": "tiny"}),
    ):
        start = clock.monotonic()
        answer = cloud.api.request(method, path, json=body)
        took.append(clock.monotonic() - start)
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["code"] == "unavailable"
        assert answer.headers["Retry-After"]
    return took[0], took[1]


@pytest.mark.parametrize("seconds", [20, 60])
def test_database_away(away: Stack, database: Database, seconds: int) -> None:
    keeper = away.launch(f"keeper-{seconds}")
    qemu = away.qemu(keeper["x_uuid"])
    victim, created = away.create(f"victim-{seconds}", x_start_paused=True)
    until(lambda: away.server(victim)["x_step"] != "place", 20, "the create to be under way", every=0.01)
    deleted = away.delete(keeper["id"]) if seconds == 20 else None
    database.stop()
    gone = clock.monotonic()
    try:
        slowest = max(max(refusal(away)) for _ in range(3))
        print(f"slowest refusal {slowest:.2f} s")
        assert slowest < 6
        if deleted is None:
            assert away.ssh(keeper, "echo still here") == "still here"
        clock.sleep(max(0.0, seconds - (clock.monotonic() - gone)))
    finally:
        database.start()
    back = clock.monotonic()
    away.done(created, 60)
    if deleted is not None:
        away.done(deleted, 60)
    print(f"all had ended {clock.monotonic() - back:.1f} s after it was back")
    if deleted is None:
        shown = away.server(keeper["id"])
        assert (shown["status"], shown["x_ready"]["ready"], away.qemu(shown["x_uuid"])) == ("running", True, qemu)
    assert away.server(victim)["x_status"] == "paused"
    away.remove(*[s["id"] for s in away.servers()])
    away.nothing_left()
