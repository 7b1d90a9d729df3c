"""The cloud's images on disk: one directory per image, named by its manifest's sha256, read-only once published.

An image appears by one rename, so whoever finds its directory finds all of it. What an interrupted publication
left behind is told from a running one by a lock on its directory, and removed.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from paddock.base.errors import DiskFull, Invalid, NotFound, Refused
from paddock.base.ids import new_uuid
from paddock.machine.image import ImageFile, ImageManifest, Role

MANIFEST = "manifest.json"
_NEW = ".new-"


class ImageStore:
    """A directory of images: `<sha256 of the manifest>/{manifest.json, disk, kernel, initrd}`, files 0444."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        """Where that image is, or would be."""
        return self.root / sha256

    def file(self, sha256: str, role: Role) -> Path:
        """Where that image's file of that role is, or would be."""
        return self.root / sha256 / role.value

    def list(self) -> tuple[ImageManifest, ...]:
        """Every image that is here, by name."""
        found = [self._read(d) for d in self._directories()]
        return tuple(sorted((m for m in found if m), key=lambda m: (m.name, m.sha256)))

    def get(self, sha256: str) -> ImageManifest:
        """The manifest of an image that is here. Raises NotFound."""
        manifest = self._read(self.path(sha256)) if len(sha256) == 64 else None
        if manifest is None:
            raise NotFound(f"there is no image {sha256[:12]} in {self.root}")
        return manifest

    def publish(self, files: Mapping[Role, Path], **about: Any) -> ImageManifest:
        """Take `files` over (they are moved) as an image described by `about`, the manifest's other fields.

        Publishing the same image again succeeds. Raises Invalid when a field or a file is wrong, DiskFull.
        """
        try:
            with self.scratch() as new:
                return self._fill(new, files, about)
        except OSError as e:
            raise _explained(e, f"the image could not be stored in {self.root}") from e

    def verify(self, sha256: str) -> ImageManifest:
        """Read every byte of an image and compare it with its manifest.

        Raises NotFound, or Invalid naming the file that is missing, short or changed.
        """
        manifest = self.get(sha256)
        if manifest.sha256 != sha256:
            raise Invalid(f"the manifest of image {sha256[:12]} was changed", hint="remove it and build it again")
        for file in manifest.files:
            _check(self.file(sha256, file.role), file)
        return manifest

    def remove(self, sha256: str) -> None:
        """Remove an image. Removing what is not there succeeds."""
        if len(sha256) != 64 or not self.path(sha256).is_dir():
            return
        doomed = self.root / f"{_NEW}{new_uuid()}"
        with contextlib.suppress(FileNotFoundError):
            self.path(sha256).rename(doomed)
            shutil.rmtree(doomed)

    def clean(self) -> None:
        """Remove what interrupted publications and removals left behind."""
        for left in self.root.glob(f"{_NEW}*"):
            with contextlib.suppress(FileNotFoundError, BlockingIOError), _locked(left):
                shutil.rmtree(left, ignore_errors=True)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new directory on the store's file system that goes away at the end, or with the next one if we are
        killed."""
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.clean()
        with contextlib.ExitStack() as stack:
            new = self._new_directory(stack)
            stack.callback(shutil.rmtree, new, ignore_errors=True)
            yield new

    def _new_directory(self, stack: contextlib.ExitStack) -> Path:
        """A new directory, locked until the stack closes. Another `clean` may take it before it is locked."""
        while True:
            new = self.root / f"{_NEW}{new_uuid()}"
            new.mkdir()
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                new.chmod(0o755)  # whatever the umask
                stack.enter_context(_locked(new))
                if new.exists():
                    return new

    def _directories(self) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError):
            yield from (d for d in self.root.iterdir() if len(d.name) == 64)

    def _read(self, directory: Path) -> ImageManifest | None:
        try:
            return ImageManifest.model_validate_json((directory / MANIFEST).read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValidationError):
            return None

    def _fill(self, new: Path, files: Mapping[Role, Path], about: Mapping[str, Any]) -> ImageManifest:
        described = tuple(_take(source, new / role.value, role) for role, source in sorted(files.items()))
        try:
            manifest = ImageManifest(files=described, **about)
        except ValidationError as e:
            first = e.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise Invalid(f"the image's {field} is not right: {first['msg']}", field=field) from e
        _write_synced(new / MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
        _sync_directory(new)
        try:
            new.rename(self.path(manifest.sha256))
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        _sync_directory(self.root)
        return manifest


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    return file_digest(path, "sha256")


def file_digest(path: Path, algorithm: str) -> str:
    """The checksum of a file by that algorithm, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _take(source: Path, target: Path, role: Role) -> ImageFile:
    shutil.move(source, target)
    target.chmod(0o444)
    size = target.stat().st_size
    if not size:
        raise Invalid(f"the image's {role.value} is empty", field=role.value)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return ImageFile(role=role, sha256=file_sha256(target), size=size)


def _check(path: Path, file: ImageFile) -> None:
    hint = "remove the image and build or import it again"
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise Invalid(f"{path} is missing", hint=hint, field=file.role.value) from None
    if size != file.size:
        raise Invalid(f"{path} has {size} bytes, not {file.size}", hint=hint, field=file.role.value)
    if file_sha256(path) != file.sha256:
        raise Invalid(f"{path} was changed: its checksum is not that of its manifest", hint=hint, field=file.role.value)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock. Raises BlockingIOError when somebody else does."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o444)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _explained(error: OSError, what: str) -> Refused:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{what}: no room is left", hint="remove images that are not needed or enlarge the file system")
    return Refused(f"{what}: {error.strerror}")
