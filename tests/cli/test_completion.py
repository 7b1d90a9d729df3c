"""Completion as a real bash does it, with the script that `paddock` prints for it."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from tests.cli.server import Cloud


def completed(paddock: Shell, *words: str) -> list[str]:
    """What bash offers after these words, the last of which is not whole."""
    program = paddock.home / "bin/paddock"
    if not program.exists():
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m paddock.cli.main "$@"\n')
        program.chmod(0o755)
    typed = " ".join(shlex.quote(word) for word in ("paddock", *words))
    script = (
        'eval "$(paddock --show-completion bash)"\n'
        f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}\n"
        "complete -p paddock > /dev/null || exit 1\n"
        '_paddock_completion paddock\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    env = {**paddock.env, "PATH": f"{program.parent}:{paddock.env['PATH']}"}
    done = subprocess.run(["bash", "--norc", "-c", script], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_commands_options_and_servers(paddock: Shell, cloud: Cloud) -> None:
    for name in ("web-1", "web-2", "db"):
        cloud.add(name)
    assert completed(paddock, "cons") == ["console"]
    assert completed(paddock, "server", "time") == ["timeline"]
    assert completed(paddock, "console", "--w") == ["--watch"]
    assert completed(paddock, "console", "web") == ["web-1", "web-2"]


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "nonsense"])
def test_without_a_cloud_it_is_silent(paddock: Shell, endpoint: str, tmp_path: Path) -> None:
    assert completed(Shell(tmp_path, endpoint), "console", "w") == []
