"""Cleans the copy of a disk, in a helper guest, of what two servers must not share, and says what is left of that.

It works on the copy itself, which nobody has yet: a copy whose cleaning failed is thrown away.
"""

import threading

from paddock.base.errors import Refused
from paddock.hypervisor.qemu import disks, helper_guest, identity
from paddock.hypervisor.qemu.copies import Copy
from paddock.hypervisor.qemu.edit import held_still
from paddock.hypervisor.qemu.helper_guest import Boot, Job, Outcome, Place, Say
from paddock.machine.cleaning import NOTICED, Cleaning, Trace


class Cleaner:
    """Cleans one copy, as often as it takes."""

    def __init__(self, copy: Copy, cleaning: Cleaning, boot: Boot) -> None:
        self._copy = copy
        self._cleaning = cleaning
        self._boot = boot

    def clean(self, stop: threading.Event, say: Say) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What was removed, and what is shared from now on. Raises Refused when something is left that was not to be
        kept, GivenUp, Unavailable."""
        disk = self._copy.disk
        if disks.header(disk).other_files:
            raise Refused(f"{disk} stands on another file", hint="somebody changed it: look who")
        identity.give(disk, writable=True)
        job = Job("clean", tuple(("keep", trace.value) for trace in self._cleaning.keep))
        try:
            with held_still(self._copy.lock) as lock:
                place = Place(self._copy.guest, _node(f"../{disk.name}"), lock)
                outcome = helper_guest.work(self._boot, place, job, stop, say)
        finally:
            self._copy.lock.unlink(missing_ok=True)
        return said(outcome, self._cleaning)


def said(outcome: Outcome, cleaning: Cleaning) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What was removed, and what is shared. Raises Refused for what could not be removed."""
    if left := [_phrase(value) for value in outcome.all("left") if value.split()[0] not in cleaning.keep]:
        raise Refused(
            f"servers made of this image would share what could not be removed: {'; '.join(left)}",
            hint="look at the server, or keep it on purpose",
        )
    kept = [value for value in outcome.all("found") if value.split()[0] in cleaning.keep]
    removed = [value for value in outcome.all("found") if value not in kept and value.split()[0] != NOTICED]
    noticed = [value for value in outcome.all("found") if value.split()[0] == NOTICED]
    return tuple(map(_phrase, removed)), tuple(map(_phrase, [*kept, *noticed]))


def _phrase(value: str) -> str:
    """`logs 12 /var/log/dpkg.log` as people read it. Only words of ours are in front."""
    kind, count, path = [*value.split(" ", 2), "", ""][:3]
    known = kind if kind in (*Trace, NOTICED) else "something"
    return f"{known}: {count}{f', say {path}' if path else ''}"[:300]


def _node(filename: str) -> dict[str, object]:
    file = {"driver": "file", "filename": filename, "discard": "unmap"}
    return {"driver": "qcow2", "file": file, "discard": "unmap", "detect-zeroes": "unmap"}
