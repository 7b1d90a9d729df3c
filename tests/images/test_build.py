"""The builder: a process of its own whose death, at any time, is seen and harmless."""

import fcntl
import os
import signal
import sys
from pathlib import Path

import pytest

from paddock.base.clock import monotonic, sleep
from paddock.base.errors import Invalid
from paddock.base.run import run, spawn
from paddock.images.build import build_status, start_build
from paddock.images.progress import BuildStatus, StatusFile
from paddock.images.store import ImageStore


def _wait(store: Path, work: Path, *, until: str = "", timeout: float = 300) -> list[BuildStatus]:
    """All that was seen until the build ended, or did what `until` says."""
    seen = [build_status("tiny", store, work)]
    end = monotonic() + timeout
    while seen[-1].state == "building" and seen[-1].doing != (until or None):
        assert monotonic() < end, seen[-1]
        sleep(0.05)
        seen.append(build_status("tiny", store, work))
    return seen


def _leftovers(work: Path) -> list[str]:
    return [p.name for p in work.glob("*.work-*")]


def test_nothing_was_ever_built(tmp_path: Path) -> None:
    assert build_status("tiny", tmp_path / "images", tmp_path / "work").state == "absent"


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="debian-12") as error:
        start_build("windows", tmp_path / "images", tmp_path / "work")
    assert error.value.field == "image"


def test_a_builder_that_went_away_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    StatusFile(tmp_path / "tiny.status.json").change(doing="fetching packages", percent=30)
    (tmp_path / "tiny.log").write_text("all of it\nout of luck\n")
    status = build_status("tiny", tmp_path / "images", tmp_path)
    assert status.state == "failed"
    assert status.error.startswith("the builder ended while fetching packages")
    assert status.error.endswith("out of luck")


def test_a_builder_that_lives_is_not_started_twice(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with (tmp_path / "images/.build-tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        StatusFile(tmp_path / "tiny.status.json").change(doing="fetching packages", percent=30)
        start_build("tiny", tmp_path / "images", tmp_path)
        assert build_status("tiny", tmp_path / "images", tmp_path).percent == 30
    assert not (tmp_path / "tiny.log").exists()


def test_a_store_that_cannot_be_written_fails_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("a file, where not even root can make another\n")
    done = run(
        [sys.executable, "-m", "paddock.images.build", "tiny", "--store", tmp_path / "images", "--work", tmp_path],
        check=False,
    )
    assert done.code == 1
    assert f"File exists: '{tmp_path / 'images'}'" in done.stderr


@pytest.mark.slow
def test_a_build_tells_how_far_it_is_and_is_done_once(tmp_path: Path) -> None:
    store, work = tmp_path / "images", tmp_path / "work"
    start_build("tiny", store, work)
    start_build("tiny", store, work)
    seen = _wait(store, work)
    assert seen[-1].state == "ready", seen[-1].error
    assert [s.percent for s in seen] == sorted(s.percent for s in seen)
    assert len({s.doing for s in seen}) > 3
    assert [m.sha256 for m in ImageStore(store).list()] == [seen[-1].sha256]
    ImageStore(store).verify(seen[-1].sha256)
    assert _leftovers(work) == []
    start_build("tiny", store, work)
    assert build_status("tiny", store, work) == seen[-1], "a finished build was begun again"


@pytest.mark.slow
@pytest.mark.parametrize("doing", ["reading package lists", "fetching packages", "making the disk"])
def test_a_killed_builder_is_seen_and_the_next_one_cleans_up(tmp_path: Path, doing: str) -> None:
    store, work = tmp_path / "images", tmp_path / "work"
    start_build("tiny", store, work)
    pid = _wait(store, work, until=doing)[-1].pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert build_status("tiny", store, work).state == "failed"
    assert len(_leftovers(work)) == 1
    start_build("tiny", store, work)
    assert _wait(store, work)[-1].state == "ready"
    assert _leftovers(work) == []
    assert len(ImageStore(store).list()) == 1


@pytest.mark.slow
def test_a_second_builder_waits_for_the_first_and_ends_the_same_way(tmp_path: Path) -> None:
    store, work = tmp_path / "images", tmp_path / "work"
    start_build("tiny", store, work)
    argv = [sys.executable, "-m", "paddock.images.build", "tiny", "--store", str(store), "--work", str(work)]
    second = spawn(argv, output=tmp_path / "second.log")
    try:
        assert _wait(store, work)[-1].state == "ready"
        assert second.wait(timeout=30) == 0
    finally:
        second.kill()
        second.wait()
    assert "another builder has just ended" in (tmp_path / "second.log").read_text()
    assert len(ImageStore(store).list()) == 1
