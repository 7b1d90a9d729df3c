"""What strangers send: every lie of a qcow2 header is found before QEMU sees the file."""

import gzip
import struct
from pathlib import Path

import pytest

from paddock.base.errors import Invalid
from paddock.base.run import run
from paddock.images.inspect import Format, Found, inspect
from paddock.machine.spec import MIB


def _qcow2(path: Path, *options: str, size: str = "8M") -> Path:
    run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, size])
    return path


def _patch(path: Path, offset: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


def _u32(value: int) -> bytes:
    return struct.pack(">I", value)


def _u64(value: int) -> bytes:
    return struct.pack(">Q", value)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-o", "compat=0.10"),
        ("-o", "cluster_size=512"),
        ("-o", "cluster_size=2M"),
        ("-o", "extended_l2=on,cluster_size=128k"),
        ("-o", "compression_type=zstd"),
        ("-o", "lazy_refcounts=on"),
        ("-o", "preallocation=metadata"),
    ],
)
def test_what_qemu_img_makes_is_accepted(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert inspect(_qcow2(tmp_path / "d", *options)) == Found(Format.QCOW2, 8 * MIB)


@pytest.mark.parametrize("size", ["512", "3T"])
def test_small_and_large_disks_are_accepted(tmp_path: Path, size: str) -> None:
    assert inspect(_qcow2(tmp_path / "d", size=size)).format is Format.QCOW2


def test_a_backing_file_is_refused(tmp_path: Path) -> None:
    base = _qcow2(tmp_path / "base")
    with pytest.raises(Invalid, match="backing file"):
        inspect(_qcow2(tmp_path / "d", "-b", str(base), "-F", "qcow2"))


def test_an_external_data_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="another file"):
        inspect(_qcow2(tmp_path / "d", "-o", f"data_file={tmp_path / 'data'}"))


def test_an_encrypted_disk_is_refused(tmp_path: Path) -> None:
    secret = ["--object", "secret,id=s,data=geheim"]
    run(["qemu-img", "create", "-q", *secret, "-f", "qcow2", "-o", "encrypt.format=aes,encrypt.key-secret=s",
         tmp_path / "d", "8M"])  # fmt: skip
    with pytest.raises(Invalid, match="encrypted"):
        inspect(tmp_path / "d")


def test_an_internal_snapshot_is_refused(tmp_path: Path) -> None:
    disk = _qcow2(tmp_path / "d")
    run(["qemu-img", "snapshot", "-c", "s", disk])
    with pytest.raises(Invalid, match="snapshots"):
        inspect(disk)


@pytest.mark.parametrize(
    ("offset", "data", "says"),
    [
        (4, _u32(7), "version 7"),
        (8, _u64(4096), "backing file"),
        (16, _u32(12), "backing file"),
        (20, _u32(30), "clusters"),
        (20, _u32(8), "clusters"),
        (24, _u64(2**62), "L1"),
        (24, _u64(0), "0 bytes"),
        (32, _u32(1), "encrypted"),
        (36, _u32(2**30), "L1"),
        (36, _u32(0), "L1"),
        (40, _u64(2**40), "L1 table is not within"),
        (40, _u64(0), "L1 table is not within"),
        (48, _u64(2**40), "refcount table is not within"),
        (48, _u64(1), "refcount table is not within"),
        (56, _u32(2**31), "refcount table is not within"),
        (60, _u32(3), "snapshots"),
        (72, _u64(2), "corrupt"),
        (72, _u64(4), "another file"),
        (72, _u64(1 << 40), "features"),
        (96, _u32(9), "damaged"),
        (100, _u32(7), "damaged"),
        (112, _u32(0xE2792ACA) + _u32(5) + b"qcow2", "names another file"),
        (112, _u32(0x44415441) + _u32(5) + b"/etc/", "names another file"),
        (112, _u32(0x12345678) + _u32(2**31), "extensions"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, offset: int, data: bytes, says: str) -> None:
    with pytest.raises(Invalid, match=says) as error:
        inspect(_patch(_qcow2(tmp_path / "d"), offset, data))
    assert error.value.field == "content"
    assert error.value.hint


@pytest.mark.parametrize("length", [1, 3, 50, 103, 4096, 70_000])
def test_a_truncated_qcow2_is_refused(tmp_path: Path, length: int) -> None:
    disk = _qcow2(tmp_path / "d", size="1G")
    disk.write_bytes(disk.read_bytes()[:length])
    with pytest.raises(Invalid):
        inspect(disk)


def test_a_raw_disk_with_a_boot_sector_is_accepted(tmp_path: Path) -> None:
    raw = tmp_path / "looks-like.qcow2"
    raw.write_bytes(bytes(510) + b"\x55\xaa" + bytes(MIB - 512))
    assert inspect(raw) == Found(Format.RAW, MIB)


def test_a_raw_disk_that_is_a_file_system_is_accepted(tmp_path: Path) -> None:
    run(["mke2fs", "-q", "-F", tmp_path / "d", "1M"])
    assert inspect(tmp_path / "d") == Found(Format.RAW, MIB)


@pytest.mark.parametrize(("magic", "at"), [(b"XFSB", 0), (b"_BHRfS_M", 0x10040), (b"\xe2\xe1\xf5\xe0", 1024)])
def test_file_systems_without_a_partition_are_accepted(tmp_path: Path, magic: bytes, at: int) -> None:
    (tmp_path / "d").write_bytes((bytes(at) + magic).ljust(1 << 20, b"\0"))
    assert inspect(tmp_path / "d") == Found(Format.RAW, 1 << 20)


def test_a_raw_disk_cut_within_a_sector_is_refused(tmp_path: Path) -> None:
    raw = tmp_path / "d"
    raw.write_bytes(bytes(510) + b"\x55\xaa" + bytes(700))
    with pytest.raises(Invalid, match="within a sector"):
        inspect(raw)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"hello", "not a disk"),
        (bytes(1_000_000), "not a disk"),
        (gzip.compress(b"x" * 100, mtime=0), "gzip"),
        (b"\xfd7zXZ\0" + bytes(600), "xz"),
        (b"KDMV" + bytes(600), "VMDK"),
        (bytes(64) + b"\x7f\x10\xda\xbe" + bytes(600), "0 bytes"),
        (bytes(32769) + b"CD001" + bytes(600), "ISO 9660"),
        (bytes(510) + b"\x55\xaa" + bytes(32769 - 512) + b"CD001" + bytes(600), "ISO 9660"),
        (bytes(257) + b"ustar" + bytes(600), "tar"),
        (bytes(2048) + b"conectix" + bytes(504), "VHD"),
        (b"<!DOCTYPE html>" + bytes(600), "HTML"),
    ],
)
def test_other_things_are_named_for_what_they_are(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(data)
    with pytest.raises(Invalid, match=says):
        inspect(path)


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/shadow")
    with pytest.raises(Invalid):
        inspect(tmp_path / "link")
