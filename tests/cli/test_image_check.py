"""`paddock image check`: the list of what makes a template good, by SSH or else by the guest agent."""

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from tests.cli.server import Cloud

TEMPLATE = {"name": "template", "server_type": "small", "image": 2, "ssh_keys": []}


@pytest.fixture
def template(cloud: Cloud, paddock: Shell) -> str:
    """A server that runs."""
    paddock.ok("launch", "tiny", "--name", "template", "--no-ssh-key")
    return "template"


def ssh_is(tmp_path: Path, script: str) -> str:
    """A PATH where ssh is this script."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin/ssh").chmod(0o755)
    return f"{tmp_path / 'bin'}:{os.environ['PATH']}"


def test_it_looks_around_in_the_guest(paddock: Shell, template: str, tmp_path: Path) -> None:
    """The guest is this host: it has Python."""
    done = paddock.run("image", "check", template, PATH=ssh_is(tmp_path, "sh -s"))
    rows = {line[:17].strip(): line[17:].split()[0] for line in done.stdout.splitlines()[1:]}
    assert (rows["reached by SSH"], rows["Python"]) == ("yes", "yes"), done
    assert set(rows) >= {"a key for root", "network by DHCP", "guest agent", "cloud-init", "serial console"}


def test_a_good_template(paddock: Shell, template: str, tmp_path: Path) -> None:
    lines = "".join(f"{name}\\tyes\\tseen\\n" for name in ("key", "python", "dhcp", "agent", "cloud-init", "console"))
    path = ssh_is(tmp_path, f"cat > /dev/null; printf '\\033[31mnoise\\n{lines}'")
    said = paddock.ok("image", "check", template, PATH=path)
    assert said.endswith("make an image of it: paddock image create NAME --from template\n")


def test_one_that_does_not_let_in(paddock: Shell, template: str, tmp_path: Path) -> None:
    path = ssh_is(tmp_path, "echo 'Permission denied (publickey)' >&2; exit 255")
    done = paddock.run("image", "check", template, PATH=path)
    assert done.returncode == 1
    assert "Permission denied (publickey)" in done.stdout
    assert "no good template yet: reached by SSH, a key for root, Python, network by DHCP" in done.stderr


def test_one_that_is_off(paddock: Shell, template: str, cloud: Cloud) -> None:
    paddock.ok("stop", template)
    assert "template is off" in paddock.fails("image", "check", template)
