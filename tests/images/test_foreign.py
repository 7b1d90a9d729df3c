"""Disks of other hypervisors, and packed ones: taken in when they are whole, refused when they name anything else."""

import bz2
import gzip
import lzma
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from paddock.base.errors import Invalid
from paddock.base.run import run
from paddock.images.importer import import_disk
from paddock.images.inspect import Format, inspect
from paddock.images.store import ImageStore
from paddock.machine.image import Role
from paddock.machine.spec import MIB

CONTENT = bytes(510) + b"\x55\xaa" + random.Random(8).randbytes(2 * MIB - 512)
KINDS = {
    "vmdk": ("vmdk", ()),
    "vmdk, packed": ("vmdk", ("-o", "subformat=streamOptimized")),
    "vhdx": ("vhdx", ()),
    "vhdx, fixed": ("vhdx", ("-o", "subformat=fixed")),
    "vhd": ("vpc", ("-o", "force_size=on")),
    "vhd, fixed": ("vpc", ("-o", "subformat=fixed,force_size=on")),
    "vdi": ("vdi", ()),
}


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw"
    path.write_bytes(CONTENT)
    return path


def foreign(raw: Path, kind: str) -> Path:
    path = raw.with_name("foreign")
    format, options = KINDS[kind]
    run(["qemu-img", "convert", "-f", "raw", "-O", format, *options, raw, path])
    return path


def content(store: ImageStore, sha256: str, tmp_path: Path) -> bytes:
    run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", store.file(sha256, Role.DISK), tmp_path / "back"])
    return (tmp_path / "back").read_bytes()


def patched(path: Path, old: bytes, new: bytes) -> Path:
    """The file with a text of its in another, of the same length: zeros fill it up."""
    data = path.read_bytes()
    assert old in data
    assert len(new) <= len(old)
    path.write_bytes(data.replace(old, new.ljust(len(old), b"\n"), 1))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_an_image(store: ImageStore, raw: Path, tmp_path: Path, kind: str) -> None:
    manifest = import_disk(foreign(raw, kind), store, "mine")
    assert manifest.disk_size == 2 * MIB
    assert content(store, manifest.sha256, tmp_path) == CONTENT


@pytest.mark.parametrize(
    "pack", [gzip.compress, partial(bz2.compress, compresslevel=1), partial(lzma.compress, preset=0)]
)
def test_packed_ones(store: ImageStore, raw: Path, tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(pack(foreign(raw, "vmdk").read_bytes()))
    manifest = import_disk(packed, store, "mine")
    assert content(store, manifest.sha256, tmp_path) == CONTENT
    assert packed.exists()


def test_packed_by_zstd(store: ImageStore, raw: Path, tmp_path: Path) -> None:
    run(["zstd", "-q", raw, "-o", tmp_path / "packed"])
    assert content(store, import_disk(tmp_path / "packed", store, "mine").sha256, tmp_path) == CONTENT


def test_a_bomb(store: ImageStore, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(bytes(510) + b"\x55\xaa" + b"x" * 4 * MIB))
    with pytest.raises(Invalid, match="more than 2 MiB"):
        import_disk(packed, store, "mine", max_size=2 * MIB)
    assert list(store.root.iterdir()) == []


def test_packed_twice_or_no_disk(store: ImageStore, raw: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(gzip.compress(raw.read_bytes())))
    with pytest.raises(Invalid, match="gzip archive"):
        import_disk(packed, store, "mine")
    packed.write_bytes(gzip.compress(b"hello"))
    with pytest.raises(Invalid, match="not a disk"):
        import_disk(packed, store, "mine")


@pytest.mark.parametrize(("old", "new", "words"), [
    (b'createType="monolithicSparse"', b'createType="monolithicFlat"', "more than one file"),
    (b'createType="monolithicSparse"', b'createType="vmfs"', "more than one file"),
    (b"parentCID=ffffffff", b"parentCID=12345678", "stands on another"),
    (b"RW 4096 SPARSE", b"RW 4096 FLAT", "names 1 extents"),
    (b'createType="monolithicSparse"', b'parentFileNameHint="/etc/a"', "stands on another|more than one"),
])  # fmt: skip
def test_a_vmdk_that_names_other_files(
    store: ImageStore, raw: Path, tmp_path: Path, old: bytes, new: bytes, words: str
) -> None:
    upload = patched(foreign(raw, "vmdk"), old, new)
    with pytest.raises(Invalid, match=words) as error:
        import_disk(upload, store, "mine")
    assert error.value.field == "content"
    assert list(store.root.iterdir()) == []


def test_a_vmdk_without_a_size_is_its_description(store: ImageStore, raw: Path, tmp_path: Path) -> None:
    """QEMU reads the text of such a one, and opens whatever files that names."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"the host's secret".ljust(MIB, b"!"))
    os.utime(secret, (1, 1))
    text = f'# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 2048 FLAT "{secret}" 0\n'
    head = bytearray(512)
    head[:4], head[4:8], head[28:36] = b"KDMV", (1).to_bytes(4, "little"), (1).to_bytes(8, "little")
    for data in (bytes(head) + text.encode().ljust(10240, b"\0"), text.encode()):
        upload = tmp_path / "upload"
        upload.write_bytes(data)
        with pytest.raises(Invalid, match="VMDK"):
            import_disk(upload, store, "mine")
    assert secret.stat().st_atime == 1


@pytest.mark.parametrize("kind", ["vmdk", "vdi", "vhdx", "vhd"])
def test_one_that_was_cut_short(store: ImageStore, raw: Path, kind: str) -> None:
    upload = foreign(raw, kind)
    data = upload.read_bytes()
    upload.write_bytes(data[: len(data) * 9 // 16 // 512 * 512])
    with pytest.raises(Invalid):
        import_disk(upload, store, "mine")
    assert list(store.root.iterdir()) == []


def test_a_vhd_that_stands_on_another(raw: Path) -> None:
    upload = foreign(raw, "vhd")
    data = bytearray(upload.read_bytes())
    data[-512 + 60 : -512 + 64] = (4).to_bytes(4)
    upload.write_bytes(data)
    with pytest.raises(Invalid, match="stands on another"):
        inspect(upload)


@pytest.mark.parametrize(("kind", "at", "number"), [
    ("vmdk", 12, (2**60).to_bytes(8, "little")),
    ("vdi", 0x170, (2**60).to_bytes(8, "little")),
])  # fmt: skip
def test_sizes_that_can_not_be(raw: Path, kind: str, at: int, number: bytes) -> None:
    upload = foreign(raw, kind)
    data = bytearray(upload.read_bytes())
    data[at : at + 8] = number
    upload.write_bytes(data)
    with pytest.raises(Invalid, match="a disk has from"):
        inspect(upload)


def test_rubbish_behind_a_good_beginning(store: ImageStore, tmp_path: Path) -> None:
    for seed, magic in enumerate((b"vhdxfile", b"KDMV", b"conectix", bytes(64) + b"\x7f\x10\xda\xbe")):
        upload = tmp_path / "upload"
        upload.write_bytes(magic + random.Random(seed).randbytes(300_000))
        with pytest.raises(Invalid):
            import_disk(upload, store, "mine")


def test_formats_are_known_by_content(raw: Path) -> None:
    expected = {
        "vmdk": Format.VMDK,
        "vhdx": Format.VHDX,
        "vhd": Format.VHD,
        "vhd, fixed": Format.VHD,
        "vdi": Format.VDI,
    }
    assert {kind: inspect(foreign(raw, kind)).format for kind in expected} == expected
