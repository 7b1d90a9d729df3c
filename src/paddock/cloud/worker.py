"""A worker process: takes wake-ups from the queue, finds lost ones, watches nodes, and shows that it lives.

It ends itself when PostgreSQL was away: a worker that starts afresh is simpler than one that mends its connections,
and steps may run twice. The supervisor starts it again.
"""

import asyncio
import logging
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

os.environ["PADDOCK_ROLE"] = "worker"
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "paddock.cloud.settings")

import django

django.setup()

from django.conf import settings
from django.db import Error, connection
from django.db.models.functions import Now
from procrastinate.contrib.django import app
from procrastinate.exceptions import AlreadyEnqueued

from paddock.base import clock, log
from paddock.cloud import housekeeping
from paddock.cloud.flows import tasks
from paddock.cloud.flows.alarms import Alarms
from paddock.cloud.flows.engine import Flow, from_now
from paddock.cloud.flows.node import watch_all
from paddock.cloud.models import Living, Worker

logger = logging.getLogger(__name__)

CONCURRENCY = 8
HEARTBEAT = 1.0  # seconds
SWEEP = 1.0  # seconds between looks for rows that are due and that nobody was told of
POLL = 2.0  # seconds between looks for jobs of which no notification came
LOST_DATABASE = 3.0  # seconds without PostgreSQL after which this worker ends itself once it is back
TIDY = 60.0  # seconds between looks for what is old enough to be forgotten
SWEPT = 200  # rows at most in one sweep


def main() -> None:
    """Work until SIGTERM, which lets the steps in hand end."""
    log.setup("worker")
    stop = threading.Event()
    _register()
    threads = [
        threading.Thread(target=target, args=(stop,), name=target.__name__, daemon=True)
        for target in (_beat, _sweep, watch_all)
    ]
    for thread in threads:
        thread.start()
    alarms = Alarms()
    tasks.use(alarms)
    try:
        asyncio.run(_work())
    finally:
        stop.set()
        alarms.close()
        _sign_off()


async def _work() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CONCURRENCY + 4))
    with_pool = app.with_connector(app.connector.get_worker_connector())  # type: ignore[attr-defined]  # Django's has it
    async with with_pool.open_async():
        logger.info("worker %s takes jobs", settings.TAG)
        await with_pool.run_worker_async(
            queues=["flows"],
            concurrency=CONCURRENCY,
            fetch_job_polling_interval=POLL,
            delete_jobs="successful",
            update_heartbeat_interval=2,
            stalled_worker_timeout=10,
            install_signal_handlers=True,
        )
    logger.info("worker %s has ended", settings.TAG)


def _register() -> None:
    Worker.objects.filter(seen__lt=from_now(-3600)).delete()
    Worker.objects.create(tag=settings.TAG, host=socket.gethostname(), pid=os.getpid())


def _sign_off() -> None:
    try:
        Worker.objects.filter(tag=settings.TAG).delete()
    except Error:
        logger.info("could not sign off: PostgreSQL does not answer")


def _beat(stop: threading.Event) -> None:
    """Show that we live. After PostgreSQL was away, end this process."""
    seen = clock.monotonic()
    while not stop.wait(HEARTBEAT):
        try:
            alive = Worker.objects.filter(tag=settings.TAG).update(seen=Now())
        except Error:
            connection.close()
            continue
        if clock.monotonic() - seen > LOST_DATABASE or not alive:
            logger.warning("was out of touch for %.1f s: starting afresh", clock.monotonic() - seen)
            os.kill(os.getpid(), signal.SIGTERM)
            clock.sleep(5)
            os._exit(75)
        seen = clock.monotonic()


def _sweep(stop: threading.Event) -> None:
    """Wake rows that are due and that no job woke, and clear away what dead workers left in the queue."""
    tidied = clock.monotonic()
    while not stop.wait(SWEEP):
        try:
            if clock.monotonic() - tidied > TIDY:
                tidied = clock.monotonic()
                housekeeping.tidy()
            for flow in Flow.registry.values():
                sweep(flow)
            _clear_queue()
        except (Error, OSError) as e:
            logger.warning("sweep: %s", e)
            connection.close()


def sweep(flow: "Flow[Living]") -> int:
    """Wake the flow's rows that have been due for a second. Returns how many."""
    due = flow.model._default_manager.filter(next_at__lt=from_now(-1)).order_by("next_at").values_list("pk", flat=True)
    woken = 0
    for row_id in due[:SWEPT]:
        task = app.configure_task("advance", queue="flows", queueing_lock=f"sweep {flow.kind} {row_id}")
        try:
            task.defer(kind=flow.kind, row_id=row_id)
            woken += 1
        except AlreadyEnqueued:
            continue
    return woken


def _clear_queue() -> None:
    """Remove jobs that a dead worker left `doing`, and failed ones after a day: rows, not jobs, are the truth."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            DELETE FROM procrastinate_jobs j WHERE (j.status = 'doing' AND NOT EXISTS (
              SELECT FROM procrastinate_workers w WHERE w.id = j.worker_id
                AND w.last_heartbeat > now() - interval '30 s'))
            OR (j.status IN ('failed', 'cancelled', 'aborted')
              AND j.id < (SELECT max(id) - 10000 FROM procrastinate_jobs))
            """
        )


if __name__ == "__main__":
    main()
