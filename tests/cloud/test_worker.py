"""Worker processes, on the fake: they find what was lost, leave nothing behind, and end when they should."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen

import pytest
from django.db import connection
from django.db.models.functions import Now

from paddock.base import clock
from paddock.base.run import spawn
from paddock.cloud.models import Server, Worker
from tests.cloud.harness import Cloud

pytestmark = pytest.mark.slow


class WorkerProcess:
    """`python -m paddock.cloud.worker` on the tests' database."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process: Popen[bytes] = spawn([sys.executable, "-m", "paddock.cloud.worker"], output=log)
        until(lambda: "takes jobs" in log.read_text() and self._catches(signal.SIGTERM), 30, log.read_text)

    def _catches(self, number: int) -> bool:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(caught, 16) & 1 << (number - 1))

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def row(self) -> Worker:
        return Worker.objects.get(pid=self.process.pid)


def until(look: Callable[[], object], seconds: float, what: Callable[[], str]) -> None:
    end = clock.monotonic() + seconds
    while not look():
        assert clock.monotonic() < end, what()
        clock.sleep(0.02)


def comes_to(row: Server, status: str, seconds: float = 10) -> None:
    def look() -> bool:
        row.refresh_from_db()
        return row.status == status

    until(look, seconds, lambda: f"{row.status} in {row.step}: {row.waiting_for} {row.problem}")


@pytest.fixture
def worker(cloud: Cloud, tmp_path: Path) -> Iterator[WorkerProcess]:
    Worker.objects.all().delete()
    made = WorkerProcess(tmp_path / "worker.log")
    yield made
    made.end()


def test_it_does_what_is_asked(cloud: Cloud, worker: WorkerProcess) -> None:
    comes_to(cloud.new_server(), "running")


def test_it_finds_what_nobody_told_it(cloud: Cloud, worker: WorkerProcess) -> None:
    """The row is the truth: a wake-up that was lost costs a second or two."""
    comes_to(row := cloud.new_server(), "running")
    until(lambda: not Server.objects.filter(pk=row.pk, next_at__isnull=False).exists(), 10, lambda: "it never rests")
    Server.objects.filter(pk=row.pk).update(delete_requested=True, next_at=Now())
    until(lambda: not Server.objects.exists(), 10, worker.log.read_text)


def test_what_a_killed_one_left_in_the_queue_is_cleared(cloud: Cloud, worker: WorkerProcess) -> None:
    """A job that nobody does any more, of a worker that is no more."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, status) VALUES ('flows', 'advance', 'doing')"
        )

    def gone() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM procrastinate_jobs WHERE status = 'doing'")
            return bool(cursor.fetchone()[0] == 0)

    until(gone, 10, worker.log.read_text)


def test_sigterm_ends_it_and_it_signs_off(worker: WorkerProcess) -> None:
    pid = worker.row.pid
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(15) == 0
    assert not Worker.objects.filter(pid=pid).exists()


def test_it_starts_afresh_when_it_was_given_up(worker: WorkerProcess) -> None:
    """Without its row its heartbeats reach nobody, and others would take what it works on."""
    worker.row.delete()
    worker.process.wait(15)
    assert "starting afresh" in worker.log.read_text()


def test_a_killed_ones_server_is_taken_over(cloud: Cloud, worker: WorkerProcess, tmp_path: Path) -> None:
    comes_to(row := cloud.new_server(), "running")
    worker.signal(signal.SIGSTOP)
    Server.objects.filter(pk=row.pk).update(delete_requested=True, next_at=Now())
    worker.signal(signal.SIGKILL)
    other = WorkerProcess(tmp_path / "other.log")
    try:
        until(lambda: not Server.objects.exists(), 10, other.log.read_text)
    finally:
        other.end()
