"""Images of the catalogue on their way here: what their publisher says is asked first, and all must agree with it."""

import gzip
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.images import fetch
from paddock.images.progress import BuildStatus, read_status
from paddock.images.published import Source, mirrored
from paddock.machine.spec import MIB
from tests.images.keys import Publisher
from tests.images.website import Answer, Website

DATA = random.Random(6).randbytes(300_000)
SUM = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def site() -> Iterator[Website]:
    with Website() as website:
        yield website


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publisher]:
    publisher = Publisher(tmp_path_factory.mktemp("keys") / "gpg", "publisher")
    yield publisher
    publisher.close()


def published(site: Website, data: bytes = DATA, name: str = "disk.img", **more: Any) -> Source:
    """A publisher's folder: the image and its checksum."""
    site.serves(f"/{name}", data, ETag='"v1"')
    site.serves("/SHA256SUMS", f"{hashlib.sha256(data).hexdigest()} *{name}\n".encode(), ETag='"s1"')
    return Source(url=site.url("/SHA256SUMS"), file=name, **more)


def fetched(tmp_path: Path, site: Website, source: Source, **more: Any) -> BuildStatus:
    """What becomes of it, in this process; what is there of an earlier try is gone on with."""
    job = tmp_path / "job"
    job.mkdir(exist_ok=True)
    about = {"anywhere": True, "reserve": 0, "max_size": 8 * MIB, "source": source, **more}
    wanted = fetch.Request(url=site.url(f"/{source.file}"), target=tmp_path / "image", **about)
    (job / "request.json").write_text(wanted.model_dump_json())
    try:
        fetch.fetch(job)
    except Exception:
        assert read_status(job / "status.json").state == "failed"
    return read_status(job / "status.json")


def test_what_comes_is_what_its_publisher_says(tmp_path: Path, site: Website) -> None:
    done = fetched(tmp_path, site, published(site))
    assert (done.state, done.version) == ("ready", f"sha256:{SUM[:32]}"), done.error
    assert done.verified == "checksum by plain http; not signed by its publisher"
    assert (tmp_path / "image").read_bytes() == DATA


def test_packed_by_its_publisher(tmp_path: Path, site: Website) -> None:
    done = fetched(tmp_path, site, published(site, gzip.compress(DATA, mtime=0), "disk.img.gz"))
    assert done.state == "ready", done.error
    assert (tmp_path / "image").read_bytes() == DATA


def test_sha512(tmp_path: Path, site: Website) -> None:
    source = published(site, algorithm="sha512")
    site.serves("/SHA256SUMS", f"{hashlib.sha512(DATA).hexdigest()}  disk.img\n".encode())
    assert fetched(tmp_path, site, source).state == "ready"
    site.serves("/SHA256SUMS", f"{'0' * 128}  disk.img\n".encode())
    assert "sha512 is" in fetched(tmp_path, site, source).error


def test_another_file_than_its_publisher_says(tmp_path: Path, site: Website) -> None:
    source = published(site)
    site.serves("/disk.img", DATA[:-1] + b"!")
    done = fetched(tmp_path, site, source)
    assert f"not {SUM}" in done.error
    assert not (tmp_path / "image").exists()
    assert not (tmp_path / "job" / "part").exists()


@pytest.mark.parametrize("answer", ["missing", "html", "endless", "empty"])
def test_a_list_that_can_not_be_had(tmp_path: Path, site: Website, answer: str) -> None:
    """Not one byte of the image is asked for then."""
    source = published(site)

    def bad(request: Answer) -> None:
        if answer == "missing":
            return request.begin(404, Content_Length=0)
        request.begin(200)
        text = {"html": b"<html>sign in</html>", "empty": b"", "endless": b"x" * MIB}[answer]
        for _ in range(16 if answer == "endless" else 1):
            request.wfile.write(text)
        return request.cut()

    site.behaviours["/SHA256SUMS"] = bad
    done = fetched(tmp_path, site, source)
    assert done.state == "failed"
    words = {"missing": "answered 404", "endless": "over 4 MiB"}.get(answer, "no sha256 checksum of disk.img")
    assert words in done.error
    assert [path for path, _ in site.asked if path == "/disk.img"] == []


def test_only_a_look_fetches_no_image(tmp_path: Path, site: Website) -> None:
    done = fetched(tmp_path, site, published(site), only_look=True)
    assert (done.state, done.version) == ("ready", f"sha256:{SUM[:32]}")
    assert [path for path, _ in site.asked] == ["/SHA256SUMS"]


def test_cut_off_and_gone_on_with(tmp_path: Path, site: Website) -> None:
    source = published(site)
    good = site.behaviours["/disk.img"]

    def half(answer: Answer) -> None:
        site.behaviours["/disk.img"] = good
        answer.begin(200, Content_Length=len(DATA), ETag='"v1"')
        answer.wfile.write(DATA[:100_000])
        answer.cut()

    site.behaviours["/disk.img"] = half
    assert fetched(tmp_path, site, source).state == "ready"
    assert [h.get("range") for path, h in site.asked if path == "/disk.img"] == [None, "bytes=100000-"]


def test_the_list_is_asked_for_anew_after_a_fall(tmp_path: Path, site: Website) -> None:
    """What an earlier try left of it is not believed."""
    source = published(site)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "checksums").write_text(f"{'0' * 64}  disk.img\n")
    assert fetched(tmp_path, site, source).state == "ready"


def test_signed_and_checked(tmp_path: Path, site: Website, publisher: Publisher) -> None:
    source = published(site, publisher="me", signature=site.url("/SHA256SUMS.gpg"), keyring=publisher.keyring)
    site.serves("/SHA256SUMS.gpg", publisher.detached(f"{SUM} *disk.img\n".encode()))
    done = fetched(tmp_path, site, source)
    assert done.state == "ready", done.error
    assert done.verified == f"signed by me, checked with {publisher.keyring}"


def test_a_bad_signature_of_the_list(tmp_path: Path, site: Website, publisher: Publisher) -> None:
    source = published(site, publisher="me", signature=site.url("/SHA256SUMS.gpg"), keyring=publisher.keyring)
    site.serves("/SHA256SUMS.gpg", publisher.detached(b"another list"))
    assert "is not good: " in fetched(tmp_path, site, source).error
    assert [path for path, _ in site.asked if path == "/disk.img"] == []


@pytest.mark.parametrize("good", [True, False])
def test_the_image_itself_is_signed(tmp_path: Path, site: Website, publisher: Publisher, good: bool) -> None:
    about: dict[str, Any] = {
        "publisher": "me",
        "signature": site.url("/sig"),
        "signature_of": "image",
        "keyring": publisher.keyring,
    }
    source = published(site, **about)
    site.serves("/sig", publisher.detached(DATA if good else b"another disk"))
    assert fetched(tmp_path, site, source).state == ("ready" if good else "failed")
    assert (tmp_path / "image").exists() == good


def test_too_little_room_is_said_before_it_is_fetched(tmp_path: Path, site: Website) -> None:
    """For the file, and for the image that is made of it."""
    source = published(site)

    def large(answer: Answer) -> None:
        answer.begin(200, Content_Length=2**50)

    site.behaviours["/disk.img"] = large
    done = fetched(tmp_path, site, source, max_size=2**60)
    assert (
        f"{2**50 // MIB} MiB are to be fetched and {2**51 // MIB} MiB needed for it and what is made of it"
        in done.error
    )
    reserve = fetched(tmp_path, site, published(site), reserve=2**50)
    assert "no room for the download" in reserve.error


@pytest.mark.parametrize(("mirror", "expected"), [
    ("", "https://a.example.org/b/c"),
    ("http://mirror.lan", "http://mirror.lan/a.example.org/b/c"),
    ("https://mirror.lan/images/", "https://mirror.lan/images/a.example.org/b/c"),
])  # fmt: skip
def test_a_mirror(mirror: str, expected: str) -> None:
    assert mirrored("https://a.example.org/b/c", mirror) == expected
    assert mirrored("", mirror) == ""
