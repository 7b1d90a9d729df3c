"""What --help says: compared with golden files for commands that are done, and sane for all that there are."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from paddock.cli.main import app
from tests.cli.conftest import Shell
from tests.cli.test_output import golden

DONE = {
    "iso": "list show import delete",
    "image": "show build import rename set label protect delete",
    "volume": "list show create attach detach resize label rename protect delete",
    "placement-group": "list show create rename label delete",
    "server": "metrics rebuild change-type attach-iso detach-iso snapshot protect rename label join leave screen",
}


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command, with the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ROOT: Any = typer.main.get_command(app)
ALL = {" ".join(path): command for path, command in commands(ROOT)}
SHOWN = {path: command for path, command in ALL.items() if not command.hidden}


@pytest.mark.parametrize("noun", DONE)
def test_help_of_a_noun(noun: str, paddock: Shell) -> None:
    said = "".join(paddock.ok(noun, verb, "--help", columns=80) for verb in DONE[noun].split())
    lines = [line.rstrip() for line in said.splitlines()]
    assert max(map(len, lines)) <= 80
    golden(f"help-{noun}.txt", "\n".join(lines) + "\n")


@pytest.mark.parametrize("path", SHOWN)
def test_every_command_is_explained(path: str) -> None:
    command = SHOWN[path]
    first = command.help.split("\n\n")[0]
    assert re.search(r"[.?)]$", first.strip()), "a whole sentence"
    assert "Examples:" in command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{parameter.name} has no help"


@pytest.mark.parametrize("path", SHOWN)
def test_examples_can_be_typed(path: str) -> None:
    """What an example calls is there, with every option that it names; and it fits a terminal."""
    examples = re.findall(r"^\[cyan\]  (.*)\[/cyan\]$", SHOWN[path].help, re.MULTILINE)
    calls = [call for line in examples for call in _calls(line)]
    called = [_check_call(shlex.split(call), call) for call in calls]
    assert SHOWN[path].help in [command.help for command in called], "one is of the command itself"
    if path.partition(" ")[2] in DONE.get(path.partition(" ")[0], "").split():
        assert max(map(len, examples)) <= 76, examples


def _calls(line: str) -> list[str]:
    """What is after each `paddock`, also of several commands in one line."""
    parts = re.split(r" && | \| |\$\(|\)", line)
    return [part.split("paddock ", 1)[1] for part in parts if "paddock " in part]


def _check_call(words: list[str], call: str) -> Any:
    """The command that is called, which must know every option."""
    command: Any = ROOT
    while words and words[0].startswith("--"):
        words = words[2:]  # options of `paddock` itself take a value
    while hasattr(command, "commands"):
        assert words, call
        assert words[0] in command.commands, call
        command, words = command.commands[words[0]], words[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    rest = words[: words.index("--")] if "--" in words else words
    for word in rest:
        if re.match(r"-{1,2}[a-z]", word):
            assert word.split("=")[0] in known, call
    return command


def test_words_of_other_tools(paddock: Shell) -> None:
    """Whoever types `rm`, `ls` or `describe` is understood; they are not in the list of commands."""
    for path in ("volume ls", "volume rm", "iso rm", "image describe", "token rm", "server ls", "server rm"):
        assert ALL[path].hidden, path
    assert " rm " not in paddock.ok("volume", "--help", columns=80)
