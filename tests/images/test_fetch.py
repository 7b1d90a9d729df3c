"""Fetching in a process of its own: checked, unpacked, cancelled, killed and gone on with."""

import gzip
import hashlib
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.base import clock
from paddock.images import fetch
from paddock.images.progress import BuildStatus, read_status
from paddock.machine.spec import MIB
from tests.images.website import Answer, Website

DATA = random.Random(5).randbytes(300_000)  # the same in every process of a test run
SHA256 = hashlib.sha256(DATA).hexdigest()
PACKED = gzip.compress(DATA, mtime=0)


@pytest.fixture
def site() -> Iterator[Website]:
    with Website() as website:
        yield website


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Path]:
    job = tmp_path / "fetch-1"
    yield job
    until(lambda: fetch.cancel(job))


def until(done: Any, seconds: float = 20) -> None:
    end = clock.monotonic() + seconds
    while not done():
        assert clock.monotonic() < end, "it did not come to that"
        clock.sleep(0.02)


def request(job: Path, url: str, **more: Any) -> fetch.Request:
    return fetch.Request(url=url, target=job.parent / "image-1", anywhere=True, reserve=0, max_size=8 * MIB, **more)


def run_through(job: Path, wanted: fetch.Request) -> BuildStatus:
    """What becomes of it, in this process: what the process of its own does."""
    job.mkdir()
    (job / "request.json").write_text(wanted.model_dump_json())
    try:
        fetch.fetch(job)
    except Exception:
        assert read_status(job / "status.json").state == "failed"
    return read_status(job / "status.json")


def test_from_start_to_end(site: Website, job: Path) -> None:
    wanted = request(job, site.serves("/disk.gz", PACKED), sha256=SHA256)
    assert fetch.status(job).state == "absent"
    fetch.start(job, wanted)
    fetch.start(job, wanted)  # changes nothing
    until(lambda: fetch.status(job).state != "building")
    assert fetch.status(job).state == "ready", fetch.status(job)
    assert wanted.target.read_bytes() == DATA
    assert wanted.target.stat().st_mode & 0o777 == 0o600
    fetch.start(job, wanted)  # it has ended
    assert len(site.asked) == 1
    until(lambda: fetch.cancel(job))
    assert not job.exists()


@pytest.mark.parametrize(("data", "sha256"), [
    (DATA, ""), (DATA, SHA256), (PACKED, SHA256), (PACKED, hashlib.sha256(PACKED).hexdigest()),
])  # fmt: skip
def test_checksums_of_the_file_as_sent_or_unpacked(site: Website, job: Path, data: bytes, sha256: str) -> None:
    status = run_through(job, request(job, site.serves("/disk", data), sha256=sha256))
    assert (status.state, (job.parent / "image-1").read_bytes() == DATA) == ("ready", True)


@pytest.mark.parametrize("data", [DATA, PACKED])
def test_a_wrong_checksum(site: Website, job: Path, data: bytes) -> None:
    status = run_through(job, request(job, site.serves("/disk", data), sha256="0" * 64))
    assert "sha256 is" in status.error
    assert SHA256 in status.error
    assert not (job.parent / "image-1").exists()
    assert not (job / "part").exists()
    assert not (job / "content").exists()


def test_a_bomb(site: Website, job: Path) -> None:
    status = run_through(job, request(job, site.serves("/disk", gzip.compress(b"x" * 9 * MIB))))
    assert "more than 8 MiB" in status.error
    assert not (job / "content").exists()


def test_not_there(site: Website, job: Path) -> None:
    site.behaviours["/disk"] = lambda answer: answer.begin(404, Content_Length=0)
    fetch.start(job, request(job, site.url("/disk")))
    until(lambda: fetch.status(job).state == "failed")
    assert "answered 404" in fetch.status(job).error


def test_a_private_address_is_refused(site: Website, job: Path) -> None:
    wanted = request(job, site.serves("/disk", DATA)).model_copy(update={"anywhere": False})
    status = run_through(job, wanted)
    assert "no address of the open internet" in status.error
    assert site.asked == []


def held(site: Website, path: str, first: int) -> str:
    """A server that sends the beginning, and then nothing for long; asked for the rest, it gives it."""
    url = site.serves(path, DATA, ETag='"v1"')
    good = site.behaviours[path]

    def hold(answer: Answer) -> None:
        site.behaviours[path] = good
        answer.begin(200, Content_Length=len(DATA), ETag='"v1"')
        answer.wfile.write(DATA[:first])
        clock.sleep(1)

    site.behaviours[path] = hold
    return url


def fetched(job: Path) -> int:
    try:
        return (job / "part").stat().st_size
    except FileNotFoundError:
        return 0


def test_cancelled_on_the_way(site: Website, job: Path) -> None:
    wanted = request(job, held(site, "/disk", 1000))
    fetch.start(job, wanted)
    until(lambda: fetched(job) == 1000)
    until(lambda: fetch.cancel(job))
    assert not job.exists()
    assert not wanted.target.exists()
    assert fetch.cancel(job)  # again


def test_killed_on_the_way(site: Website, job: Path) -> None:
    """As by the host's fall: started again, it goes on where it was."""
    wanted = request(job, held(site, "/disk", 1000), sha256=SHA256)
    fetch.start(job, wanted)
    until(lambda: fetched(job) == 1000)
    os.kill(fetch.status(job).pid, signal.SIGKILL)
    until(lambda: fetch.status(job).state == "absent")
    fetch.start(job, wanted)
    until(lambda: fetch.status(job).state != "building")
    assert fetch.status(job).state == "ready", fetch.status(job)
    assert wanted.target.read_bytes() == DATA
    assert site.asked[-1][1]["range"] == "bytes=1000-"


def test_a_fetcher_that_always_dies(site: Website, job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "spawn", lambda *_, **__: None)
    wanted = request(job, site.url("/disk"))
    for _ in range(fetch.MAX_STARTS + 1):
        fetch.start(job, wanted)
        (job / "log").write_text("out of memory")
    assert "died 10 times: out of memory" in fetch.status(job).error


def test_urls_are_no_arguments(site: Website, job: Path) -> None:
    """A URL may hold a secret, and anybody on the host may read arguments."""
    fetch.start(job, request(job, held(site, "/disk", 10) + "?key=hunter2"))
    until(lambda: fetched(job) == 10)
    assert b"hunter2" not in Path(f"/proc/{fetch.status(job).pid}/cmdline").read_bytes()
    assert b"hunter2" not in (job / "log").read_bytes()
    assert (job / "request.json").stat().st_mode & 0o777 == 0o600
