"""kvm-cloud's words, and the prompt that completes them."""

import readline
from pathlib import Path

import pytest
import typer

from paddock.cli import shell
from paddock.cli.main import _completions, app
from paddock.cli.session import Session
from tests.cli.conftest import Shell
from tests.cli.server import Cloud


def test_new_instances_run(paddock: Shell, cloud: Cloud) -> None:
    assert paddock.ok("new", "tiny", "64", "1") == "result: ID: n1/1000, SSH port: 2200\n"
    assert paddock.ok("new", "tiny", "700", "2") == "result: ID: n1/1001, SSH port: 2201\n"
    name = cloud.servers[1]["name"]
    rows = [line.split()[:6] for line in paddock.ok("instances").splitlines()[1:]]
    assert rows == [["n1/1000", "tiny", "512", "1", "-", "OFFLINE"], ["n1/1001", "tiny", "2048", "2", "-", "OFFLINE"]]
    assert paddock.ok("run", "n1/1000") == "OK\n"
    assert paddock.ok("instances").splitlines()[1].split() == ["n1/1000", "tiny", "512", "1", "2200", "ONLINE", name]
    assert "no server type has 99 CPUs" in paddock.fails("new", "tiny", "64", "99")
    assert "there is no server 'n9/1'" in paddock.fails("run", "n9/1")


def test_words_of_other_tools_are_answered(paddock: Shell, cloud: Cloud) -> None:
    assert "paddock start --group G" in paddock.fails("vmlaunch", "pf1", code=2)
    assert paddock.fails("nonsense", code=2).endswith("hint: paddock --help\n")
    assert paddock.fails("image", "list", "create", code=2).endswith("hint: paddock image list --help\n")
    assert "Start servers" in paddock.ok("help", "start")
    assert "This machine" in paddock.ok("help")


def test_a_group_in_the_place_of_a_server(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web", x_group="pf1")
    assert "there is no server 'pf1'\nhint: pf1 is a group: --group pf1\n" in paddock.fails("stop", "pf1")
    assert "did you mean web?" in paddock.fails("stop", "wbe")


def test_they_can_be_typed_at_the_prompt(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web", status="off")
    paddock.ok("shell", input="run n1/1000 # comment\nexit\n")
    assert cloud.servers[1]["status"] == "running"


def test_completion_offers_commands_and_then_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = {(): ["launch", "ls"], ("ls",): ["web-1", "web-2", "db"]}
    complete = shell._completer(lambda before: offered[tuple(before)])
    typed = {"line": "", "at": 0}
    monkeypatch.setattr(readline, "get_line_buffer", lambda: typed["line"])
    monkeypatch.setattr(readline, "get_begidx", lambda: typed["at"])
    typed.update(line="l", at=0)
    assert [complete("l", n) for n in range(3)] == ["launch ", "ls ", None]
    typed.update(line="ls web", at=3)
    assert [complete("web", n) for n in range(3)] == ["web-1 ", "web-2 ", None]


def test_a_noun_completes_its_own_things(paddock: Shell, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.add("web")
    for name, value in paddock.env.items():
        monkeypatch.setenv(name, value)
    context = typer.Context(typer.main.get_command(app), obj=Session())
    assert "volume" in _completions(context, [])
    assert {"list", "import"} <= set(_completions(context, ["image"]))
    assert "rm" not in _completions(context, ["image"]), "words of other tools are understood, not offered"
    assert _completions(context, ["image", "show"]) == ["debian-12", "tiny"]
    assert _completions(context, ["server", "show"]) == _completions(context, ["stop"]) == ["web"]


def test_history_is_private_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "history"
    with shell._remembered(path):
        readline.clear_history()
        readline.add_history("ls")
    assert path.stat().st_mode & 0o777 == 0o600
    assert "ls" in path.read_text()
