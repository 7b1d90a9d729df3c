"""Tar files of somebody hostile: what they want to write outside, and what they want to cost."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paddock.base.errors import Invalid, Refused
from paddock.base.unpack import Unpacked, unpack

MOST = 1 << 20


def entry(name: str, data: bytes | None = None, **more: Any) -> tuple[tarfile.TarInfo, io.BytesIO | None]:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data or b""), 0o644, 1_000_000
    for key, value in more.items():
        setattr(info, key, value)
    return info, io.BytesIO(data) if data is not None else None


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, None]:
    return entry(name, type=kind, linkname=to)[0], None


def directory(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, None]:
    return entry(name, type=tarfile.DIRTYPE, mode=mode)[0], None


def packed(*entries: tuple[tarfile.TarInfo, io.BytesIO | None]) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, data in entries:
            tar.addfile(info, data)
    file.seek(0)
    return file


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("untouched")
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def test_what_is_good(target: Path) -> None:
    told: list[int] = []
    tar = packed(
        directory("."), directory("./a", 0o500), entry("./a/file", b"x" * 5000, mode=0o4751), entry("./empty", b""),
        link("./a/near", "file"), link("./up", "a/file"), link("./a/over", "../empty"),
        link("./hard", "./a/file", tarfile.LNKTYPE), entry("deep/er/file", b"y"),
    )  # fmt: skip
    done = unpack(tar, target, MOST, told.append)
    assert (done.files, done.directories, done.links, done.bytes, done.left_out) == (3, 2, 4, 5001, [])
    assert sum(told) == 5001
    assert (target / "a/file").read_bytes() == b"x" * 5000
    assert (target / "a/file").stat().st_mode & 0o7777 == 0o751  # and no set-user-id
    assert (target / "a").stat().st_mode & 0o777 == 0o700
    assert (target / "a/file").stat().st_mtime == 1_000_000
    assert (target / "up").read_bytes() == (target / "hard").read_bytes() == b"x" * 5000
    assert os.readlink(target / "a/over") == "../empty"


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside", "..", "a/" * 300 + "f"])
def test_names_that_lead_out_are_refused(target: Path, name: str) -> None:
    with pytest.raises(Refused, match="outside of its directory"):
        unpack(packed(entry(name, b"evil")), target, MOST)
    assert (target.parent / "outside").read_text() == "untouched"


@pytest.mark.parametrize("to", ["/etc/passwd", "..", "../outside", "a/../../outside", "L/L/../../outside", "./a/.."])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_that_lead_out_are_left_out(target: Path, to: str, kind: bytes) -> None:
    done = unpack(packed(directory("a"), link("L", "."), link("x", to, kind)), target, MOST)
    assert len(done.left_out) == 1
    assert "it leads out" in done.left_out[0]
    assert not os.path.lexists(target / "x")


def test_nothing_is_written_through_a_link(target: Path) -> None:
    for to in (".", "a"):
        with pytest.raises(Refused, match="through 'L'"):
            unpack(packed(directory("a"), link("L", to), entry("L/evil", b"evil")), fresh(target, to), MOST)
    (target / "door").symlink_to("..")  # as if something else had planted it
    with pytest.raises(Refused, match="through 'door'"):
        unpack(packed(entry("door/outside", b"evil")), target, MOST)
    assert (target.parent / "outside").read_text() == "untouched"


def fresh(target: Path, name: str) -> Path:
    path = target.parent / f"fresh-{len(name)}-{name.strip('.')}"
    path.mkdir()
    return path


def test_a_name_comes_once(target: Path) -> None:
    with pytest.raises(Refused, match="twice"):
        unpack(packed(link("f", "elsewhere"), entry("f", b"evil")), target, MOST)
    assert not (target / "elsewhere").exists()


def test_devices_are_left_out(target: Path) -> None:
    kinds = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    done = unpack(packed(*((entry(f"d{n}", type=k)[0], None) for n, k in enumerate(kinds))), target, MOST)
    assert len(done.left_out) == 3
    assert not list(target.iterdir())


def test_more_than_is_allowed(target: Path) -> None:
    with pytest.raises(Invalid, match="more than the allowed 10 bytes"):
        unpack(packed(entry("a", b"x" * 6), entry("b", b"x" * 6)), target, 10)


def huge_header(kind: bytes) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 1 << 40
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("damage", [
    lambda: b"", lambda: b"nonsense" * 1000, lambda: packed(entry("a", b"x" * 5000)).getvalue()[:2000],
    lambda: huge_header(tarfile.GNUTYPE_LONGNAME) + bytes(2048), lambda: huge_header(tarfile.XHDTYPE) + bytes(2048),
    lambda: huge_header(tarfile.XGLTYPE) + bytes(2048),
])  # fmt: skip
def test_what_is_no_tar(target: Path, damage: Callable[[], bytes]) -> None:
    with pytest.raises(Refused):
        unpack(io.BytesIO(damage()), target, MOST)


def test_sparse_files_are_as_large_as_they_look(target: Path) -> None:
    pax = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(1 << 50),
        "GNU.sparse.name": "s",
    }
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = entry("s", b"1\n0\n0\n".ljust(512, b"\0"))
        info[0].pax_headers = pax
        tar.addfile(*info)
    file.seek(0)
    with pytest.raises((Invalid, Refused)):
        unpack(file, target, MOST)


def test_entries_are_counted() -> None:
    assert Unpacked(1, 2, 3, 100, ["x"]).entries == 7
