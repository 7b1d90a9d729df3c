"""The moment of a fork, in QEMU: memory goes into a file and the disk into another while the guest runs, and it stands
still only for what is left of both.

The disk is mirrored, not backed up: QEMU gives its disks away when a migration ends, which it refuses while a backup
runs, and a mirror that fails costs the guest nothing. Where a migration pauses before it switches over, the guest has
stopped and its disks are still QEMU's: there the mirror ends.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

from paddock.base import clock
from paddock.base.errors import PaddockError, Refused, Unavailable
from paddock.hypervisor.qemu import disks, files, memory
from paddock.hypervisor.qemu.copies import GivenUp
from paddock.hypervisor.qemu.live import Live

JOB = "fork"
NODE = "fork-disk"
FAST = 2**40  # bytes per second: as fast as it goes
# How long a guest may stand still, in milliseconds, by how long its memory has been written, in seconds. What it writes
# faster than that has to wait in the end.
LIMITS = ((0.0, 20), (4.0, 40), (6.0, 80), (8.0, 160), (10.0, 320), (20.0, 2_000_000))
USUAL_LIMIT = 300  # milliseconds, of QEMU
STILL_SECONDS = 30.0  # that the guest may stand still, at the very most
WRITE_SECONDS = 1800.0
LOOK_EVERY = 0.05
SOON = 0.002  # seconds between looks while the guest stands still, when no event comes
CANCEL_WAIT = 10.0
_FULL = ("No space left", "Disk quota exceeded")


class Heard:
    """What a QEMU tells by itself while this is its listener."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._last: dict[str, dict[str, Any]] = {}

    def __call__(self, name: str, data: dict[str, Any]) -> None:
        with self._changed:
            self._last[name] = data
            self._changed.notify_all()

    def at(self, name: str) -> float:
        """When QEMU said so last, in seconds of unix time; 0: never."""
        with self._changed:
            return float(self._last.get(name, {}).get("at", 0.0))

    def migration(self) -> str:
        """How far QEMU said the migration is."""
        with self._changed:
            return str(self._last.get("MIGRATION", {}).get("status", ""))

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Until something was said that makes it true."""
        with self._changed:
            return self._changed.wait_for(condition, seconds)


class Switch:
    """One fork of a running QEMU: `mirror`, `write`, `cross`, then `clear`, which may also come at any time. `stop`
    gives it up."""

    def __init__(self, live: Live, stop: threading.Event) -> None:
        self._live = live
        self._stop = stop
        self._heard = Heard()
        self.bytes = 0, 0

    def mirror(self, file: str) -> None:
        """Have the disk mirrored into the prepared file of that name, and return when it is the same. Raises DiskFull,
        Refused, GivenUp."""
        live = self._live
        named = {"driver": "file", "filename": file}
        quick = {"cache": {"no-flush": True}}  # it is brought to the disk when it is whole
        live.execute("blockdev-add", {"driver": "qcow2", "node-name": NODE, "file": {**named, **quick}, **quick})
        live.execute("blockdev-mirror", {
            "job-id": JOB, "device": "system", "target": NODE, "sync": "top", "auto-dismiss": False,
            "on-target-error": "report",
        })  # fmt: skip
        while (status := self._job()) != "ready":
            if status == "concluded":
                raise Refused("QEMU ended the copy of its disk too early")
            self._pause()

    def write(self, fd: int) -> None:
        """Have the memory written, and return when the guest stands still. Raises Refused, GivenUp."""
        live = self._live
        live.listener = self._heard
        set_capabilities(live, True)
        _flush(live)
        live.execute("migrate-set-parameters", {"max-bandwidth": FAST, "downtime-limit": LIMITS[0][1]})
        live.give(memory.FD, fd)
        live.execute("migrate", {"uri": memory.URI})
        begun, limit = clock.monotonic(), LIMITS[0][1]
        while not self._heard.wait(lambda: self._heard.migration() == "pre-switchover", LOOK_EVERY):
            found = self._migration({"pre-switchover"})
            if found == "pre-switchover":
                return
            spent = clock.monotonic() - begun
            if spent > WRITE_SECONDS:
                raise Unavailable(f"its memory is not written within {WRITE_SECONDS:g} s", hint="ask again")
            if (now := _limit(spent)) != limit:
                live.execute("migrate-set-parameters", {"downtime-limit": (limit := now)})
            if self._stop.is_set():
                raise GivenUp

    def cross(self) -> float:
        """The moment itself: the disk is cut off, what is left of the memory is written, and the guest goes on. Returns
        how long it stood still, in milliseconds. Raises Refused."""
        live, begun = self._live, clock.monotonic()
        live.execute("block-job-cancel", {"device": JOB})  # of a mirror that is ready: end it, as it is now
        self._until(lambda: self._job() == "concluded")
        live.execute("migrate-continue", {"state": "pre-switchover"})
        self._heard.wait(lambda: self._heard.migration() in ("completed", "failed"), 1.0)
        self._until(lambda: self._migration({"completed"}) == "completed")
        _go_on(live)
        spent = (clock.monotonic() - begun) * 1000
        stopped = self._heard.at("STOP")
        self._heard.wait(lambda: self._heard.at("RESUME") > stopped, 1.0)
        said = (self._heard.at("RESUME") - stopped) * 1000
        return round(said if stopped and said > 0 else spent, 1)

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = clock.monotonic() + STILL_SECONDS
        while not condition():
            if clock.monotonic() > deadline:
                raise Unavailable(f"QEMU did not finish within {STILL_SECONDS:g} s: the machine runs on")
            clock.sleep(SOON)

    def _pause(self) -> None:
        if self._stop.wait(LOOK_EVERY / 5):
            raise GivenUp

    def _job(self) -> str:
        """How far the mirror is. Raises DiskFull, Refused when it failed."""
        job = find_job(self._live)
        if job is None:
            raise Refused("QEMU does not copy its disk any more")
        if error := str(job.get("error", "")):
            if any(words in error for words in _FULL):
                raise disks.full(self._live.directory.root, int(job.get("total-progress", 0)))
            raise Refused(f"QEMU could not copy its disk: {error}")
        return str(job["status"])

    def _migration(self, also: set[str]) -> str:
        """How far the memory is. Raises Refused when it failed."""
        found = memory.migration(self._live)
        status, ram = str(found.get("status")), found.get("ram", {})
        self.bytes = ram.get("total", 0) - ram.get("remaining", 0), ram.get("total", 0)
        if status not in memory.UNDER_WAY | also:
            why = found.get("error-desc") or status
            raise Refused(f"QEMU could not write its memory: {why}", hint="see qemu.log in the machine's directory")
        return status


def clear(live: Live) -> None:
    """Have nothing left of a fork in a QEMU, however far it came, and its guest go on. Raises Unavailable."""
    live.listener = None
    if live.process.gone():
        return
    memory.stop_writing(live)
    if live.refresh() in ("postmigrate", "finish-migrate"):
        _go_on(live)
        live.refresh()
    set_capabilities(live, False)
    live.execute("migrate-set-parameters", {"downtime-limit": USUAL_LIMIT})
    deadline = clock.monotonic() + CANCEL_WAIT
    while (job := find_job(live)) and job["status"] != "concluded":
        with contextlib.suppress(Refused):
            live.execute("block-job-cancel", {"device": JOB, "force": True})
        if clock.monotonic() > deadline:
            raise Unavailable("QEMU does not end the copy of its disk", hint="its storage hangs: see `dmesg`")
        clock.sleep(SOON)
    with contextlib.suppress(Refused):
        live.execute("job-dismiss", {"id": JOB})
    with contextlib.suppress(Refused):
        live.execute("blockdev-del", {"node-name": NODE})


def _go_on(live: Live) -> None:
    """A migration that says it is completed is not quite over yet."""
    deadline = clock.monotonic() + CANCEL_WAIT
    while True:
        try:
            live.execute("cont")
            return
        except Refused as e:
            if "not finalized" not in e.message or clock.monotonic() > deadline:
                raise
        clock.sleep(SOON / 4)


def find_job(live: Live) -> dict[str, Any] | None:
    """The mirror, if there is one."""
    jobs: list[dict[str, Any]] = live.execute("query-jobs")
    return next((job for job in jobs if job["id"] == JOB), None)


def set_capabilities(live: Live, state: bool) -> None:
    """What only a fork wants of a migration."""
    names = ("pause-before-switchover", "events")
    wanted = [{"capability": name, "state": state} for name in names]
    live.execute("migrate-set-capabilities", {"capabilities": wanted})


def _limit(spent: float) -> int:
    return max(limit for since, limit in LIMITS if spent >= since)


def _flush(live: Live) -> None:
    """QEMU does so while the guest stands still: leave it little to do."""
    with contextlib.suppress(OSError, PaddockError):
        fd = files.open_regular(live.directory.system_disk)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
