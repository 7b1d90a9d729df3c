"""Completion as real shells do it, with the scripts that `paddock` prints for them."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from tests.cli.server import Cloud
from tests.cli.terminal import on_terminal


def completed(paddock: Shell, *lines: str) -> list[list[str]]:
    """What bash offers after each of these lines, whose last words are not whole."""
    program = paddock.home / "bin/paddock"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m paddock.cli.main "$@"\n')
    program.chmod(0o755)
    script = 'eval "$(paddock completion bash)"\ncomplete -p paddock > /dev/null || exit 1\n'
    for line in lines:
        script += f"COMP_WORDS=(paddock {line}); COMP_CWORD={len(line.split())}\n"
        script += '_paddock_completion paddock; echo "${COMPREPLY[@]}"\n'
    env = {**paddock.env, "PATH": f"{program.parent}:{paddock.env['PATH']}"}
    done = subprocess.run(["bash", "--norc", "-c", script], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split() for line in done.stdout.splitlines()]


def test_commands_options_and_servers(paddock: Shell, cloud: Cloud) -> None:
    for name in ("web-1", "web-2", "db"):
        cloud.add(name)
    found = completed(paddock, "server time", "console --w", "console web", "launch deb", "launch tiny --type m")
    assert found == [["timeline"], ["--watch"], ["web-1", "web-2"], ["debian-12"], ["medium", "micro"]]


def test_without_a_cloud_it_is_silent(tmp_path: Path) -> None:
    assert completed(Shell(tmp_path, "http://127.0.0.1:1"), "console w") == [[]]


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(paddock completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit && compinit -D && source <(paddock completion zsh)"),
    "fish": (["fish", "--no-config", "-i"], "paddock completion fish | source"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHELLS)
def test_the_tab_key_of_a_real_shell(name: str, paddock: Shell, cloud: Cloud) -> None:
    """Half a command and half a server's name, each ended by the Tab key; what the shell then runs is written down."""
    cloud.add("database")
    cloud.add("web")
    argv, teach = SHELLS[name]
    typed = paddock.home / "typed"
    program = paddock.home / "bin/paddock"
    program.parent.mkdir()
    python = f"{shlex.quote(sys.executable)} -m paddock.cli.main"
    program.write_text(
        f'#!/bin/sh\n[ -n "$_PADDOCK_COMPLETE" ] || [ "$1" = completion ] && exec {python} "$@"\n'
        f'echo "$*" >> {shlex.quote(str(typed))}\n'
    )
    program.chmod(0o755)
    path = f"{program.parent}:{paddock.env['PATH']}"
    with on_terminal(paddock, program=argv, PATH=path, PS1="ready> ", HISTFILE="") as terminal:
        terminal.type(f"{teach}; echo 'is '''taught\n")
        terminal.until("is taught")
        terminal.type("paddock server timel\tdatab\t\npaddock console w\t\n")
        terminal.type("exit\n")
        terminal.wait()
    assert typed.read_text().splitlines() == ["server timeline database", "console web"]
