"""A node's copies of images: brought in the background, checked by their hashes, put in place only when whole."""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from paddock.base.errors import NotFound, PaddockError, Refused
from paddock.hypervisor.qemu import files, identity
from paddock.hypervisor.qemu.layout import Layout
from paddock.machine.image import ImageFile, ImageManifest, Role
from paddock.machine.state import Progress

MANIFEST = "manifest.json"
CHUNK = 1024 * 1024
PATIENCE = 0.05  # seconds that a question waits for the copy, so that small ones are there at once
_ID = re.compile(r"[0-9a-f]{64}")
_SCRATCH = ".incoming-"

log = logging.getLogger(__name__)


class ImageStore:
    """STATE/images/<sha256>/{manifest.json,disk,kernel,initrd}."""

    def __init__(self, layout: Layout, arrived: Callable[[], None] = lambda: None) -> None:
        self._layout = layout
        self._arrived = arrived
        self._lock = threading.Lock()
        self._copies: dict[str, _Copy] = {}
        self._known: dict[str, ImageManifest] = {}

    def ensure(self, manifest: ImageManifest, source: Path) -> Progress:
        """How far the copy is; begins one when there is none. A failure is told once, then it may be tried again."""
        sha256 = manifest.sha256
        total = sum(f.size for f in manifest.files)
        with self._lock:
            copy = self._copies.get(sha256)
            if copy is None and self._here(sha256):
                return Progress(done=True, bytes_done=total, bytes_total=total)
            if copy is None:
                copy = self._copies[sha256] = _Copy(manifest, source, self._layout, self._arrived)
                copy.start()
        copy.join(PATIENCE)
        with self._lock:
            if not copy.is_alive() and self._copies.get(sha256) is copy:
                del self._copies[sha256]
            return copy.progress(total)

    def whole(self) -> tuple[str, ...]:
        """All images that are here and whole."""
        return tuple(sorted(d.name for d in self._layout.images.iterdir() if self._here(d.name)))

    def manifest(self, sha256: str) -> ImageManifest:
        """Raises NotFound."""
        if sha256 not in self._known:
            self._known[sha256] = self._read(sha256)
        return self._known[sha256]

    def file(self, sha256: str, role: Role) -> Path | None:
        """An image's file of that role, if it has one. Raises NotFound."""
        return self._layout.image(sha256) / role if self.manifest(sha256).file(role) else None

    def remove(self, sha256: str) -> None:
        """Raises NotFound for what can't be an image."""
        if not _ID.fullmatch(sha256):
            raise NotFound(f"{sha256!r} is no image")
        with self._lock:
            self._known.pop(sha256, None)
            shutil.rmtree(self._layout.image(sha256), ignore_errors=True)

    def kernels(self) -> list[Path]:
        """The kernels that are in images here."""
        return [path for sha256 in self.whole() if (path := self._layout.image(sha256) / "kernel").exists()]

    def close(self) -> None:
        """Give up copies; what they wrote is begun again the next time."""
        for copy in self._copies.values():
            copy.stop.set()
            copy.join()

    def _here(self, sha256: str) -> bool:
        if sha256 in self._known:
            return True
        try:
            self._known[sha256] = self._read(sha256)
        except (NotFound, Refused):
            return False
        return True

    def _read(self, sha256: str) -> ImageManifest:
        """The directory got its name only when all in it was checked, so sizes are enough here."""
        directory = self._layout.image(sha256)
        try:
            manifest = ImageManifest.model_validate_json((directory / MANIFEST).read_bytes())
        except (OSError, ValidationError) as e:
            raise NotFound(f"image {sha256[:12]} is not on this node", hint="copy it there first") from e
        if manifest.sha256 != sha256 or any(files.size_of(directory / f.role) != f.size for f in manifest.files):
            raise Refused(f"image {sha256[:12]} on this node is damaged", hint=f"remove {directory}")
        return manifest


class _Copy(threading.Thread):
    """One image on its way."""

    def __init__(self, manifest: ImageManifest, source: Path, layout: Layout, arrived: Callable[[], None]) -> None:
        super().__init__(name=f"image-{manifest.name}", daemon=True)
        self.stop = threading.Event()
        self._manifest = manifest
        self._source = source
        self._layout = layout
        self._arrived = arrived
        self._bytes = 0
        self._done = False
        self._error = ""

    def progress(self, total: int) -> Progress:
        return Progress(done=self._done, bytes_done=self._bytes, bytes_total=total, error=self._error)

    def run(self) -> None:
        scratch = self._layout.images / f"{_SCRATCH}{self._manifest.sha256}"
        try:
            self._copy(scratch)
            self._done = True
        except PaddockError as e:
            self._error = str(e)
        except OSError as e:
            self._error = _said(e, self._layout.images)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if self._error:
            log.warning("image %s could not be copied: %s", self._manifest.name, self._error)
        else:
            self._arrived()

    def _copy(self, scratch: Path) -> None:
        shutil.rmtree(scratch, ignore_errors=True)
        identity.make_directory(scratch)
        for file in self._manifest.files:
            self._bring(file, scratch / file.role)
        text = json.dumps(self._manifest.model_dump(mode="json"), indent=1)
        files.write_whole(scratch / MANIFEST, text.encode(), 0o444)
        target = self._layout.image(self._manifest.sha256)
        shutil.rmtree(target, ignore_errors=True)  # a damaged one: a whole one is never copied again
        os.rename(scratch, target)

    def _bring(self, file: ImageFile, target: Path) -> None:
        source = self._source / file.role
        size = files.size_of(source)
        if not source.is_file():
            raise Refused(f"{source} is missing", hint="build or import the image again")
        if size != file.size:
            kind = "truncated" if size < file.size else "too long"
            raise Refused(f"{source} is {kind}: {size} bytes, not {file.size}", hint="build or import the image again")
        if _may_link(source, target.parent):
            os.link(source, target)
            digest = self._hash(target, None)
        else:
            digest = self._hash(source, target)
        if digest != file.sha256:
            raise Refused(
                f"{source} has the wrong checksum: {digest}, not {file.sha256}", hint="build or import the image again"
            )
        target.chmod(0o444)

    def _hash(self, source: Path, target: Path | None) -> str:
        """The sha256 of a file, copied to `target` on the way."""
        digest = hashlib.sha256()
        with source.open("rb") as reader, open(target or os.devnull, "wb") as writer:
            while chunk := reader.read(CHUNK):
                if self.stop.is_set():
                    raise Refused("the copy was given up, since the node agent ends", hint="ask again")
                digest.update(chunk)
                writer.write(chunk)
                self._bytes += len(chunk)
            if target:
                writer.flush()
                os.fsync(writer.fileno())
        return digest.hexdigest()


def _may_link(source: Path, directory: Path) -> bool:
    """A hard link is free, and safe where the file is ours."""
    there, here = source.stat(), directory.stat()
    return there.st_dev == here.st_dev and there.st_uid == os.geteuid() and not source.is_symlink()


def _said(error: OSError, where: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the file system of {where} is full (remove machines or images, or give it more room)"
    return f"{error.filename or where}: {error.strerror}"
