"""`python -m paddock.api` in a process of its own, on a free port of the loopback interface."""

import atexit
import functools
import os
import signal
import socket
import sys

import httpx

from paddock.base import clock
from paddock.base.run import spawn
from paddock.base.statedir import STATE_ENV
from tests.clients.specification import judge
from tests.cloud import database

START_SECONDS = 30.0


class LiveApi:
    """A served API over the database of this test run."""

    def __init__(self) -> None:
        self.state = database.start()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.state.config.write_text(f"[api]\nport = {self.port}\n")
        environment = {**os.environ, STATE_ENV: str(self.state.root)}
        self.log = self.state.log / "api.log"
        self.process = spawn([sys.executable, "-m", "paddock.api"], output=self.log, env=environment)
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=20, event_hooks={"response": [judge]}
        )

    @property
    def websocket(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def wait(self) -> None:
        """Return when it answers."""
        end = clock.monotonic() + START_SECONDS
        while clock.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            try:
                self.http.get("/x/v1/version").raise_for_status()
                return
            except httpx.TransportError:
                clock.sleep(0.05)
        raise AssertionError(f"the API does not answer: {self.log.read_text()}")

    def close(self) -> None:
        """End it."""
        self.http.close()
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(timeout=10)
        finally:
            if self.process.poll() is None:
                os.kill(self.process.pid, signal.SIGKILL)
            self.state.config.unlink(missing_ok=True)


@functools.cache
def shared() -> LiveApi:
    """One for the whole test run, ended with it."""
    api = LiveApi()
    atexit.register(api.close)
    api.wait()
    return api
