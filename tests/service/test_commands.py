"""`paddock up`, `down`, `status` and `doctor` as people run them, on a real cloud with the fake hypervisor."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from paddock.base import clock
from paddock.base.statedir import StateDir
from paddock.service import pgupgrade, procs, state
from paddock.service.supervisor import recorded

PADDOCK = [sys.executable, "-c", "from paddock.cli.main import main; main()"]


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def paddock(directory: StateDir, *words: str, timeout: float = 180) -> subprocess.CompletedProcess[str]:
    argv = [*PADDOCK, "--state-dir", str(directory.root), *words]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PADDOCK", "PG"))}
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, env=environment, check=False
    )


@pytest.fixture
def cloud(furnished: StateDir) -> StateDir:
    """A state directory that asks for a fake node and a port of its own."""
    furnished.config.write_text(f'[api]\nport = {free_port()}\n[[node]]\nname = "n1"\ndriver = "fake"\n')
    return furnished


def told(directory: StateDir) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(paddock(directory, "status", "-o", "json").stdout)
    return found


def wait_until_up(directory: StateDir, seconds: float = 60) -> None:
    end = clock.monotonic() + seconds
    while told(directory)["state"] != "up":
        assert clock.monotonic() < end, told(directory)
        clock.sleep(0.2)


def test_status_and_down_of_nothing(place: Path, directory: StateDir) -> None:
    done = paddock(StateDir(place / "nothing"), "status")
    assert done.returncode == 1
    assert "there is no state directory" in done.stderr
    assert "`paddock up` makes one" in done.stderr
    done = paddock(directory, "status")
    assert (done.returncode, done.stdout.splitlines()[0]) == (3, "Paddock is stopped")
    done = paddock(directory, "down")
    assert done.returncode == 0
    assert "was not running" in done.stderr


def test_up_refuses_what_is_wrong_before_anything_starts(place: Path) -> None:
    (place / "mine").write_text("")
    done = paddock(StateDir(place), "up", "--detach")
    assert done.returncode == 1
    assert "not empty" in done.stderr
    assert os.listdir(place) == ["mine"]


def test_a_wrong_paddock_toml_is_explained(directory: StateDir) -> None:
    directory.config.write_text("[api]\nport = 70000\n")
    done = paddock(directory, "up", "--detach")
    assert done.returncode == 1
    assert "api.port" in done.stderr
    assert state.holder(directory) is None


def test_an_external_database_that_is_not_there_is_explained(directory: StateDir) -> None:
    directory.config.write_text(f'[database]\nurl = "postgresql://me:secret@127.0.0.1:{free_port()}/x"\n')
    done = paddock(directory, "up", "--detach")
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert "secret" not in done.stderr
    assert not directory.database.exists()


def test_doctor_tells_of_everything(directory: StateDir) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        directory.config.write_text(f"[api]\nport = {busy.getsockname()[1]}\n")
        done = paddock(directory, "doctor", "-o", "json")
    checks = {c["name"]: c for c in json.loads(done.stdout)}
    assert {"Python", "QEMU", "accelerator", "PostgreSQL", "disk", "memory", "state directory", "clock"} <= set(checks)
    assert "arch" in checks["signatures"]["found"]
    assert checks["API port"]["result"] == "fail"
    assert "in use" in checks["API port"]["found"]
    assert done.returncode == 1
    assert all(c["hint"] for c in checks.values() if c["result"] != "ok")


def test_doctor_of_a_directory_that_is_not_begun(place: Path) -> None:
    """What an operator writes before the first `paddock up` is no harm; what others have there is."""
    directory = StateDir(place / "new")
    directory.root.mkdir(mode=0o755)
    directory.config.write_text("")
    for result in ("ok", "fail"):
        checks = {c["name"]: c for c in json.loads(paddock(directory, "doctor", "-o", "json").stdout)}
        assert checks["state directory"]["result"] == result
        (directory.root / "stranger").touch()


@pytest.mark.slow
def test_a_cloud_comes_up_survives_and_goes_down(cloud: StateDir) -> None:
    done = paddock(cloud, "up", "--detach")
    assert done.returncode == 0, done.stderr
    assert f"state   {cloud.root}" in done.stdout
    found = told(cloud)
    assert found["state"] == "up"
    assert {p["name"] for p in found["processes"]} == {"postgres", "agent-n1", "prepare", "worker", "api"}
    assert found["supervisor"]["memory_kib"] < 25 * 1024
    assert cloud.database_url.stat().st_mode & 0o777 == 0o600
    assert cloud.token.stat().st_mode & 0o777 == 0o600

    again = paddock(cloud, "up", "--detach")
    assert again.returncode == 1
    assert f"process {found['supervisor']['pid']} runs Paddock" in again.stderr

    for name in ("api", "worker", "agent-n1", "postgres"):
        _kill_and_see_it_return(cloud, name)
    wait_until_up(cloud)
    with psycopg.connect(cloud.database_url.read_text().strip()) as connection:
        row = connection.execute("SELECT count(*) FROM django_migrations").fetchone()
        assert row is not None
        assert row[0] > 0

    down = paddock(cloud, "down")
    assert down.returncode == 0
    assert "Paddock is stopped" in down.stderr
    assert not [p for p in recorded(cloud) if p["pid"]]
    assert not cloud.api_url.exists()


def _kill_and_see_it_return(cloud: StateDir, name: str) -> None:
    before = next(r for r in recorded(cloud) if r["name"] == name)
    procs.send(procs.Mark(before["pid"], before["start"]), signal.SIGKILL)
    end = clock.monotonic() + 60
    while True:
        now = next(r for r in recorded(cloud) if r["name"] == name)
        if now["pid"] != before["pid"] and now["state"] == "ready":
            return
        assert clock.monotonic() < end, now
        clock.sleep(0.1)


@pytest.mark.slow
def test_a_killed_supervisor_is_followed_by_one_that_takes_over(cloud: StateDir) -> None:
    assert paddock(cloud, "up", "--detach").returncode == 0
    postgres = next(r["pid"] for r in recorded(cloud) if r["name"] == "postgres")
    owner = state.holder(cloud)
    assert owner is not None
    procs.send(owner, signal.SIGKILL)
    assert procs.wait_gone(owner, 5)
    clock.sleep(0.5)
    found = paddock(cloud, "status")
    assert found.returncode == 3
    assert "left over" in found.stdout
    assert paddock(cloud, "up", "--detach").returncode == 0
    assert next(r["pid"] for r in recorded(cloud) if r["name"] == "postgres") == postgres
    owner = state.holder(cloud)
    assert owner is not None
    procs.send(owner, signal.SIGKILL)
    assert procs.wait_gone(owner, 5)
    down = paddock(cloud, "down")
    assert "postgres had outlived its supervisor; stopped" in down.stderr
    cluster = pgupgrade.existing(cloud)
    assert cluster is not None
    assert cluster.running() is None


@pytest.mark.slow
def test_in_the_foreground_it_stays_until_told_to_stop_or_left_alone(cloud: StateDir) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        argv = [*PADDOCK, "--state-dir", str(cloud.root), "up"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as front:
            assert front.stdout is not None
            assert any("Paddock is up" in line for line in front.stdout)
            owner = state.holder(cloud)
            assert owner is not None
            front.send_signal(number)
            rest = front.stdout.read() if number == signal.SIGINT else ""
            assert procs.wait_gone(owner, 60)
        assert number == signal.SIGKILL or "postgres    stopped" in rest
        assert state.holder(cloud) is None


@pytest.mark.slow
def test_a_start_that_fails_tells_the_end_of_the_log_and_leaves_nothing(cloud: StateDir) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        cloud.config.write_text(f'[api]\nport = {busy.getsockname()[1]}\n[[node]]\nname = "n1"\ndriver = "fake"\n')
        done = paddock(cloud, "up", "--detach")
    assert done.returncode == 1
    assert "api ended with exit code" in done.stderr
    assert "address already in use" in done.stderr
    assert state.holder(cloud) is None
    assert not [p for p in recorded(cloud) if p["pid"]]
