"""Images for tests that boot real guests: each is built once per machine and version of its builder.

The cache is in `PADDOCK_TEST_CACHE`, else ~/.cache/paddock-tests; tests must never write into it.
"""

import fcntl
import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import paddock.images
from paddock.base.clock import now
from paddock.base.run import run
from paddock.images.progress import read_status
from paddock.images.store import ImageStore
from paddock.machine.image import ImageManifest, Role

BUILD_TIMEOUT = 1200.0  # seconds
_DAY = 24 * 3600.0


@dataclass(frozen=True)
class BuiltImage:
    """An image in the cache. `directory` is what `Disks.ensure_image` takes as its source."""

    store: ImageStore
    manifest: ImageManifest

    @property
    def directory(self) -> Path:
        return self.store.path(self.manifest.sha256)

    def file(self, role: Role) -> Path:
        return self.store.file(self.manifest.sha256, role)


def cache_directory() -> Path:
    """Where built images are kept between runs."""
    chosen = os.environ.get("PADDOCK_TEST_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache/paddock-tests"


def built_image(name: str) -> BuiltImage:
    """The image of that name, built now if this version of its builder never ran here."""
    place = cache_directory() / f"{name}-{_builders_hash(name)}"
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status = read_status(place / f"{name}.status.json")
        store = ImageStore(place / "images")
        if status.state != "ready" or not store.path(status.sha256).is_dir():
            _remove_older(place, name)
            run(
                [sys.executable, "-m", "paddock.images.build", name, "--store", store.root, "--work", place],
                timeout=BUILD_TIMEOUT,
            )
            status = read_status(place / f"{name}.status.json")
    return BuiltImage(store, store.get(status.sha256))


_SOURCES = {
    "tiny": ("tiny.py", "small.py", "../base/cpio.py", "elf.py", "packages.py", "guest/tiny-*"),
    "rescue": ("rescue.py", "small.py", "../base/cpio.py", "elf.py", "packages.py", "guest/tiny-*", "guest/rescue-*"),
    "debian-12": ("debian.py", "boot_loader.py", "partitions.py", "guest/debian-*"),
}


def _builders_hash(name: str) -> str:
    digest = hashlib.sha256()
    sources = Path(paddock.images.__file__).parent
    for file in sorted(f for pattern in _SOURCES[name] for f in sources.glob(pattern)):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _remove_older(place: Path, name: str) -> None:
    """Images of builders that are no more would fill the disk; those of the last day may be in use."""
    for old in place.parent.glob(f"{name}-*"):
        lock = old / "lock"
        if old != place and lock.exists() and now().timestamp() - lock.stat().st_mtime > _DAY:
            shutil.rmtree(old, ignore_errors=True)
