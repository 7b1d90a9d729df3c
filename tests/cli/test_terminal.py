"""What a person at a terminal sees and types: the console, live progress, questions, Ctrl-C, ssh."""

import os
import signal
import subprocess
import sys

from paddock import __version__
from paddock.cli import ssh
from tests.cli.conftest import Shell
from tests.cli.server import Cloud
from tests.cli.terminal import on_terminal


def test_console_is_raw_and_ctrl_bracket_leaves(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    with on_terminal(paddock, "console", "web") as terminal:
        shown = terminal.until("login: ")
        assert "Ctrl-] leaves" in shown
        assert terminal.is_raw()
        terminal.type("\x03a")  # Ctrl-C is the guest's
        terminal.until("a>")
        terminal.type("\x1d")
        assert "come back with: paddock console web" in terminal.until("console web")
        assert terminal.wait() == 0
        assert not terminal.is_raw()


def test_console_that_only_watches(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    with on_terminal(paddock, "console", "web", "--watch") as terminal:
        assert "your keys are not sent" in terminal.until("login: ")
        terminal.type("poweroff")
        terminal.type("\x1d")
        assert "<" not in terminal.until("console web")
        assert terminal.wait() == 0


def test_console_that_the_server_ends_says_why(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    with on_terminal(paddock, "console", "web") as terminal:
        terminal.until("login: ")
        terminal.type("poweroff")
        assert "the console ended: the server went off" in terminal.until("come back with")
        assert terminal.wait() == 1
        assert not terminal.is_raw()


def test_a_killed_console_puts_the_terminal_back(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    for number in (signal.SIGTERM, signal.SIGHUP):
        with on_terminal(paddock, "console", "web") as terminal:
            terminal.until("login: ")
            assert terminal.is_raw()
            terminal.process.send_signal(number)
            assert terminal.wait() == 128 + number
            assert not terminal.is_raw()


def test_console_in_a_script(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    done = subprocess.run(
        paddock.argv("console", "web", "--timeout", "0.5"), input=b"hi \x1d\n", env=paddock.env, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"login: <hi \x1d\n>"
    done = subprocess.run(
        paddock.argv("console", "web"), input=b"poweroff", env=paddock.env, capture_output=True, text=False
    )
    assert done.returncode == 1
    assert b"error: the console of web ended: the server went off" in done.stderr


def test_console_that_is_refused(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    assert "there is no server 'wbe'" in paddock.fails("console", "wbe")
    assert "the token you have provided is invalid" in paddock.fails("console", "web", PADDOCK_TOKEN="x")


def test_live_progress(paddock: Shell, cloud: Cloud) -> None:
    cloud.build_seconds = 1.0
    with on_terminal(paddock, "launch", "debian-12", "-n", "web") as terminal:
        shown = terminal.until("log in:  paddock ssh web")
        assert terminal.wait() == 0
    assert "Launching web from debian-12" in shown
    assert "unpacking packages" in shown
    for step in ("place", "image", "clone", "cloud_init", "start"):
        assert f"✓\x1b[0m {step}" in shown
    assert "web (n1/1000) is ready by ssh+agent after 14 s" in shown


def test_ctrl_c_on_the_live_view_gives_the_cursor_back(paddock: Shell, cloud: Cloud) -> None:
    cloud.never_ready = True
    with on_terminal(paddock, "launch", "tiny", "--count", "3", "-n", "web") as terminal:
        terminal.until("waits for ssh")
        terminal.type("\x03")
        shown = terminal.until("delete:  paddock rm web-1 web-2 web-3")
        assert terminal.wait() == 130
    assert "\x1b[?25h" in shown
    assert "creation goes on: web-1 web-2 web-3" in shown


def test_deleting_a_group_asks_first(paddock: Shell, cloud: Cloud) -> None:
    for name in "ab":
        cloud.add(name, x_group="g")
    with on_terminal(paddock, "rm", "--group", "g") as terminal:
        terminal.until("Delete 2 servers and their disks: a, b? [y/N]: ")
        terminal.type("n\n")
        assert terminal.wait() == 1
    assert len(cloud.servers) == 2
    with on_terminal(paddock, "rm", "--group", "g") as terminal:
        terminal.until("[y/N]: ")
        terminal.type("y\n")
        assert terminal.wait() == 0
    assert not cloud.servers


def test_a_step_that_destroys_wants_the_name_typed(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    for typed, code in (("wbe", 1), ("web", 0)):
        with on_terminal(paddock, "server", "run-step", "web", "clone") as terminal:
            terminal.until("Type web to go on")
            terminal.type(f"{typed}\n")
            assert terminal.wait() == code


def test_colours_on_a_terminal_unless_no_color(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    with on_terminal(paddock, "ls") as terminal:
        terminal.wait()
        assert "\x1b[32mrunning" in terminal.until("yes")
    with on_terminal(paddock, "ls", NO_COLOR="1") as terminal:
        terminal.wait()
        assert "\x1b[32m" not in terminal.until("3h")


def test_tables_follow_the_width_of_the_terminal(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("a-name-that-is-quite-long.example.com")
    with on_terminal(paddock, "ls", columns=70) as terminal:
        terminal.wait()
        assert "a-name-that-is" in terminal.until("…")


def test_ssh_command_line(paddock: Shell, cloud: Cloud) -> None:
    """K28: one can type it oneself too."""
    cloud.add("web")
    argv = paddock.ok("ssh", "--print", "web", "-l", "anna", "--", "ls", "-l").strip()
    assert argv == (
        "ssh -p 2200 -l anna -o HostKeyAlias=paddock-00000000-0000-0000-0000-000000000001 "
        f"-o 'UserKnownHostsFile=\"{paddock.config}/known_hosts\"' -o StrictHostKeyChecking=accept-new "
        "-- 127.0.0.1 ls -l"
    )
    paddock.ok("launch", "tiny", "--no-wait")
    assert f"-i {paddock.config}/id_ed25519 -- 127.0.0.1" in paddock.ok("ssh", "--print", "web")
    assert ssh.command_line(cloud.servers[1], "", [])[4] == "root"


def test_ssh_runs_the_real_client_and_has_its_exit_code(paddock: Shell, cloud: Cloud) -> None:
    """A stand-in for ssh on the path shows what it is given."""
    cloud.add("web")
    bin = paddock.home / "bin"
    bin.mkdir()
    (bin / "ssh").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 7\n')
    (bin / "ssh").chmod(0o755)
    env = {**paddock.env, "PATH": f"{bin}:{os.environ['PATH']}"}
    done = subprocess.run(paddock.argv("ssh", "web", "--", "a b"), env=env, capture_output=True, text=True)
    assert done.returncode == 7
    assert done.stdout.splitlines()[-3:] == ["--", "127.0.0.1", "a b"]


def test_ssh_waits_until_it_is_ready(paddock: Shell, cloud: Cloud) -> None:
    cloud.ready_seconds = 0.5
    paddock.ok("launch", "tiny", "-n", "web", "--no-wait")
    done = subprocess.run(paddock.argv("ssh", "web", "--", "true"), env=paddock.env, capture_output=True, text=True)
    assert "web is not ready yet; waiting" in done.stderr
    assert done.returncode == 255  # nobody listens there
    cloud.never_ready = True
    paddock.ok("launch", "tiny", "-n", "stuck", "--no-wait")
    assert "still not ready after 1 s" in paddock.fails("ssh", "stuck", "--timeout", "1")


def test_ssh_to_one_that_is_off(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web", status="off")
    assert "error: web is off\nhint: start it: paddock start web\n" in paddock.fails("ssh", "web")


def test_ctrl_c_before_it_has_begun(paddock: Shell) -> None:
    """While its parts are read in, which takes a moment: it ends, and shows nobody a traceback."""
    hit = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *more):\n"
        "        name == 'httpx' and os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from paddock.cli.start import main"
    )
    done = subprocess.run([sys.executable, "-c", hit], env=paddock.env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_the_program_begins(paddock: Shell) -> None:
    begin = "import sys; sys.argv = ['paddock', '--version']; from paddock.cli.start import main; main()"
    done = subprocess.run([sys.executable, "-c", begin], env=paddock.env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"paddock {__version__}\n")
