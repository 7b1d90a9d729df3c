"""Advisory locks on rows, and taking them from workers that no longer live.

A session lock ends with its connection, so a killed worker frees it at once. A worker that is stopped (SIGSTOP, a
frozen VM) keeps its connection: when its heartbeat is too old, its connection is ended, and it is fenced by the epoch.
"""

import logging

from django.db import InterfaceError, OperationalError, connection

from paddock.base import clock

log = logging.getLogger(__name__)

STALE_WORKER = 5.0  # seconds without a heartbeat after which a worker counts as dead
Keys = tuple[int, int]


def take(keys: Keys) -> bool:
    """Take the lock if it is free. Locks of one session may be taken again and again: see `release`."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", keys)
        return bool(cursor.fetchone()[0])


def release(keys: Keys) -> None:
    """Give the lock back; without a connection it is already free."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s, %s)", keys)
    except (OperationalError, InterfaceError):
        connection.close()


def evict_dead_holder(keys: Keys) -> bool:
    """End the connection that holds the lock if its worker shows no sign of life. True: it has been ended."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT pg_terminate_backend(l.pid, 2000), a.application_name
            FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
            JOIN cloud_worker w ON a.application_name = 'paddock worker ' || w.tag
            WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objid = %s
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND w.seen < clock_timestamp() - make_interval(secs => %s)
            """,
            (*keys, STALE_WORKER),
        )
        ended = cursor.fetchall()
    for _, name in ended:
        log.warning("took the lock %s from %s, which has shown no sign of life for %g s", keys, name, STALE_WORKER)
        clock.sleep(0.05)
    return bool(ended)
