"""`paddock base`: reading, replacing and editing what servers are set up with."""

import sys
from pathlib import Path

from tests.cli.conftest import Shell
from tests.cli.server import BASE, Cloud
from tests.cli.terminal import on_terminal

OWN = "#cloud-config\nruncmd: [[touch, /run/own]]\n"


def test_show_set_reset(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    assert paddock.ok("base", "show") == BASE
    file = tmp_path / "own.yaml"
    file.write_text(OWN)
    said = "the base configuration is changed; servers that are made or rebuilt from now on get it\n"
    assert paddock.ok("base", "set", "-f", file) == said
    assert paddock.ok("base", "show") == cloud.base == OWN
    assert "is the default again" in paddock.ok("base", "reset")
    assert paddock.ok("base", "set", "-f", "-", input=OWN) == said


def test_what_is_refused(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    assert "its first line must be #cloud-config" in paddock.fails("base", "set", "-f", "-", input="a: b\n")
    assert "can't be read: No such file" in paddock.fails("base", "set", "-f", tmp_path / "nowhere")
    assert "there is no terminal for an editor" in paddock.fails("base", "edit")
    assert cloud.base == BASE


def test_edit_opens_again_what_can_not_be_used(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    """The editor is a script: it spoils the file first, and mends it when it is opened again."""
    editor = tmp_path / "editor.py"
    editor.write_text(
        "import sys, pathlib\nfile = pathlib.Path(sys.argv[1])\ntext = file.read_text()\n"
        f"file.write_text({OWN!r} if text == 'spoilt' else 'spoilt')\n"
    )
    with on_terminal(paddock, "base", "edit", EDITOR=f"{sys.executable} {editor}") as terminal:
        terminal.until("its first line must be #cloud-config")
        terminal.until("Open it again?")
        terminal.type("\n")
        terminal.until("the base configuration is changed")
        assert terminal.wait() == 0
    assert cloud.base == OWN


def test_edit_without_a_change(paddock: Shell, cloud: Cloud) -> None:
    with on_terminal(paddock, "base", "edit", EDITOR="true") as terminal:
        terminal.until("nothing is changed")
        assert terminal.wait() == 0
    with on_terminal(paddock, "base", "edit", EDITOR="no-such-editor") as terminal:
        terminal.until("no-such-editor is not installed")
        assert terminal.wait() == 1
    assert cloud.base == BASE
