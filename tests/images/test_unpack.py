"""What was compressed is unpacked within limits: of size, of room, of memory."""

import bz2
import gzip
import lzma
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from paddock.base.errors import DiskFull, Invalid, PaddockError
from paddock.base.run import run
from paddock.images.unpack import is_compressed, unpack
from paddock.machine.spec import MIB

DATA = random.Random(6).randbytes(100_000) + bytes(3 * MIB) + b"the end"


def zstd(data: bytes) -> bytes:
    """Packed by the program, which wants files."""
    source, packed = Path(os.environ["ZSTD_WORK"]) / "raw", Path(os.environ["ZSTD_WORK"]) / "raw.zst"
    source.write_bytes(data)
    run(["zstd", "-q", "-f", source, "-o", packed])
    return packed.read_bytes()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSTD_WORK", str(tmp_path))


def unpacked(tmp_path: Path, data: bytes, *, size: int = 64 * MIB, reserve: int = 0) -> Path:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    assert is_compressed(source)
    unpack(source, target, size=size, reserve=reserve)
    return target


@pytest.mark.parametrize("kind", PACKERS)
def test_every_kind(tmp_path: Path, kind: str) -> None:
    target = unpacked(tmp_path, PACKERS[kind](DATA))
    assert target.read_bytes() == DATA
    assert target.stat().st_blocks * 512 < MIB, "zeros should take no room"


@pytest.mark.parametrize("kind", PACKERS)
def test_several_in_a_row(tmp_path: Path, kind: str) -> None:
    pack = PACKERS[kind]
    assert unpacked(tmp_path, pack(b"one") + pack(b"two") + pack(b"three")).read_bytes() == b"onetwothree"


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("filler", [bytes(MIB), b"x" * MIB], ids=["zeros", "text"])
def test_a_bomb(tmp_path: Path, kind: str, filler: bytes) -> None:
    with pytest.raises(Invalid, match="more than 4 MiB"):
        unpacked(tmp_path, PACKERS[kind](filler * 10), size=4 * MIB)
    assert (tmp_path / "target").stat().st_size <= 4 * MIB


@pytest.mark.parametrize("kind", PACKERS)
def test_no_room(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DiskFull, match="no room"):
        unpacked(tmp_path, PACKERS[kind](DATA), reserve=2**60)


@pytest.mark.parametrize("kind", PACKERS)
def test_cut_short(tmp_path: Path, kind: str) -> None:
    packed = PACKERS[kind](DATA)
    with pytest.raises(Invalid, match="can't be unpacked"):
        unpacked(tmp_path, packed[: len(packed) // 2])


@pytest.mark.parametrize("kind", PACKERS)
def test_damaged(tmp_path: Path, kind: str) -> None:
    packed = bytearray(PACKERS[kind](DATA))
    packed[len(packed) // 3] ^= 0xFF
    with pytest.raises(PaddockError):
        unpacked(tmp_path, bytes(packed))


def test_padding_is_no_harm_and_rubbish_is(tmp_path: Path) -> None:
    assert unpacked(tmp_path, gzip.compress(DATA) + bytes(512)).read_bytes() == DATA
    with pytest.raises(Invalid, match="something follows"):
        unpacked(tmp_path, gzip.compress(DATA) + b"rubbish" * 100)


def test_xz_may_not_take_all_memory(tmp_path: Path) -> None:
    huge = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}]
    with pytest.raises(Invalid, match="limit"):
        unpacked(tmp_path, lzma.compress(b"x" * 1000, filters=huge))


def test_what_is_not_compressed(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"QFI\xfb" + DATA)
    assert not is_compressed(tmp_path / "raw")
    (tmp_path / "raw").write_bytes(b"")
    assert not is_compressed(tmp_path / "raw")


def test_room_that_ends_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter([2**40, 0])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(left, 0)))
    with pytest.raises(DiskFull):
        unpacked(tmp_path, gzip.compress(b"x" * 100 * MIB, 1), size=200 * MIB, reserve=1)
