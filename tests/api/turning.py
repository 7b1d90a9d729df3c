"""The queue turned by itself meanwhile, for what waits until its action has ended: a command line, another client."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

from tests.cloud.harness import Cloud


@contextmanager
def turning(cloud: Cloud) -> Iterator[None]:
    """A thread that does what is due until the block ends. What it failed of is raised then."""
    ended, failed = threading.Event(), list[BaseException]()

    def turn() -> None:
        try:
            while not ended.wait(0.02):
                cloud.settle()
        except BaseException as error:
            failed.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=turn, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)
    if failed:
        raise failed[0]
