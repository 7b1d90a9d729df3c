"""Completion as a real bash does it, with the script that `paddock` prints for it."""

import shlex
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Shell
from tests.cli.server import Cloud


def completed(paddock: Shell, *lines: str) -> list[list[str]]:
    """What bash offers after each of these lines, whose last words are not whole."""
    program = paddock.home / "bin/paddock"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m paddock.cli.main "$@"\n')
    program.chmod(0o755)
    script = 'eval "$(paddock --show-completion bash)"\ncomplete -p paddock > /dev/null || exit 1\n'
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
    found = completed(paddock, "server time", "console --w", "console web")
    assert found == [["timeline"], ["--watch"], ["web-1", "web-2"]]


def test_without_a_cloud_it_is_silent(tmp_path: Path) -> None:
    assert completed(Shell(tmp_path, "http://127.0.0.1:1"), "console w") == [[]]
