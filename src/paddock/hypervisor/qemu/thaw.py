"""Lets a guest's frozen file systems go when nobody else does: a process beside each freeze.

`python -m paddock.hypervisor.qemu.thaw DIRECTORY PID FD` waits until the other end of the pipe FD is closed: the
node agent that holds it is done, or is gone, perhaps for long. Where the note of the freeze is there still, it thaws
the guest, however often it must ask. So a guest never stays frozen because Paddock was stopped in that moment.
"""

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Protocol

from paddock.base import clock, run
from paddock.base import log as logs
from paddock.base.errors import PaddockError, Refused, Unavailable
from paddock.hypervisor.qemu import process
from paddock.hypervisor.qemu.guest_agent import GuestAgent
from paddock.hypervisor.qemu.layout import MachineDir
from paddock.hypervisor.qemu.process import Process, connect

THAW_WAIT = 3.0  # seconds for one answer to a thaw
EVERY = 1.0, 20.0  # seconds between attempts, at first and at last

log = logging.getLogger(__name__)


class Guest(Protocol):
    """What must be known of a machine that runs, to thaw it."""

    directory: MachineDir
    process: Process
    agent: GuestAgent


class Watch:
    """A process that thaws this guest should ours end before `done`. Raises Refused when there can be none."""

    def __init__(self, guest: Guest) -> None:
        read, self._held = os.pipe()
        try:
            where = guest.directory.root
            argv: list[str | Path] = [sys.executable, "-m", "paddock.hypervisor.qemu.thaw"]
            argv += [where, str(guest.process.pid), str(read)]
            run.spawn(argv, output=where / "thaw.log", pass_fds=(read,))
        except BaseException:
            self.done()
            raise
        finally:
            os.close(read)

    def done(self) -> None:
        """There is nothing to watch any more: the guest is thawed, or has ended."""
        os.close(self._held)


def note(directory: MachineDir) -> Path:
    """There from before a freeze until the guest has said that all is thawed."""
    return directory.root / "frozen"


def thawed(guest: Guest, seconds: float) -> bool:
    """Thaw, and whether the guest says that all is; then the note is gone."""
    deadline = clock.monotonic() + seconds
    while True:
        with contextlib.suppress(Unavailable, Refused):
            guest.agent.call("guest-fsfreeze-thaw", timeout=THAW_WAIT)
            note(guest.directory).unlink(missing_ok=True)
            return True
        with contextlib.suppress(Unavailable, Refused):
            if guest.agent.call("guest-fsfreeze-status", timeout=THAW_WAIT) == "thawed":
                note(guest.directory).unlink(missing_ok=True)
                return True
        if clock.monotonic() > deadline or guest.process.gone():
            return False
        clock.sleep(0.1)


class _Found:
    """A machine that runs, found by its directory. Raises LookupError when it has ended, and what `find` raises."""

    def __init__(self, directory: MachineDir, pid: int) -> None:
        found = process.find(directory, pid)
        if found is None or found.pid != pid:
            raise LookupError
        self.directory, self.process = directory, found
        self.agent = GuestAgent(lambda timeout: connect(directory, found, "agent.sock", timeout))


def main(argv: list[str]) -> int:
    """The entry point."""
    directory, pid, held = MachineDir(Path(argv[0])), int(argv[1]), int(argv[2])
    os.read(held, 1)  # until nobody holds the other end
    if not note(directory).exists():
        return 0
    logs.setup("thaw")
    pause, longest = EVERY
    while note(directory).exists() and not _tried(directory, pid):
        clock.sleep(pause)
        pause = min(pause * 2, longest)
    return 0


def _tried(directory: MachineDir, pid: int) -> bool:
    """Whether it is over: thawed, or the guest has ended."""
    try:
        if not thawed(_Found(directory, pid), THAW_WAIT):
            return False
    except LookupError:
        note(directory).unlink(missing_ok=True)
        return True
    except (PaddockError, OSError) as e:
        log.warning("the guest can't be thawed yet: %s", e)
        return False
    log.warning("the node agent ended during a freeze: the guest's file systems are thawed")
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
