"""Holding a running guest's file systems still for a moment, by its guest agent; and letting them go, whatever happens.

A guest whose file systems stay frozen hangs. So a note in the machine's directory is made before the guest is asked
and removed only when the guest says that all is thawed: who is late, or the next node agent, goes on asking; and a
process beside us should we end (`thaw.py`).
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from paddock.base.errors import PaddockError, Refused, Unavailable
from paddock.hypervisor.qemu.layout import MachineDir
from paddock.hypervisor.qemu.live import Live
from paddock.hypervisor.qemu.thaw import EVERY, THAW_WAIT, Watch, note, thawed
from paddock.machine.state import Phase

FREEZE_WAIT = 6.0  # seconds for the guest to write what it has and stand still
THAW_NOW = 6.0  # seconds that we thaw on the spot, before somebody else goes on with it

log = logging.getLogger(__name__)


class Freezer:
    """Freezes and thaws guests. One per driver."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    @contextlib.contextmanager
    def held_still(self, live: Live) -> Iterator[str]:
        """Hold the guest's file systems still for the block's time; gives why they are not, empty when they are."""
        why = _cannot(live)
        if why:
            yield why
            return
        try:
            watch = Watch(live)
        except PaddockError as e:
            yield f"there is nobody to thaw the guest should we end: {e.message}"
            return
        note(live.directory).touch(mode=0o600)
        try:
            yield _frozen(live)
        finally:
            if thawed(live, THAW_NOW):
                watch.done()
            else:
                log.warning("%s: the guest does not say that its file systems are thawed", live.directory.root)
                self.thaw_later(live, watch)

    def thaw_later(self, live: Live, watch: Watch | None = None) -> None:
        """Go on thawing this guest, in a thread of its own, until it says that it is or has ended."""
        threading.Thread(target=self._keep_thawing, args=(live, watch), name="thaw", daemon=True).start()

    def thaw_left(self, directory: MachineDir, live_of: Callable[[], Live | None]) -> None:
        """What an earlier process may have left frozen."""
        if not note(directory).exists():
            return
        if live := live_of():
            self.thaw_later(live)
        else:
            note(directory).unlink(missing_ok=True)

    def close(self) -> None:
        """Give up; the next process goes on."""
        self._closed.set()

    def _keep_thawing(self, live: Live, watch: Watch | None) -> None:
        pause, longest = EVERY
        try:
            while not self._closed.is_set() and not live.process.gone():
                if thawed(live, THAW_WAIT):
                    log.info("%s: the guest's file systems are thawed", live.directory.root)
                    return
                self._closed.wait(pause)
                pause = min(pause * 2, longest)
            if live.process.gone():
                note(live.directory).unlink(missing_ok=True)
        finally:
            if watch:
                watch.done()


def _cannot(live: Live) -> str:
    """Why there is no use in asking; empty when there is."""
    if live.phase == Phase.PAUSED:
        return "the guest is paused"
    try:
        if not live.agent_open():
            return "no guest agent answers in this guest"
    except (Unavailable, Refused) as e:
        return f"whether there is a guest agent is not known: {e.message}"
    if note(live.directory).exists():
        return "an earlier snapshot's hold on the guest's file systems is not released yet"
    return ""


def _frozen(live: Live) -> str:
    """Freeze. Why it did not work; empty when it did."""
    try:
        frozen = live.agent.call("guest-fsfreeze-freeze", timeout=FREEZE_WAIT)
    except PaddockError as e:
        return e.message
    return "" if isinstance(frozen, int) and frozen > 0 else "the guest agent found no file system to hold still"
