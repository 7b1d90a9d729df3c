"""Import: what a stranger sent becomes an image of our own making, or a clear error and nothing at all."""

import hashlib
import os
import random
import shutil
from pathlib import Path

import pytest

from paddock.base.errors import DiskFull, Invalid, NotFound
from paddock.base.run import run
from paddock.hypervisor.qemu.seed import seed_iso
from paddock.images import importer
from paddock.images.importer import import_disk, import_iso
from paddock.images.store import ImageStore
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import MIB

CONTENT = bytes(510) + b"\x55\xaa" + random.Random(7).randbytes(2 * MIB - 512)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def qcow2(tmp_path: Path, raw: Path) -> Path:
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, tmp_path / "qcow2"])
    return tmp_path / "qcow2"


def _content(store: ImageStore, sha256: str, tmp_path: Path) -> bytes:
    run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", store.file(sha256, Role.DISK), tmp_path / "back"])
    return (tmp_path / "back").read_bytes()


def _nothing_left(store: ImageStore) -> bool:
    return not store.root.exists() or list(store.root.iterdir()) == []


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_what_boots_it_is_found_out_or_said(
    kind: str, request: pytest.FixtureRequest, store: ImageStore, tmp_path: Path
) -> None:
    upload: Path = request.getfixturevalue(kind)
    assert import_disk(upload, store, "bios").firmware == "bios"
    assert import_disk(upload, store, "told", firmware="uefi").firmware == "uefi"
    efi = bytearray(CONTENT)
    efi[450] = 0xEF
    (tmp_path / "efi.raw").write_bytes(efi)
    run(["qemu-img", "convert", "-f", "raw", "-O", kind, tmp_path / "efi.raw", tmp_path / "efi"])
    assert import_disk(tmp_path / "efi", store, "efi").firmware == "uefi"


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_an_imported_disk_has_the_same_contents(
    kind: str, request: pytest.FixtureRequest, store: ImageStore, tmp_path: Path
) -> None:
    upload: Path = request.getfixturevalue(kind)
    before = upload.stat()
    manifest = import_disk(upload, store, "mine", description="of mine", default_user="admin")
    assert (manifest.name, manifest.disk_size, manifest.default_user) == ("mine", 2 * MIB, "admin")
    assert store.verify(manifest.sha256) == manifest
    assert _content(store, manifest.sha256, tmp_path) == CONTENT
    assert [p.name for p in store.root.iterdir()] == [manifest.sha256]
    after = upload.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert store.file(manifest.sha256, Role.DISK).stat().st_uid == os.geteuid()


def test_compressed_and_old_qcow2_are_rewritten(store: ImageStore, raw: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compat=0.10", raw, old])
    manifest = import_disk(old, store, "old")
    head = store.file(manifest.sha256, Role.DISK).read_bytes()[:8]
    assert head == b"QFI\xfb\0\0\0\3"
    assert _content(store, manifest.sha256, tmp_path) == CONTENT


def test_the_right_checksum_is_accepted_in_any_case(store: ImageStore, raw: Path) -> None:
    import_disk(raw, store, "mine", sha256=hashlib.sha256(CONTENT).hexdigest().upper(), size=2 * MIB)


def test_a_wrong_checksum_is_refused(store: ImageStore, qcow2: Path) -> None:
    with pytest.raises(Invalid, match="sha256") as error:
        import_disk(qcow2, store, "mine", sha256="0" * 64)
    assert error.value.field == "sha256"
    assert _nothing_left(store)


def test_a_short_upload_is_refused(store: ImageStore, raw: Path) -> None:
    with pytest.raises(Invalid, match="cut short") as error:
        import_disk(raw, store, "mine", size=3 * MIB)
    assert error.value.field == "size"


def test_a_missing_upload_is_not_found(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        import_disk(tmp_path / "nothing", store, "mine")


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_a_truncated_qcow2_is_refused(store: ImageStore, qcow2: Path, keep: float) -> None:
    data = qcow2.read_bytes()
    qcow2.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(Invalid, match=r"corrupt|cut short"):
        import_disk(qcow2, store, "mine")
    assert _nothing_left(store)


def test_a_corrupt_qcow2_is_refused(store: ImageStore, qcow2: Path) -> None:
    with qcow2.open("r+b") as file:  # the first L2 table: entries that point outside of the file
        file.seek(int.from_bytes(qcow2.read_bytes()[40:48]))
        file.write((2**55 | 2**63).to_bytes(8))
    with pytest.raises(Invalid, match="corrupt"):
        import_disk(qcow2, store, "mine")
    assert _nothing_left(store)


def test_a_backing_file_of_the_host_is_never_read(store: ImageStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"the host's secret".ljust(MIB, b"!"))
    upload = tmp_path / "upload"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", upload])
    os.utime(secret, (1, 1))
    with pytest.raises(Invalid, match="backing file"):
        import_disk(upload, store, "mine")
    assert secret.stat().st_atime == 1
    assert _nothing_left(store)


def test_a_raw_disk_that_looks_like_a_qcow2_inside_stays_raw(store: ImageStore, tmp_path: Path, raw: Path) -> None:
    inner = tmp_path / "inner"
    inner.write_bytes(CONTENT[:512] + b"QFI\xfb" + CONTENT[516:])
    manifest = import_disk(inner, store, "mine")
    assert manifest.disk_size == 2 * MIB


def test_a_name_that_cannot_be_is_refused_and_leaves_nothing(store: ImageStore, raw: Path) -> None:
    with pytest.raises(Invalid) as error:
        import_disk(raw, store, "Not A Name")
    assert error.value.field == "name"
    assert _nothing_left(store)


def test_too_little_room_is_found_before_copying(store: ImageStore, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "_RESERVE", 2**60)
    with pytest.raises(DiskFull, match="MiB free"):
        import_disk(raw, store, "mine")
    assert _nothing_left(store)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can choose whom qemu-img runs as")
def test_as_root_qemu_img_runs_as_somebody_who_can_do_nothing(
    store: ImageStore, qcow2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "QEMU_USER", "nobody")
    tmp_path.chmod(0o700)
    qcow2.chmod(0o600)
    manifest = import_disk(qcow2, store, "mine")
    assert _content(store, manifest.sha256, tmp_path) == CONTENT
    assert store.file(manifest.sha256, Role.DISK).stat().st_uid == 0
    assert (qcow2.stat().st_mode & 0o777, qcow2.stat().st_gid) == (0o600, 0)


def _iso(path: Path, change: dict[int, bytes] | None = None) -> Path:
    """A CD image that boots from a disk too: its first sectors are a boot sector's."""
    data = bytearray(seed_iso({"hello": "from a CD"}))
    data[510:512] = b"\x55\xaa"
    for offset, new in (change or {}).items():
        data[offset : offset + len(new)] = new
    path.write_bytes(data)
    return path


def test_an_iso_is_kept_as_it_is(store: ImageStore, tmp_path: Path) -> None:
    upload = _iso(tmp_path / "cd.iso")
    content = upload.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    manifest = import_iso(upload, store, "installer", sha256=digest, size=len(content), description="a CD")
    assert (manifest.disk_size, [f.role for f in manifest.files]) == (0, [Role.ISO])
    assert store.file(manifest.sha256, Role.ISO).read_bytes() == content
    assert store.verify(manifest.sha256) == manifest
    assert upload.read_bytes() == content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({0x8001: b"XX001"}, "not an ISO"),
        ({0x8000: b"\xff"}, "not an ISO"),
        ({0x8000 + 80: b"\xff\xff\xff\x00"}, "cut short"),
        ({0x8000 + 80: bytes(4)}, "0 blocks"),
        ({0x8000 + 128: b"\x01\x00"}, "blocks of 1 bytes"),
    ],
)
def test_what_is_no_iso_is_refused(store: ImageStore, tmp_path: Path, change: dict[int, bytes], words: str) -> None:
    with pytest.raises(Invalid, match=words) as error:
        import_iso(_iso(tmp_path / "cd.iso", change), store, "installer")
    assert error.value.field == "content"
    assert _nothing_left(store)


def test_a_disk_and_an_iso_are_not_taken_for_each_other(store: ImageStore, raw: Path, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="not an ISO"):
        import_iso(raw, store, "installer")
    with pytest.raises(Invalid, match="upload this as an ISO"):
        import_disk(_iso(tmp_path / "cd.iso"), store, "mine")


def test_an_iso_needs_room(store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "_RESERVE", 1 << 60)
    with pytest.raises(DiskFull):
        import_iso(_iso(tmp_path / "cd.iso"), store, "installer")
    assert _nothing_left(store)


def _with_kernel(store: ImageStore, tmp_path: Path, qcow2: Path, *roles: Role) -> ImageManifest:
    files = {role: tmp_path / f"of-base-{role.value}" for role in roles}
    for role, path in files.items():
        path.write_bytes(f"a {role.value}".encode() * 1000)
    shutil.copy(qcow2, tmp_path / "of-base-disk")
    files[Role.DISK] = tmp_path / "of-base-disk"
    return store.publish(files, name="base", disk_size=2 * MIB, direct_boot=True, cmdline="console=ttyS0 quiet")


def test_a_snapshot_boots_with_the_kernel_of_its_image(store: ImageStore, qcow2: Path, tmp_path: Path) -> None:
    base = _with_kernel(store, tmp_path, qcow2, Role.KERNEL, Role.INITRD)
    manifest = import_disk(qcow2, store, "snapshot-1", kernel_of=base, guest_agent=True)
    assert (manifest.direct_boot, manifest.cmdline, manifest.guest_agent) == (True, "console=ttyS0 quiet", True)
    assert {f.role: f.sha256 for f in manifest.files if f.role != Role.DISK} == {
        f.role: f.sha256 for f in base.files if f.role != Role.DISK
    }
    store.remove(base.sha256)
    assert store.verify(manifest.sha256) == manifest


def test_a_kernel_without_initrd_joins_too(store: ImageStore, qcow2: Path, tmp_path: Path) -> None:
    manifest = import_disk(qcow2, store, "s", kernel_of=_with_kernel(store, tmp_path, qcow2, Role.KERNEL))
    assert manifest.file(Role.KERNEL)
    assert manifest.file(Role.INITRD) is None


def test_a_kernel_that_is_gone_or_changed_is_told(store: ImageStore, qcow2: Path, tmp_path: Path) -> None:
    base = _with_kernel(store, tmp_path, qcow2, Role.KERNEL)
    kernel = store.file(base.sha256, Role.KERNEL)
    kernel.chmod(0o644)
    kernel.write_bytes(b"another kernel")
    with pytest.raises(Invalid, match="was changed"):
        import_disk(qcow2, store, "s", kernel_of=base)
    store.remove(base.sha256)
    with pytest.raises(NotFound, match="kernel"):
        import_disk(qcow2, store, "s", kernel_of=base)
    assert _nothing_left(store)
