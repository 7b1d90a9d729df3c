"""The fake's images, disks and snapshots. Images are checked at their source, and nothing is copied."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from paddock.base import clock
from paddock.base.errors import Conflict, DiskFull, Invalid, NotFound, Refused
from paddock.base.files import write_whole
from paddock.hypervisor.fake_host import Fake, FakeHost
from paddock.hypervisor.fake_qcow2 import qcow2
from paddock.hypervisor.fake_store import Saved, Taken, check_files, total_bytes
from paddock.machine.cleaning import Cleaning, Trace
from paddock.machine.image import ImageManifest
from paddock.machine.spec import Disk, Machine
from paddock.machine.state import Phase, Progress, Snapshot

PATIENCE = 0.05  # seconds that the first question for an image waits, so that small ones are there at once


class FakeDisks:
    """See `paddock.hypervisor.base.Disks`."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host
        self._copies: dict[str, threading.Thread] = {}
        self._errors: dict[str, str] = {}
        self._snapshots = FakeSnapshots(host)
        self._edits: dict[tuple[UUID, str, str], float] = {}  # passwords under way, and since when

    def ensure_image(self, manifest: ImageManifest, source: str) -> Progress:
        host, image, total = self._host, manifest.sha256, total_bytes(manifest)
        with host.faults.around("ensure_image"):
            with host.changed:
                if image not in host.images and image not in self._copies and image not in self._errors:
                    copy = threading.Thread(target=self._copy, args=(manifest, Path(source)), daemon=True)
                    self._copies[image] = copy
                    copy.start()
                running = self._copies.get(image)
            if running:
                running.join(PATIENCE)
            with host.changed:
                done = image in host.images
                # An error is told once; who asks again after it wants another try.
                error = "" if done else self._errors.pop(image, "")
                return Progress(done=done, bytes_done=total if done else 0, bytes_total=total, error=error)

    def _copy(self, manifest: ImageManifest, source: Path) -> None:
        image = manifest.sha256
        try:
            check_files(manifest, source)
            clock.sleep(self._host.faults.copy_seconds)
            with self._host.changed:
                self._host.claim(total_bytes(manifest))
                self._host.store.save_image(manifest)
                self._host.images[image] = manifest
                self._host.tell()
        except (Invalid, DiskFull, OSError) as e:
            with self._host.changed:
                self._errors[image] = str(e)
        finally:
            with self._host.changed:
                del self._copies[image]

    def images(self) -> tuple[str, ...]:
        with self._host.faults.around("images"), self._host.changed:
            return tuple(self._host.images)

    def remove_image(self, image: str) -> None:
        host = self._host
        with host.faults.around("remove_image"), host.changed:
            for fake in host.fakes.values():
                if image in _images_of(fake.saved):
                    raise Conflict(f"image {image} is in use by machine {fake.saved.uuid}", hint="delete it first")
            if manifest := host.images.pop(image, None):
                host.store.forget_image(image)
                host.used -= total_bytes(manifest)
                for warm in [w for w in host.warm_kept.values() if w.image == image]:
                    host.forget_warm(warm.id)

    def ensure_disk(self, machine: UUID, disk: Disk, epoch: int) -> None:  # noqa: ARG002 - the fence keeps epochs
        host = self._host
        with host.faults.around("ensure_disk", machine), host.changed:
            fake = host.fakes.get(machine) or Fake(Saved(uuid=machine))
            there = fake.saved.disks.get(disk.name)
            old = there if there and there.generation == disk.generation else None
            smallest = old.size if old else self._image_size(disk)
            if there and fake.on and (not old or disk.size > old.size):
                raise Conflict("the disk can't change while the machine runs", hint="power it off first")
            if disk.size < smallest:
                text = f"disk {disk.name} of machine {machine} can't be {disk.size} bytes: it needs {smallest}"
                raise Invalid(text, hint="disks only grow", field="size")
            if old and old.size == disk.size:
                return
            host.claim(disk.size - (there.size if there else 0))
            kept = (old or disk).model_copy(update={"size": disk.size})
            host.fakes[machine] = fake
            # Passwords, and what it stood on, were of the disk that was there.
            fresh: dict[str, object] = {} if old else {"passwords": {}, "fresh": True, "stands_on": ""}
            host.keep(fake, disks={**fake.saved.disks, disk.name: kept}, **fresh)

    def _image_size(self, disk: Disk) -> int:
        if disk.image is None:
            return 0
        if disk.image not in self._host.images:
            raise NotFound(f"image {disk.image} is not on this node", hint="copy it here first")
        return self._host.images[disk.image].disk_size

    def snapshot(
        self,
        machine: UUID,
        snapshot: UUID,
        target: str,
        epoch: int,  # noqa: ARG002 - the fence
        cleaning: Cleaning | None = None,
    ) -> Snapshot:
        with self._host.faults.around("snapshot", machine), self._host.changed:
            if cleaning:
                self._helper_is_here(cleaning.helper)
            return self._snapshots.take(machine, snapshot, Path(target), cleaning)

    def drop_snapshot(self, machine: UUID, snapshot: UUID, epoch: int) -> None:  # noqa: ARG002 - the fence
        with self._host.faults.around("drop_snapshot", machine), self._host.changed:
            self._snapshots.drop(machine, snapshot)

    def set_password(
        self,
        machine: UUID,
        user: str,
        password_hash: str,
        helper: str,
        epoch: int,  # noqa: ARG002 - the fence
    ) -> Progress:
        host = self._host
        with host.faults.around("set_disk_password", machine), host.changed:
            fake = host.find(machine)
            if fake.on or fake.saved.phase is Phase.HIBERNATED:
                raise Conflict(f"machine {machine} is {fake.saved.phase}", hint="power it off first")
            self._helper_is_here(helper)
            begun = self._edits.setdefault((machine, user, password_hash), clock.monotonic())
            if clock.monotonic() - begun < host.faults.copy_seconds:
                return Progress(done=False, doing="changing it")
            del self._edits[machine, user, password_hash]
            if error := host.faults.helper_error:
                return Progress(done=False, error=error)
            host.keep(fake, passwords={**fake.saved.passwords, user: password_hash}, fresh=False)
            return Progress(done=True)

    def _helper_is_here(self, image: str) -> None:
        if image not in self._host.images:
            raise NotFound(f"image {image} is not on this node", hint="copy it here first")


@dataclass(frozen=True)
class _Copy:
    """A snapshot under way, as the machine was at its moment."""

    begun: float  # monotonic
    taken: Taken


class FakeSnapshots:
    """Snapshots being copied. Each ends in a real file, which the image importer takes. Used under the host's lock."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host
        self._copies: dict[UUID, _Copy] = {}

    def take(self, machine: UUID, snapshot: UUID, target: Path, cleaning: Cleaning | None) -> Snapshot:
        """Begin it, or go on. Raises NotFound, Conflict, DiskFull, Refused."""
        fake = self._host.find(machine)
        done = fake.saved.snapshots.get(snapshot)
        if done and Path(done.target) == target and target.exists():
            return _finished(done)
        copy = self._copies.setdefault(snapshot, self._begun(fake, target, cleaning))
        age, seconds = clock.monotonic() - copy.begun, self._host.faults.copy_seconds
        if age < seconds:
            part = int(copy.taken.size * age / seconds)
            return Snapshot(done=False, bytes_done=part, bytes_total=copy.taken.size, **_frozen(copy.taken))
        del self._copies[snapshot]
        if error := self._host.faults.copy_error or (self._host.faults.helper_error if cleaning else ""):
            return Snapshot(done=False, bytes_total=copy.taken.size, error=error, **_frozen(copy.taken))
        self._write(fake, snapshot, copy, target)
        self._host.keep(fake, snapshots={**fake.saved.snapshots, snapshot: copy.taken})
        return _finished(copy.taken)

    def drop(self, machine: UUID, snapshot: UUID) -> None:
        """Forget it; what lies at its target stays."""
        self._copies.pop(snapshot, None)
        fake = self._host.fakes.get(machine)
        if fake and snapshot in fake.saved.snapshots:
            left = {uuid: taken for uuid, taken in fake.saved.snapshots.items() if uuid != snapshot}
            self._host.keep(fake, snapshots=left)

    def _begun(self, fake: Fake, target: Path, cleaning: Cleaning | None) -> _Copy:
        why = self._why_not_frozen(fake)
        machine = fake.saved.machine
        size = fake.saved.disks[machine.system_disk.name].size if machine else 0
        taken = Taken(target=str(target), size=size, frozen=not why, not_frozen=why)
        if cleaning:
            cleaned = tuple(f"{trace}: 1" for trace in Trace if trace not in cleaning.keep)
            taken = taken.model_copy(update={"cleaned": cleaned, "shared": tuple(f"{t}: 1" for t in cleaning.keep)})
        return _Copy(clock.monotonic(), taken)

    def _why_not_frozen(self, fake: Fake) -> str:
        if not fake.on:
            return ""  # nothing moves on the disk of a machine that is off
        return self._host.faults.not_frozen or self._host.why_silent(fake)

    def _write(self, fake: Fake, snapshot: UUID, copy: _Copy, target: Path) -> None:
        if self._host.faults.disk_full:
            raise DiskFull(f"no room for the snapshot at {target}", hint="free room there")
        name = fake.saved.machine.name if fake.saved.machine else ""
        words = f"snapshot {snapshot} of the fake machine {name} ({fake.saved.uuid})\n"
        try:
            write_whole(target, qcow2(copy.taken.size, words.encode()), sync=False)
        except FileNotFoundError as e:
            raise Refused(f"the snapshot can't be written: {target.parent} is not on this host") from e


def _frozen(taken: Taken) -> dict[str, Any]:
    return {"frozen": taken.frozen, "not_frozen": taken.not_frozen}


def _finished(taken: Taken) -> Snapshot:
    said = {"cleaned": taken.cleaned, "shared": taken.shared, **_frozen(taken)}
    return Snapshot(done=True, bytes_done=taken.size, bytes_total=taken.size, **said)


def _images_of(saved: Saved) -> set[str | None]:
    """Every image that a machine stands on, boots from or has in its drive."""
    used = {disk.image for disk in saved.disks.values()}
    for machine in (saved.machine, saved.running):
        used |= _parts(machine) if machine else set()
    return used


def _parts(machine: Machine) -> set[str | None]:
    return {machine.iso, machine.rescue.image if machine.rescue else None}
