"""`python -m paddock.service`: the supervisor itself, which `paddock up` starts. Also fit for a systemd unit.

Tells what it does as JSON lines to the pipe `--report-fd`, until all is ready; with `--stay` until the end, and then
it stops when nobody reads them any more.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import sys
from pathlib import Path

from paddock import __version__
from paddock.base import log as logs
from paddock.base.errors import PaddockError
from paddock.base.files import write_private
from paddock.base.statedir import StateDir
from paddock.service import pgupgrade, state, table
from paddock.service.supervisor import Event, Stopped, Supervisor, stop_leftovers

log = logging.getLogger(__name__)


class Reporter:
    """Tells a watcher, if there is one."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __call__(self, event: Event) -> None:
        if self.fd >= 0:
            with contextlib.suppress(BrokenPipeError, BlockingIOError):
                os.write(self.fd, (json.dumps(dataclasses.asdict(event)) + "\n").encode())

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def main() -> int:
    """Run until told to stop. The exit code is 1 when not all became ready."""
    parser = argparse.ArgumentParser(prog="python -m paddock.service", description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--report-fd", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--stay", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    _settle()
    report = Reporter(options.report_fd)
    try:
        return _supervise(StateDir(options.state_dir.absolute()), report, options.stay)
    except PaddockError as e:
        log.error("%s", e)
        report(Event("failed", text=e.message, hint=e.hint))
        return 1


def _settle() -> None:
    """Nothing of our caller's surroundings may reach the processes that we run."""
    logs.setup("supervisor")
    os.umask(0o077)
    os.chdir("/")
    for name in list(os.environ):
        if name.startswith("PG"):  # libpq and psql would obey it
            del os.environ[name]


def _supervise(directory: StateDir, report: Reporter, stay: bool) -> int:
    state.make(directory)
    lock = state.lock(directory)
    supervisor = Supervisor(directory, report)
    if stay and report.fd >= 0:
        supervisor.stop_when_closed(report.fd)
    log.info("paddock %s begins in %s", __version__, directory.root)
    try:
        _bring_up(directory, supervisor)
        report(Event("up"))
        if not stay:
            report.close()
        supervisor.watch()
        code = 0
    except Stopped:
        code = 0
    except PaddockError as e:
        log.error("%s", e)
        report(Event("failed", text=e.message, hint=e.hint))
        code = 1
    finally:
        _bring_down(directory, supervisor)
        lock.release()
    report(Event("down"))
    return code


def _bring_up(directory: StateDir, supervisor: Supervisor) -> None:
    for name in stop_leftovers(directory):
        log.warning("%s: had outlived its supervisor; stopped", name)
    plan = table.read_plan(directory)
    url = plan.database_url
    if not url:
        report = supervisor.report
        cluster = pgupgrade.prepare(
            directory, lambda text: report(Event("starting", "postgres", text)), plan.connections
        )
        supervisor.up([table.postgres(cluster)])
        url = cluster.url
    write_private(directory.database_url, url + "\n")
    supervisor.up([*table.agents(directory, plan), *table.control_plane(directory, plan, url)])
    write_private(directory.api_url, plan.api_url + "\n")
    log.info("all is ready; the API is at %s", plan.api_url)


def _bring_down(directory: StateDir, supervisor: Supervisor) -> None:
    directory.api_url.unlink(missing_ok=True)
    log.info("stopping")
    supervisor.stop()
    directory.database_url.unlink(missing_ok=True)
    log.info("stopped; guests go on running")


if __name__ == "__main__":
    sys.exit(main())
