"""What a person sees when the cloud is not there, not theirs or not a cloud: one line, a hint, no traceback."""

import re
import resource
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from paddock import __version__
from tests.cli.conftest import Shell
from tests.cli.server import TOKEN, Cloud


def test_no_cloud_at_all(tmp_path: Path) -> None:
    shell = Shell(tmp_path, "", "")
    said = shell.fails("ls", PADDOCK_ENDPOINT="", PADDOCK_TOKEN="")
    assert said.startswith(
        f"error: Paddock is not running: {tmp_path}/state/run/api-url is not there\nhint: `paddock up`"
    )


def test_the_api_is_down(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        said = Shell(tmp_path, address).fails("ls")
    assert said == (
        f"error: the API at {address} does not answer: connection refused\n"
        "hint: `paddock up` starts it, `paddock status` shows what runs\n"
    )


def test_the_connection_is_cut_in_the_middle(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def cut() -> None:
            for _ in range(2):
                connection = listener.accept()[0]
                connection.recv(10)
                connection.close()

        thread = threading.Thread(target=cut, daemon=True)
        thread.start()
        shell = Shell(tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert "was cut during GET /v1/servers" in shell.fails("ls")
        said = shell.fails("ssh-key", "add", "anna", "-", input="ssh-ed25519 x")
        assert "was cut during POST /v1/ssh_keys" in said
        assert "hint: it may have been done all the same" in said
        thread.join(10)


def test_something_else_answers(tmp_path: Path) -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/html\r\n\r\nhello"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hello() -> None:
            connection = listener.accept()[0]
            connection.recv(1000)
            connection.sendall(page)
            connection.close()

        thread = threading.Thread(target=hello, daemon=True)
        thread.start()
        assert "answered no JSON" in Shell(tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}").fails("ls")
        thread.join(10)


@pytest.mark.parametrize("endpoint", ["nonsense", "ftp://x", "http://", "http://[::1"])
def test_an_endpoint_that_is_none(paddock: Shell, endpoint: str) -> None:
    assert "is not the address of an API" in paddock.fails("ls", PADDOCK_ENDPOINT=endpoint)


def test_a_wrong_token(paddock: Shell) -> None:
    said = paddock.fails("ls", PADDOCK_TOKEN="x" * 64)
    assert said.startswith("error: the token you have provided is invalid\nhint: the token is not one of this cloud's")


def test_address_and_token_of_the_state_directory(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    cloud.add("web")
    endpoint = paddock.endpoint
    shell = Shell(tmp_path, "", "")
    nothing: dict[str, Any] = {"PADDOCK_ENDPOINT": "", "PADDOCK_TOKEN": ""}
    state = tmp_path / "elsewhere"
    (state / "run").mkdir(parents=True)
    (state / "run" / "api-url").write_text(endpoint + "\n")
    assert f"there is no token at {state}/token" in shell.fails("--state-dir", state, "ls", **nothing)
    (state / "token").write_text(TOKEN + "\n")
    assert shell.ok("--state-dir", state, "ls", "-q", **nothing) == "web\n"
    assert shell.ok("--state-dir", state, "--endpoint", endpoint + "/v1/", "ls", "-q", **nothing) == "web\n"


def test_the_token_goes_to_no_other_cloud(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    endpoint = paddock.endpoint
    state = tmp_path / "state"
    (state / "run").mkdir(parents=True)
    (state / "run" / "api-url").write_text("http://127.0.0.1:1")
    (state / "token").write_text(TOKEN)
    said = Shell(tmp_path, endpoint, "").fails("ls")
    assert f"error: there is no token for {endpoint}" in said
    assert not cloud.requests


def test_a_proxy_is_not_asked_about_loopback(paddock: Shell) -> None:
    paddock.ok("ls", HTTP_PROXY="http://127.0.0.1:1", ALL_PROXY="http://127.0.0.1:1")


def test_usage(paddock: Shell) -> None:
    assert paddock.fails("lss", code=2).startswith(
        "error: No such command 'lss'. Did you mean 'ls', 'ssh'?\nhint: paddock --help"
    )
    assert "hint: paddock image show --help" in paddock.fails("image", "show", code=2)
    assert "'xml'" in paddock.fails("ls", "-o", "xml", code=2)
    assert paddock.ok("--version") == f"paddock {__version__}\n"
    assert paddock.ok("version") == f"paddock {__version__}, the cloud runs paddock 0.0.9\n"


def test_nothing_said_is_answered_with_help(paddock: Shell) -> None:
    for words in ((), ("server",), ("image",)):
        done = paddock.run(*words)
        assert done.returncode == 2
        assert "Usage: paddock" in done.stdout + done.stderr


def test_every_command_has_examples(paddock: Shell) -> None:
    """--help teaches: K20."""
    top = paddock.ok("--help", columns=100)
    names = re.findall(r"^│ ([a-z-]+) ", top, re.MULTILINE)
    assert {"launch", "ls", "ssh", "console", "exec", "server", "image", "node", "cluster"} <= set(names)
    for name in ("launch", "ls", "start", "stop", "restart", "rm", "ssh", "console", "exec", "cluster", "version"):
        assert re.search(f"^ +paddock {name}", paddock.ok(name, "--help"), re.MULTILINE), name


def test_a_reader_that_goes_away(paddock: Shell, cloud: Cloud) -> None:
    for n in range(50):
        cloud.add(f"s{n}")
    process = subprocess.Popen(
        paddock.argv("ls", "-o", "json"), env=paddock.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    process.stdout.read(1)
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait(20)


def test_a_shell_for_those_who_stay(paddock: Shell, cloud: Cloud) -> None:
    """K19, K20: an interactive prompt, `help` lists the commands."""
    cloud.add("web")
    lines = "ls -q\npaddock stop web\n# a remark\nhelp\n'open\nls -q --status off\nnonsense\n"
    done = subprocess.run(paddock.argv("shell"), input=lines, env=paddock.env, capture_output=True, text=True)
    assert done.stdout.startswith("web\nweb is off\n")
    assert "launch" in done.stdout
    assert done.stdout.endswith("web\n")
    assert "this line can't be read: No closing quotation" in done.stderr
    assert "No such command 'nonsense'" in done.stderr
    assert done.returncode == 2


def test_it_starts_quickly(paddock: Shell) -> None:
    before = _children()
    subprocess.run(paddock.argv("--version"), env=paddock.env, check=True, stdout=subprocess.DEVNULL)
    assert _children() - before < 2  # 0.4 s on an idle machine


def _children() -> float:
    """Seconds of CPU that processes of ours took which have ended: others may be busy on this machine."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
