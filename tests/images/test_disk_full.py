"""A file system that really is full, at every copy on the way of an image: it is said, and nothing is left behind."""

import gzip
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.base.errors import DiskFull
from paddock.base.run import run
from paddock.images import importer, unpack
from paddock.images.download import Limits, download
from paddock.images.importer import import_disk
from paddock.images.store import ImageStore
from paddock.machine.image import Role
from paddock.machine.spec import MIB
from tests.images.website import Website

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
DATA = bytes(510) + b"\x55\xaa" + random.Random(9).randbytes(6 * MIB - 512)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", place])
    yield place
    run(["umount", "-l", place])


def nothing_left(place: Path) -> bool:
    return sum(p.stat().st_size for p in place.rglob("*") if p.is_file()) == 0


def test_while_it_is_fetched(small: Path) -> None:
    """Nobody says how large it is, so that it can't be known before."""
    with Website() as site:

        def endless(answer: object) -> None:
            site.behaviours.clear()
            answer.begin(200)  # type: ignore[attr-defined]
            answer.wfile.write(DATA)  # type: ignore[attr-defined]
            answer.cut()  # type: ignore[attr-defined]

        site.behaviours["/disk"] = endless
        limits = Limits(reserve=0, tries=1)
        with pytest.raises(DiskFull, match="no room for the download"):
            download(site.url("/disk"), small / "part", anywhere=True, limits=limits, say=lambda *_: None)


def test_said_before_it_is_fetched(small: Path) -> None:
    with Website() as site:
        url, limits = site.serves("/disk", DATA), Limits(reserve=0, tries=1)
        with pytest.raises(DiskFull, match="there is room for 4 MiB"):
            download(url, small / "part", anywhere=True, limits=limits, say=lambda *_: None)
    assert not (small / "part").exists()


def test_while_it_is_unpacked(small: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(DATA, 1))
    with pytest.raises(DiskFull):
        unpack.unpack(packed, small / "content", size=64 * MIB, reserve=0)


@pytest.mark.parametrize("apart", [False, True])
def test_while_it_is_converted(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool) -> None:
    """Where the look before was wrong: somebody else takes the room meanwhile. An upload on another file system is
    copied first."""
    upload = (tmp_path if apart else small) / "raw"
    upload.write_bytes(DATA if apart else DATA[: 5 * MIB // 2])
    monkeypatch.setattr(importer, "_check_room", lambda *_: None)
    with pytest.raises(DiskFull, match="no room was left"):
        import_disk(upload, ImageStore(small / "images"), "mine")
    assert nothing_left(small / "images")


@pytest.mark.parametrize("apart", [False, True])
def test_said_before_it_is_converted(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool) -> None:
    upload = (tmp_path if apart else small) / "raw"
    upload.write_bytes(DATA if apart else DATA[: 5 * MIB // 2])
    monkeypatch.setattr(importer, "_RESERVE", 0)
    with pytest.raises(DiskFull, match="the image takes up to"):
        import_disk(upload, ImageStore(small / "images"), "mine")
    assert nothing_left(small / "images")


def test_while_it_is_put_into_the_store(small: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(DATA)
    with pytest.raises(DiskFull, match="no room is left"):
        ImageStore(small / "images").publish({Role.DISK: disk}, name="mine", disk_size=len(DATA))
    assert nothing_left(small)
    assert disk.read_bytes() == DATA, "what was to be moved is still there"
