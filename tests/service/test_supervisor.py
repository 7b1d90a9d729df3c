"""The supervisor on small processes: stages, restarts, stopping, and its own violent death."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.base import clock
from paddock.base.statedir import StateDir
from paddock.service import procs
from paddock.service.supervisor import recorded

SLEEP = ["sleep", "600"]


class Run:
    """A supervisor under test."""

    def __init__(self, directory: StateDir, table: list[dict[str, Any]]) -> None:
        argv = [sys.executable, "-m", "tests.service.runner", str(directory.root), json.dumps(table)]
        self.directory = directory
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self.seen: list[str] = []

    def until(self, pattern: str) -> str:
        """Read events up to one that matches."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen.append(line.strip())
            if re.search(pattern, line):
                return line.strip()
        raise AssertionError(f"no {pattern!r} in {self.seen}")

    def mark(self, name: str) -> procs.Mark:
        row = next(r for r in recorded(self.directory) if r["name"] == name)
        return procs.Mark(row["pid"], row["start"])

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def supervise(directory: StateDir) -> Iterator[Any]:
    runs: list[Run] = []

    def begin(*table: dict[str, Any]) -> Run:
        runs.append(Run(directory, list(table)))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
        run.process.wait(10)
        assert run.process.stdout is not None
        run.process.stdout.close()


def shell(text: str) -> list[str]:
    return ["sh", "-c", text]


def order(run: Run, what: str) -> list[str]:
    return [line.split()[1] for line in run.seen if line.split()[0] == what]


def test_a_stage_begins_when_the_one_before_is_ready(supervise: Any, place: Path) -> None:
    flag = place / "flag"
    run = supervise(
        {"name": "late", "argv": SLEEP, "stage": 2},
        {"name": "first", "argv": shell(f"sleep 0.4; touch {flag}; sleep 600"), "ready": {"file": str(flag)}},
        {"name": "prepare", "argv": shell(f"test -e {flag}"), "stage": 1, "once": True},
    )
    run.until("^up")
    assert order(run, "starting") == ["first", "prepare", "late"]
    assert run.stop() == 0


def test_it_ends_them_in_order(supervise: Any) -> None:
    run = supervise(
        {"name": "last", "argv": SLEEP, "ends": 3},
        {"name": "first", "argv": SLEEP, "ends": 0},
        {"name": "between", "argv": SLEEP, "ends": 1},
    )
    run.until("^up")
    marks = [run.mark(n) for n in ("first", "between", "last")]
    run.process.send_signal(signal.SIGINT)
    run.until("^down")
    assert order(run, "stopped") == ["first", "between", "last"]
    assert not any(procs.alive(m) for m in marks)


@pytest.mark.slow
def test_what_exits_is_started_again_after_growing_pauses(supervise: Any, directory: StateDir) -> None:
    run = supervise({"name": "weak", "argv": shell("sleep 0.3; exit 7"), "ready": {"alive": 0.1}})
    begin = clock.monotonic()
    for _ in range(3):
        assert run.until("^restarting") == "restarting weak ended with exit code 7"
    assert clock.monotonic() - begin > 3  # 1 s and 2 s
    row = recorded(directory)[0]
    assert (row["state"], row["restarts"], row["why"]) == ("waiting", 2, "ended with exit code 7")


def test_what_is_killed_is_started_again(supervise: Any) -> None:
    run = supervise({"name": "victim", "argv": SLEEP})
    run.until("^up")
    first = run.mark("victim")
    procs.send(first, signal.SIGKILL)
    assert run.until("^restarting") == "restarting victim was ended by SIGKILL"
    run.until("^ready")
    assert run.mark("victim") != first


def test_a_start_that_fails_says_why_and_leaves_nothing(supervise: Any) -> None:
    run = supervise(
        {"name": "good", "argv": SLEEP},
        {"name": "bad", "argv": shell("echo the port is taken >&2; exit 3"), "stage": 1, "ready": {"alive": 5}},
    )
    said = run.until("^failed")
    assert "bad ended with exit code 3; it said: | the port is taken" in said
    run.until("^down")
    assert run.process.wait(10) == 1
    assert order(run, "stopped") == ["good"]


def test_a_log_of_an_earlier_start_is_not_shown_as_this_one(supervise: Any, directory: StateDir) -> None:
    (directory.log / "bad.log").write_text("an older error\n")
    run = supervise({"name": "bad", "argv": shell("exit 3"), "ready": {"alive": 5}})
    assert "an older error" not in run.until("^failed")


def test_a_process_that_never_becomes_ready_is_given_up(supervise: Any, place: Path) -> None:
    run = supervise({"name": "slow", "argv": SLEEP, "ready": {"file": str(place / "never")}, "start_within": 0.5})
    assert "slow was not ready within 0 s: it waits for a file" in run.until("^failed").replace(
        "within 0.5", "within 0"
    )
    run.until("^down")


def test_a_program_that_is_not_there_is_named(supervise: Any) -> None:
    run = supervise({"name": "odd", "argv": ["/no/such/program"], "ready": {"alive": 5}})
    assert "/no/such/program could not be started" in run.until("^failed")


def test_what_does_not_obey_is_killed(supervise: Any) -> None:
    deaf = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); print(1); time.sleep(600)"]
    run = supervise({"name": "deaf", "argv": deaf, "ready": {"alive": 0.5}, "signals": [(15, 0.5), (9, 5.0)]})
    run.until("^up")
    mark = run.mark("deaf")
    assert run.stop() == 0
    assert not procs.alive(mark)


def test_a_second_signal_does_not_wait(supervise: Any) -> None:
    deaf = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]
    run = supervise({"name": "deaf", "argv": deaf, "ready": {"alive": 0.5}, "signals": [(15, 60.0), (9, 5.0)]})
    run.until("^up")
    run.process.send_signal(signal.SIGINT)
    run.until("^stopping")
    begin = clock.monotonic()
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(20) == 0
    assert clock.monotonic() - begin < 10


def test_a_signal_while_starting_stops_it(supervise: Any, place: Path) -> None:
    run = supervise({"name": "slow", "argv": SLEEP, "ready": {"file": str(place / "never")}})
    run.until("^starting")
    mark = run.mark("slow")
    run.process.send_signal(signal.SIGTERM)
    run.until("^down")
    assert not procs.alive(mark)


def test_when_it_is_killed_its_children_end_but_the_untethered(supervise: Any) -> None:
    run = supervise(
        {"name": "bound", "argv": SLEEP},
        {"name": "free", "argv": SLEEP, "tethered": False},
    )
    run.until("^up")
    bound, free = run.mark("bound"), run.mark("free")
    run.process.kill()
    try:
        assert procs.wait_gone(bound, 5)
        assert procs.alive(free)
    finally:
        procs.send(free, signal.SIGKILL)


def test_what_outlived_a_killed_one_is_ended_by_the_next(supervise: Any) -> None:
    deaf = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]
    run = supervise({"name": "deaf", "argv": deaf, "ready": {"alive": 0.5}, "signals": [(10, 5.0), (9, 5.0)]})
    run.until("^up")
    row = recorded(run.directory)[0]
    run.process.kill()
    run.process.wait()
    mark = procs.Mark(row["pid"], row["start"])
    lingering = subprocess.Popen(SLEEP)
    rows = [{**row, "pid": lingering.pid, "start": procs.mark(lingering.pid).start}]  # type: ignore[union-attr]
    run.directory.status.write_text(json.dumps({"processes": rows}))
    again = supervise({"name": "other", "argv": SLEEP})
    assert again.until("^leftover") == "leftover deaf"
    assert lingering.wait(10) == -signal.SIGTERM
    again.until("^up")
    assert procs.wait_gone(mark, 5)


def test_a_pid_that_is_another_process_by_now_is_left_alone(supervise: Any, directory: StateDir) -> None:
    with subprocess.Popen(SLEEP) as stranger:
        rows = [{"name": "x", "pid": stranger.pid, "start": 1, "tethered": True}]
        directory.status.write_text(json.dumps({"processes": rows}))
        run = supervise({"name": "other", "argv": SLEEP})
        run.until("^up")
        assert "leftover" not in " ".join(run.seen)
        assert stranger.poll() is None
        stranger.kill()


def test_a_log_that_grows_is_capped(supervise: Any, directory: StateDir) -> None:
    (directory.log / "loud.log").write_bytes(b"x" * (11 << 20))
    run = supervise({"name": "loud", "argv": shell("echo new; sleep 600")})
    run.until("^up")
    assert (directory.log / "loud.log.1").stat().st_size > 10 << 20
    assert (directory.log / "loud.log").stat().st_size < 100
    run.stop()


def test_an_http_answer_is_waited_for(supervise: Any, place: Path) -> None:
    port = 20000 + os.getpid() % 20000
    serve = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(place)]
    run = supervise({"name": "web", "argv": serve, "ready": {"http": ["127.0.0.1", port]}})
    run.until("^up")
    assert run.stop() == 0


def test_it_is_small(supervise: Any) -> None:
    run = supervise({"name": "one", "argv": SLEEP})
    run.until("^up")
    assert procs.memory(run.process.pid, children=False) < 25 * 1024


def test_a_status_that_cannot_be_written_ends_nothing(supervise: Any, directory: StateDir) -> None:
    directory.status.mkdir()  # as good as a full disk
    run = supervise({"name": "weak", "argv": shell("sleep 0.3; exit 7")})
    run.until("^up")
    run.until("^restarting weak")
    run.until("^ready weak")
    assert run.stop() == 0
    run.until("^down")


def test_a_log_that_cannot_be_written_delays_a_restart_and_ends_nothing(supervise: Any, directory: StateDir) -> None:
    run = supervise({"name": "victim", "argv": SLEEP}, {"name": "other", "argv": SLEEP})
    run.until("^up")
    log = directory.log / "victim.log"
    log.unlink()
    log.mkdir()
    other = run.mark("other")
    procs.send(run.mark("victim"), signal.SIGKILL)
    run.until("^restarting victim")
    end = clock.monotonic() + 10
    while "Is a directory" not in str(recorded(directory)[0]["why"]):
        assert clock.monotonic() < end, recorded(directory)
        clock.sleep(0.02)
    log.rmdir()
    run.until("^ready victim")
    assert run.mark("other") == other
    assert run.stop() == 0
