"""Into a real guest of `tiny` by its guest agent, keyboard and console, with the command line on a real cloud."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paddock.base import clock
from paddock.base.errors import CommandFailed
from paddock.base.run import Completed, run
from tests.guests.stack import Stack, until

pytestmark = [pytest.mark.guest, pytest.mark.slow]


def argv(cloud: Stack, *words: str) -> list[str]:
    program = [sys.executable, "-c", "from paddock.cli.main import main; main()"]
    return [*program, "--state-dir", str(cloud.state.root), *words]


def paddock(cloud: Stack, *words: str) -> Completed:
    return run(argv(cloud, *words), timeout=100)


@pytest.fixture
def web(cloud: Stack) -> dict[str, Any]:
    return cloud.launch("web")


def test_files_commands_console_keys(cloud: Stack, web: dict[str, Any], tmp_path: Path) -> None:
    """One guest for all of it: starting it is what takes time."""
    _a_file_there_and_back(cloud, tmp_path)
    _a_directory_there_and_back(cloud, tmp_path)
    _output_while_it_runs(cloud)
    _ctrl_c(cloud, web)
    assert paddock(cloud, "exec", "web", "--", "sh", "-c", "ls -A /tmp /root").stdout.count("addock-") == 0
    _keys_and_a_lasting_console(cloud, web)


def _a_file_there_and_back(cloud: Stack, tmp_path: Path) -> None:
    data = os.urandom(1_500_000)
    (tmp_path / "data").write_bytes(data)
    (tmp_path / "data").chmod(0o750)
    paddock(cloud, "cp", str(tmp_path / "data"), "web:/root/")
    assert paddock(cloud, "exec", "web", "--", "stat", "-c", "%a %s", "/root/data").stdout == "750 1500000\n"
    paddock(cloud, "cp", "web:/root/data", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o750
    paddock(cloud, "cp", "web:/proc/cpuinfo", str(tmp_path))  # says that it is empty
    assert "processor" in (tmp_path / "cpuinfo").read_text()
    with pytest.raises(CommandFailed, match="there is no /none in web"):
        paddock(cloud, "cp", "web:/none", str(tmp_path))
    with pytest.raises(CommandFailed, match="there is no directory /none"):
        paddock(cloud, "cp", str(tmp_path / "back"), "web:/none/back")
    with pytest.raises(CommandFailed, match="neither a file nor a directory"):
        paddock(cloud, "cp", "web:/dev/zero", str(tmp_path))


def _a_directory_there_and_back(cloud: Stack, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (site / "sub/run").write_text("#!/bin/sh\necho ran\n")
    (site / "sub/run").chmod(0o755)
    (site / "link").symlink_to("sub/run")
    paddock(cloud, "cp", "-r", str(site), "web:/root")
    assert paddock(cloud, "exec", "web", "--", "/root/site/link").stdout == "ran\n"
    with pytest.raises(CommandFailed, match="is there already"):
        paddock(cloud, "cp", "-r", str(site), "web:/root")
    (site / "new").write_text("new")
    paddock(cloud, "cp", "-r", "--replace", str(site), "web:/root")
    paddock(cloud, "exec", "web", "--", "ln", "-s", "/etc/passwd", "/root/site/out")
    said = paddock(cloud, "cp", "-r", "web:/root/site", str(tmp_path / "back-site")).stderr
    assert "left out: out -> /etc/passwd: it leads out" in said
    assert (tmp_path / "back-site/new").read_text() == "new"
    assert (tmp_path / "back-site/sub/run").stat().st_mode & 0o777 == 0o755
    assert os.readlink(tmp_path / "back-site/link") == "sub/run"
    assert not (tmp_path / "back-site/out").exists()


def _output_while_it_runs(cloud: Stack) -> None:
    script = "echo one; echo two >&2; sleep 1; cat; exit 7"
    done = subprocess.run(
        argv(cloud, "exec", "-s", "-i", "web", "--", "sh", "-c", script), input=b"\0\xc3\xa4", capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, b"one\n\0\xc3\xa4", b"two\n")


def _ctrl_c(cloud: Stack, web: dict[str, Any]) -> None:
    script = "echo started; sleep 4321 & sleep 4321"
    process = subprocess.Popen(argv(cloud, "exec", "-s", "web", "--", "sh", "-c", script), stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"started\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    process.stdout.close()
    count = ("exec", "web", "--", "sh", "-c", "ps | grep -c '[s]leep 4321'; true")
    until(lambda: paddock(cloud, *count).stdout.strip() == "0", 30, "its processes to end")


def _keys_and_a_lasting_console(cloud: Stack, web: dict[str, Any]) -> None:
    """Ctrl-Alt-Delete restarts it; the console goes on over a kill of the agent."""
    console = subprocess.Popen(
        argv(cloud, "console", "web", "--timeout", "600", "--scrollback", "2000"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert console.stdin
        assert console.stdout
        console.stdin.close()
        assert os.read(console.stdout.fileno(), 65536), "what it said before"
        restarts = cloud.restarts("agent-n1")
        assert cloud.kill("agent-n1")
        until(lambda: cloud.restarts("agent-n1") > restarts, 20, "the agent to start again")
        cloud.wait_ready()
        paddock(cloud, "server", "send-key", "web", "ctrl-alt-delete")
        heard = b""
        end = clock.monotonic() + 60
        while b"Linux version" not in heard and clock.monotonic() < end:
            heard += os.read(console.stdout.fileno(), 65536)
        assert b"Linux version" in heard
    finally:
        console.kill()
        console.wait()
        if console.stdout:
            console.stdout.close()
    cloud.ready(int(web["id"]))
