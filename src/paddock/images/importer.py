"""Takes a stranger's disk file or ISO into the store: looked at by us, a disk copied by a fenced-in qemu-img.

qemu-img works in a directory that holds the upload and its output and nothing else, with limits, and as root only
where there is nobody better. What ends in the store is a qcow2 of our own making.
"""

import json
import os
import pwd
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddock.base.errors import CommandFailed, DiskFull, Invalid, NotFound
from paddock.base.run import Completed, Identity, run
from paddock.images import unpack
from paddock.images.inspect import Format, Found, inspect, inspect_iso, sane_disk_size
from paddock.images.kernel import MOST, Boot
from paddock.images.partitions import HEAD, boots_by
from paddock.images.store import ImageStore, file_sha256
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import GIB, MIB

QEMU_USER = "paddock-vm"  # whom qemu-img runs as, when we are root and that user exists
_TIMEOUT = 3600  # seconds for one run of qemu-img
_MEMORY = 4 * GIB  # address space of qemu-img
_RESERVE = 64 * MIB  # bytes left free on the file system
_LEAKED = 3  # exit code of `qemu-img check`: clusters are leaked, which loses room and no data


def import_disk(
    upload: Path,
    store: ImageStore,
    name: str,
    *,
    sha256: str = "",
    size: int | None = None,
    kernel_of: ImageManifest | None = None,
    boot: Boot | None = None,
    max_size: int = 64 * GIB,
    **about: Any,
) -> ImageManifest:
    """Make an image called `name` of the disk file `upload`, in any format of `inspect`, also packed by gzip, bzip2, xz
    or zstd; the upload itself is only read.

    `sha256` and `size` (bytes) are what the upload shall have, if known, `max_size` (bytes) what it may unpack to;
    `about` are further fields of the manifest. What firmware boots it is found out, unless they say it. With
    `kernel_of` the new image boots as that one does: its kernel and initrd are copied out of the store; with `boot`
    those are copied that came beside the disk.
    Raises NotFound, Invalid (field `content`, `kernel`, `initrd`, `sha256`, `size` or one of the manifest's) or
    DiskFull; nothing is left behind then.
    """
    _check_arrival(upload, sha256, size)
    if boot:
        boot.check()
    with store.scratch() as place, _Box(_unpacked(upload, place, max_size), place) as box:
        found = inspect(box.path / "upload")
        if found.format not in (Format.RAW, Format.VHD):  # those that qemu-img can check
            _check(box, found.format)
        if found.format not in (Format.RAW, Format.QCOW2):
            found = _described(box, found)
        needed = _needed(box, found)
        _check_room(place, needed)
        files = {Role.DISK: _convert(box, found, needed)}
        about = {"firmware": boots_by(box.head(found.format)), **about}
        if kernel_of:
            files |= _kernel_files(kernel_of, store, place)
            about |= {"direct_boot": kernel_of.direct_boot, "cmdline": kernel_of.cmdline}
        if boot:
            files |= {role: _beside(role, file, place) for role, file in boot.files.items()}
            about |= boot.about()
        return store.publish(files, name=name, disk_size=found.disk_size, **about)


def import_iso(
    upload: Path, store: ImageStore, name: str, *, sha256: str = "", size: int | None = None, **about: Any
) -> ImageManifest:
    """Make an image called `name` of the CD image `upload` (ISO 9660), whose bytes are kept as they are.

    Arguments and errors are those of `import_disk`.
    """
    _check_arrival(upload, sha256, size)
    needed = inspect_iso(upload)
    with store.scratch() as place:
        _check_room(place, needed, "ISO")
        iso = place / Role.ISO.value
        _copy(upload, iso)
        return store.publish({Role.ISO: iso}, name=name, disk_size=0, **about)


def _kernel_files(image: ImageManifest, store: ImageStore, place: Path) -> dict[Role, Path]:
    """Copies of an image's kernel and initrd, checked on the way."""
    found = {}
    for role in (Role.KERNEL, Role.INITRD):
        file = image.file(role)
        if file is None:
            continue
        found[role] = place / role.value
        _copy(store.file(image.sha256, role), found[role])
        if file_sha256(found[role]) != file.sha256:
            raise Invalid(
                f"the {role.value} of image {image.name} in {store.root} was changed",
                hint="remove that image and build or import it again",
                field="image",
            )
    return found


def _beside(role: Role, source: Path, place: Path) -> Path:
    """A copy of a file that came beside the disk. What a guest could write to QEMU reads as little as its disk."""
    if role == Role.VARIABLES:
        return _plain_copy(source, place / f"{role.value}.box")
    target = place / role.value
    _check_room(target.parent, source.stat().st_size)
    _copy(source, target)
    return target


def _plain_copy(source: Path, place: Path) -> Path:
    """A qcow2 of our own with the contents of another, which is small and stands on nothing. Raises Invalid."""
    place.mkdir()
    with _Box(source, place) as box:
        found = inspect(box.path / "upload")
        if found.format is not Format.QCOW2 or found.disk_size > MOST[Role.VARIABLES]:
            raise Invalid(f"{source} is no qcow2 with variables of a UEFI", field=Role.VARIABLES.value)
        _check(box, found.format)
        return _convert(box, found, _needed(box, found))


def _copy(source: Path, target: Path) -> None:
    if not source.exists():
        raise NotFound(f"there is no file {source}", hint="the image it belongs to was removed", field="image")
    try:
        run(["cp", "--reflink=auto", "--sparse=always", "--no-dereference", source, target], timeout=_TIMEOUT)
    except CommandFailed as e:
        if _is_full(target.parent):
            raise DiskFull(f"no room was left in {target.parent} while {source} was copied", field="content") from e
        raise


def _check_arrival(upload: Path, sha256: str, size: int | None) -> None:
    try:
        arrived = upload.stat().st_size
    except FileNotFoundError:
        raise NotFound(f"there is no file {upload}", field="content") from None
    if size is not None and arrived != size:
        hint = "the upload was cut short: send it again" if arrived < size else "is it the right file?"
        raise Invalid(f"{arrived} bytes arrived, not {size}", hint=hint, field="size")
    if sha256 and (actual := file_sha256(upload)) != sha256.lower():
        hint = "download it again, or correct the checksum"
        raise Invalid(f"the file's sha256 is {actual}, not {sha256}", hint=hint, field="sha256")


class _Box:
    """A directory where qemu-img sees the upload as `upload`, and may write `disk`."""

    def __init__(self, upload: Path, place: Path) -> None:
        self._upload = upload
        self._before = upload.stat()
        self._identity = _identity()
        self.path = place / "box"

    def __enter__(self) -> "_Box":
        self.path.mkdir()
        self.path.chmod(0o711)  # whatever the umask
        try:
            os.link(self._upload, self.path / "upload", follow_symlinks=False)
        except OSError:  # another file system, or not ours to link
            _check_room(self.path.parent, self._before.st_blocks * 512)
            _copy(self._upload, self.path / "upload")
        if self._identity:
            os.chown(self.path / "upload", -1, self._identity.gid)
            (self.path / "upload").chmod(0o640)
        return self

    def __exit__(self, *_: object) -> None:
        if self._identity:
            os.chown(self._upload, -1, self._before.st_gid)
            self._upload.chmod(stat.S_IMODE(self._before.st_mode))

    def make_disk(self, size: int) -> None:
        """An empty qcow2 of that many bytes, which qemu-img may fill."""
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=1.1", self.path / "disk", str(size)])
        if self._identity:
            os.chown(self.path / "disk", self._identity.uid, self._identity.gid)

    def head(self, format: Format) -> bytes:
        """The bytes at the beginning of the disk, as a guest would see them."""
        file = self.path / "head"
        file.write_bytes(b"")
        if self._identity:
            os.chown(file, self._identity.uid, self._identity.gid)
        words = ["dd", "-f", format.value, "-O", "raw", "bs=512", f"count={HEAD // 512}", "if=upload", "of=head"]
        self.qemu_img(words, writes=HEAD)
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as found:
            return found.read(HEAD)

    def take_disk(self) -> Path:
        """The filled disk, as a file of our own again."""
        if self._identity:
            os.chown(self.path / "disk", os.geteuid(), os.getegid(), follow_symlinks=False)
        return self.path / "disk"

    def qemu_img(self, words: Sequence[str], *, writes: int = 0, check: bool = True) -> Completed:
        """Run qemu-img here; no file of it may exceed `writes` bytes."""
        limits = [f"--as={_MEMORY}", f"--cpu={_TIMEOUT}", f"--fsize={writes}", "--nofile=64", "--core=0"]
        fence = ["env", "-C", str(self.path), *self._other_user(), "prlimit", *limits]
        return run([*fence, "qemu-img", *words], timeout=_TIMEOUT, check=check)

    def _other_user(self) -> list[str]:
        """The directory is entered before root is given up: nobody else could come here by name."""
        if self._identity is None:
            return ["setpriv", "--no-new-privs"]
        user = [f"--reuid={self._identity.uid}", f"--regid={self._identity.gid}", "--clear-groups"]
        return ["setpriv", "--no-new-privs", *user]


def _identity() -> Identity | None:
    """Whom qemu-img runs as, where we can choose."""
    if os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(QEMU_USER)
    except KeyError:
        return None
    return Identity(user.pw_uid, user.pw_gid)


def _needed(box: _Box, found: Found) -> int:
    """The bytes that a copy of ours can take at most."""
    words = ["measure", "--output=json", "-O", "qcow2", "-f", found.format.value, "upload"]
    return int(json.loads(box.qemu_img(words).stdout)["required"])


def _check_room(directory: Path, needed: int, what: str = "image") -> None:
    free = shutil.disk_usage(directory).free - _RESERVE
    if needed > free:
        raise DiskFull(
            f"the {what} takes up to {needed // MIB} MiB, and {directory.parent} has {max(free, 0) // MIB} MiB free",
            hint="remove images that are not needed or enlarge the file system",
            field="content",
        )


def _unpacked(upload: Path, place: Path, max_size: int) -> Path:
    """The upload, or what it unpacks to."""
    if upload.is_symlink() or not upload.is_file():
        raise Invalid(f"{upload} is not a regular file", field="content")
    if not unpack.is_compressed(upload):
        return upload
    unpack.unpack(upload, place / "unpacked", size=max_size, reserve=_RESERVE)
    return place / "unpacked"


def _check(box: _Box, format: Format) -> None:
    try:
        done = box.qemu_img(["check", "-q", "-f", format.value, "upload"], check=False)
    except CommandFailed as e:
        raise _corrupt(format, e.message) from e
    if done.code not in (0, _LEAKED):
        raise _corrupt(format, (done.stderr.strip() or done.stdout.strip())[:500])


def _corrupt(format: Format, said: str) -> Invalid:
    hint = "download or make it again, or try `qemu-img check -r all` on a copy"
    return Invalid(f"the {format.value} file is corrupt: {said or 'qemu-img check failed'}", hint=hint, field="content")


def _described(box: _Box, found: Found) -> Found:
    """What its driver says of a disk that we looked at only in part. Raises Invalid when it stands on another."""
    try:
        said = json.loads(box.qemu_img(["info", "--output=json", "-f", found.format.value, "upload"]).stdout)
    except (CommandFailed, ValueError) as e:
        raise _corrupt(found.format, str(e)) from e
    if said.get("backing-filename") or said.get("encrypted"):
        raise Invalid(f"the {found.format.value} file stands on another one, or is encrypted", field="content")
    return Found(found.format, sane_disk_size(int(said["virtual-size"])))


def _convert(box: _Box, found: Found, needed: int) -> Path:
    """A qcow2 of our own with the upload's contents."""
    box.make_disk(found.disk_size)
    words = ["convert", "-n", "--target-is-zero", "-f", found.format.value, "-O", "qcow2", "upload", "disk"]
    try:
        box.qemu_img(words, writes=needed + _RESERVE)
    except CommandFailed as e:
        if _is_full(box.path):
            raise DiskFull(f"no room was left in {box.path} while the disk was copied", field="content") from e
        raise Invalid(f"the disk can't be copied: {e.message}", field="content") from e
    return box.take_disk()


def _is_full(directory: Path) -> bool:
    return shutil.disk_usage(directory).free < _RESERVE
