"""Where the fake hypervisor keeps its machines, images, volumes: small files, so that they outlive its process."""

import hashlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid4

from paddock.base import clock
from paddock.base.errors import Invalid
from paddock.base.files import write_atomically
from paddock.machine.image import ImageManifest
from paddock.machine.spec import Disk, Frozen, Machine, Volume
from paddock.machine.state import Accelerator, MachineState, Phase
from paddock.machine.warm import Start, WarmImage


class Taken(Frozen):
    """A snapshot of a machine that lies at `target`, until it is dropped."""

    target: str
    size: int  # bytes of the disk
    frozen: bool
    not_frozen: str = ""
    cleaned: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


class Saved(Frozen):
    """All that is kept of a machine. One without a `machine` has disks and is not yet defined."""

    uuid: UUID
    machine: Machine | None = None
    disks: dict[str, Disk] = {}
    phase: Phase = Phase.DEFINED
    since: datetime | None = None
    reason: str = ""
    port: str = ""  # what it holds while it is on: its definition may have changed since
    memory_mib: int = 0
    running: Machine | None = None  # what its guest has while it is on
    started: Machine | None = None  # and what it had when it was turned on
    host_restarted: bool = False
    rebooting: bool = False
    cold_start: str = ""
    fresh: bool = False  # its system disk was never started from
    began: Start = Start()
    woken: bool = False  # its guest had booted already when it was turned on
    stands_on: str = ""  # the warm image whose disk its own stands on
    kept: int = 0  # bytes that its memory takes while it is hibernated
    damaged: bool = False
    booted: bool = False  # its guest has run since it was turned on
    runs: tuple[tuple[float, float], ...] = ()  # when it was turned on and off, as unix times; 0: it still is on
    passwords: dict[str, str] = {}  # the hashes that its guest agent was given, by user
    snapshots: dict[UUID, Taken] = {}

    @property
    def on(self) -> bool:
        return self.phase in (Phase.RUNNING, Phase.PAUSED)

    @property
    def has(self) -> Machine | None:
        """What its guest has, while it is on."""
        return (self.running or self.machine) if self.on else None

    @property
    def volumes(self) -> set[UUID]:
        """Volumes that its definition or its guest has."""
        return {a.volume for machine in (self.machine, self.running) if machine for a in machine.volumes}

    @property
    def endpoint(self) -> str:
        """Where its SSH port is forwarded from."""
        return f"{self.machine.network.ssh_address}:{self.machine.network.ssh_port}" if self.machine else ""

    def age(self) -> float:
        """Seconds since its phase changed."""
        return (clock.now() - self.since).total_seconds() if self.since else 0.0

    def state(self) -> MachineState:
        accelerator = Accelerator.TCG if self.on else None
        return MachineState.model_construct(
            uuid=self.uuid, phase=self.phase, pid=None, accelerator=accelerator, since=self.since, reason=self.reason,
            cold_start=self.cold_start if self.on else "", host_restarted=self.host_restarted,
            rebooting=self.rebooting, began=self.began if self.on else Start(), epoch=0,
        )  # fmt: skip


class Warm(Frozen):
    """The warm images, and the keys that a machine was started with while there was none."""

    images: tuple[WarmImage, ...] = ()
    seen: tuple[str, ...] = ()


class Point(Frozen):
    """A fork point. What its guest had in memory is not kept over a restart."""

    point: UUID
    machine: Machine  # as its guest had it
    size: int  # bytes that its memory takes
    passwords: dict[str, str] = {}


class _Points(Frozen):
    points: tuple[Point, ...] = ()


class Store:
    """Machines, images, warm images and volumes in a directory, or nowhere."""

    def __init__(self, directory: Path | None) -> None:
        self._boot = directory / "boot_id" if directory else None
        self._warm = directory / "warm.json" if directory else None
        self._forks = directory / "forks.json" if directory else None
        self._machines = directory / "machines" if directory else None
        self._images = directory / "images" if directory else None
        self._volumes = directory / "volumes" if directory else None
        for made in (self._machines, self._images, self._volumes):
            if made:
                made.mkdir(mode=0o700, parents=True, exist_ok=True)

    def boot_id(self) -> str:
        """Of the host, as if it had one."""
        try:
            return self._boot.read_text() if self._boot else self.new_boot()
        except FileNotFoundError:
            return self.new_boot()

    def new_boot(self) -> str:
        boot_id = str(uuid4())
        if self._boot:
            write_atomically(self._boot, boot_id)
        return boot_id

    def warm(self) -> Warm:
        """What was saved of warm images."""
        try:
            return Warm.model_validate_json(self._warm.read_bytes()) if self._warm else Warm()
        except FileNotFoundError:
            return Warm()

    def save_warm(self, warm: Warm) -> None:
        if self._warm:
            write_atomically(self._warm, warm.model_dump_json())

    def forks(self) -> tuple[Point, ...]:
        """What was saved of fork points."""
        try:
            return _Points.model_validate_json(self._forks.read_bytes()).points if self._forks else ()
        except FileNotFoundError:
            return ()

    def save_forks(self, points: tuple[Point, ...]) -> None:
        if self._forks:
            write_atomically(self._forks, _Points(points=points).model_dump_json())

    def machines(self) -> Iterator[Saved]:
        for path in _files(self._machines):
            yield Saved.model_validate_json(path.read_bytes())

    def images(self) -> Iterator[ImageManifest]:
        for path in _files(self._images):
            yield ImageManifest.model_validate_json(path.read_bytes())

    def volumes(self) -> Iterator[Volume]:
        for path in _files(self._volumes):
            yield Volume.model_validate_json(path.read_bytes())

    def save(self, saved: Saved) -> None:
        if self._machines:
            write_atomically(self._machines / f"{saved.uuid}.json", saved.model_dump_json())

    def forget(self, machine: UUID) -> None:
        if self._machines:
            (self._machines / f"{machine}.json").unlink(missing_ok=True)

    def save_image(self, manifest: ImageManifest) -> None:
        if self._images:
            write_atomically(self._images / f"{manifest.sha256}.json", manifest.model_dump_json())

    def forget_image(self, image: str) -> None:
        if self._images:
            (self._images / f"{image}.json").unlink(missing_ok=True)

    def save_volume(self, volume: Volume) -> None:
        if self._volumes:
            write_atomically(self._volumes / f"{volume.uuid}.json", volume.model_dump_json())

    def forget_volume(self, volume: UUID) -> None:
        if self._volumes:
            (self._volumes / f"{volume}.json").unlink(missing_ok=True)


def _files(directory: Path | None) -> list[Path]:
    return sorted(directory.glob("[0-9a-f]*.json")) if directory else []


def check_files(manifest: ImageManifest, source: Path) -> None:
    """Raises Invalid or OSError when a file of the image is missing, of another size or of another content."""
    for file in manifest.files:
        path = source / file.role
        try:
            size = path.stat().st_size
        except FileNotFoundError as e:
            raise Invalid(f"image {manifest.name} has no file {path}") from e
        if size != file.size:
            raise Invalid(f"{path} has {size} bytes, and image {manifest.name} wants {file.size}")
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != file.sha256:
            raise Invalid(f"{path} has the sha256 {found}, and image {manifest.name} wants {file.sha256}")


def total_bytes(manifest: ImageManifest) -> int:
    """Of an image's files."""
    return sum(f.size for f in manifest.files)
