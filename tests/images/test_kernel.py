"""Kernels that come beside a disk: what is taken for one, and what an image is made of them."""

import hashlib
import struct
from pathlib import Path

import pytest

from paddock.base import run
from paddock.base.errors import Invalid, NotFound
from paddock.images import kernel
from paddock.images.importer import import_disk
from paddock.images.kernel import Boot, check_file
from paddock.images.store import ImageStore
from paddock.machine.image import Role
from paddock.machine.spec import MIB


def bzimage(version: int = 0x020F) -> bytes:
    """As much of one as is looked at, and something that differs from other files."""
    head = bytearray(4096)
    struct.pack_into("<H4sH", head, 0x1FE + 2, 0x6AEB, b"HdrS", version)  # a jump over the header, and the header
    head[0x1FE:0x200] = b"\x55\xaa"
    return bytes(head) + b"a kernel"


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    files = {Role.KERNEL: tmp_path / "vmlinuz", Role.INITRD: tmp_path / "initrd"}
    files[Role.KERNEL].write_bytes(bzimage())
    files[Role.INITRD].write_bytes(b"an initrd")
    return Boot(files, "root=/dev/sda quiet")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(b"XFSB no boot sector".ljust(512) * 4000)
    return path


def test_an_image_of_three_files(boot: Boot, disk: Path, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store")
    manifest = import_disk(disk, store, "mine", boot=boot)
    assert (manifest.direct_boot, manifest.cmdline) == (True, "root=/dev/sda quiet")
    assert store.file(manifest.sha256, Role.KERNEL).read_bytes() == bzimage()
    assert store.file(manifest.sha256, Role.INITRD).read_bytes() == b"an initrd"
    assert store.verify(manifest.sha256) == manifest
    assert all(path.exists() for path in (disk, *boot.files.values())), "they are only read"


def test_the_checksum_of_each_counts(boot: Boot, disk: Path, tmp_path: Path) -> None:
    right = {role: hashlib.sha256(path.read_bytes()).hexdigest() for role, path in boot.files.items()}
    Boot(boot.files, sha256=right).check()
    store = ImageStore(tmp_path / "store")
    with pytest.raises(Invalid, match="the initrd's sha256 is") as e:
        import_disk(disk, store, "mine", boot=Boot(boot.files, sha256={**right, Role.INITRD: "0" * 64}))
    assert e.value.field == "initrd"
    assert store.list() == ()


@pytest.mark.parametrize("content", [
    b"\x7fELF" + bytes(1000), b"x", bzimage(0x0205), bzimage().replace(b"HdrS", b"Hdrs"), bzimage()[:0x204],
    bzimage().replace(b"\x55\xaa", b"\x55\xab"),
], ids=["elf", "short", "old", "magic", "cut", "flag"])  # fmt: skip
def test_what_is_no_kernel(content: bytes, boot: Boot) -> None:
    boot.files[Role.KERNEL].write_bytes(content)
    with pytest.raises(Invalid, match="no Linux kernel that QEMU can load") as e:
        boot.check()
    assert e.value.field == "kernel"


def test_sizes(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernel.MOST, Role.INITRD, MIB)
    initrd = boot.files[Role.INITRD]
    initrd.write_bytes(bytes(MIB))
    check_file(Role.INITRD, initrd)
    initrd.write_bytes(bytes(MIB + 1))
    with pytest.raises(Invalid, match="1 byte to 1 MiB are taken"):
        check_file(Role.INITRD, initrd)
    initrd.write_bytes(b"")
    with pytest.raises(Invalid, match="0 bytes"):
        check_file(Role.INITRD, initrd)
    initrd.unlink()
    with pytest.raises(NotFound):
        check_file(Role.INITRD, initrd)


@pytest.fixture
def variables(tmp_path: Path) -> Path:
    """What a server's UEFI remembered, as its node delivers it."""
    (tmp_path / "raw").write_bytes(b"what is booted first".ljust(MIB, b"\xff"))
    made = tmp_path / "snapshot-efivars"
    run.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", tmp_path / "raw", made])
    return made


def test_variables_of_a_uefi(variables: Path, disk: Path, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store")
    manifest = import_disk(disk, store, "snapshot", boot=Boot({Role.VARIABLES: variables}))
    assert {file.role for file in manifest.files} == {Role.DISK, Role.VARIABLES}
    assert not manifest.direct_boot
    kept = tmp_path / "kept"
    run.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", store.file(manifest.sha256, Role.VARIABLES), kept])
    assert kept.read_bytes() == (tmp_path / "raw").read_bytes()
    assert variables.exists()
    assert [p.name for p in store.root.iterdir()] == [manifest.sha256]


def test_variables_that_want_another_file_are_not_opened(variables: Path, disk: Path, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store")
    run.run(["qemu-img", "rebase", "-u", "-b", "/etc/passwd", "-F", "raw", variables])
    with pytest.raises(Invalid, match="backing"):
        import_disk(disk, store, "snapshot", boot=Boot({Role.VARIABLES: variables}))
    run.run(["qemu-img", "create", "-q", "-f", "qcow2", variables, "1G"])
    with pytest.raises(Invalid, match="no qcow2 with variables"):
        import_disk(disk, store, "snapshot", boot=Boot({Role.VARIABLES: variables}))
    variables.write_bytes(disk.read_bytes())
    with pytest.raises(Invalid, match="no qcow2 with variables"):
        import_disk(disk, store, "snapshot", boot=Boot({Role.VARIABLES: variables}))
    assert store.list() == ()
