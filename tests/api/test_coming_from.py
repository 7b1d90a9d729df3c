"""docs/coming-from.md is true: all its commands are run in order, and print what stands there.

`PADDOCK_GOLDEN=write` writes what they print now into the page.
"""

import os
import random
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db.models.functions import Now

from paddock.base import clock
from paddock.base.settings import Settings
from paddock.cli import names
from paddock.cloud.models import Node, Server
from paddock.machine.image import Role
from tests.agent.process import AgentProcess
from tests.api.shells import Person, anna  # noqa: F401  # fixtures
from tests.api.test_uploads import iso
from tests.cli.terminal import on_terminal
from tests.cli.test_help import _check_call
from tests.cloud.harness import Cloud, make_image

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "coming-from.md"
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = "paddock> "
WIDE = 100  # columns
WORDS = re.compile(rf"({'|'.join(names.ADJECTIVES)})-({'|'.join(names.ANIMALS)})")


def test_what_is_run(
    anna: Person,  # noqa: F811
    cloud: Cloud,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """cloudMe's user has the node n1 alone; kvm-cloud's has two, called as theirs are."""
    make_image("rescue", "rescue", Role.KERNEL, Role.INITRD)
    (anna.home / "archlinux.iso").write_bytes(iso())
    monkeypatch.chdir(anna.home)
    monkeypatch.setattr("paddock.cli.names.secrets.choice", random.Random(1).choice)
    page = PAGE.read_text(encoding="utf-8")
    mine, theirs = page.split("\n## kvm-cloud\n")
    written = _run_blocks(anna, mine)
    with _controllers(anna):
        written += "\n## kvm-cloud\n" + _run_blocks(anna, theirs)
    if os.environ.get("PADDOCK_GOLDEN") == "write":
        PAGE.write_text(written, encoding="utf-8")
    assert written == PAGE.read_text(encoding="utf-8")


def test_what_needs_a_guest_or_a_host_is_there_to_be_typed() -> None:
    text = PAGE.read_text(encoding="utf-8")
    lines = re.findall(r"^    (.*)$", BLOCK.sub("", text), re.MULTILINE)
    inline = re.findall(r"`(paddock [^`]*)`", text)
    called = [call for call in (*lines, *inline) if call.startswith("paddock ")]
    assert len(called) > 20
    for call in called:
        _check_call(shlex.split(call)[1:], call)


def test_the_settings_are_settings() -> None:
    [text] = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    nodes = Settings.model_validate(tomllib.loads(text)).node
    assert [(n.name, n.first_id, n.first_ssh_port) for n in nodes] == [("s1", 1000, 2200), ("s2", 2000, 2300)]


@contextmanager
def _controllers(person: Person) -> Iterator[None]:
    """The cloud with kvm-cloud's two nodes, empty, instead of its one."""
    person.ok("rm", "--all", "--yes")
    before, agent = Node.objects.get(name="n1").driver, AgentProcess("fake", "s2")
    try:
        agent.start()
        room = {"cpus": 8, "memory_mib": 16384, "disk_gib": 200, "settings": {"shared": True}, "driver": "fake"}
        Node.objects.filter(name="n1").update(**room, name="s1", last_number=0, last_placed=1, last_seen=Now())
        node = Node.objects.get(name="s1")
        node.pk, node.name, node.first_id, node.first_ssh_port = None, "s2", 2000, 2300
        node.url, node.last_placed, node.last_seen = agent.url, 2, Now()
        node.save(force_insert=True)
        yield
        person.ok("rm", "--all", "--yes")
    finally:
        Node.objects.filter(name="s1").update(name="n1", driver=before)
        agent.close()


def _run_blocks(person: Person, text: str) -> str:
    """The text with what its commands print now."""
    return BLOCK.sub(lambda found: f"```console\n{_run_block(person, found[1])}```", text)


def _run_block(person: Person, block: str) -> str:
    typed = [line for line in block.splitlines() if line.startswith(("$ ", PROMPT))]
    if any(line.startswith(PROMPT) for line in typed):
        return _evened(person, _at_the_prompt(person, typed))
    return "".join(_evened(person, f"{line}\n{_run(person, line[2:])}") for line in typed)


def _run(person: Person, line: str) -> str:
    """What it prints, asked when nothing is under way, as it would be by a person."""
    end = clock.monotonic() + 60
    while Server.objects.filter(next_at__isnull=False).exists():
        assert clock.monotonic() < end, f"before {line}: the servers do not come to rest"
        clock.sleep(0.02)
    if not line.startswith("paddock "):
        done = subprocess.run(["sh", "-c", line], cwd=person.home, capture_output=True, text=True, check=True)
        return done.stdout
    told = person.run(*shlex.split(line)[1:], columns=WIDE)
    assert told.returncode == 0, f"{line}: {told.stdout}{told.stderr}"
    return told.stdout


def _at_the_prompt(person: Person, typed: list[str]) -> str:
    """A session at `paddock shell` on a terminal, as it is seen there."""
    shown = f"{typed[0]}\n"
    with on_terminal(person, *shlex.split(typed[0])[2:], mute=True, TERM="dumb", NO_COLOR="1") as terminal:
        for line in typed[1:]:
            shown += terminal.until(PROMPT)
            terminal.type(line.removeprefix(PROMPT) + "\n")
        assert terminal.wait() == 0
        shown += terminal.seen
    return "".join(f"{line.rstrip()}\n" for line in shown.replace("\r", "").splitlines())


def _evened(person: Person, text: str) -> str:
    """Without what is another in each run: times, the home directory, names and ids that are drawn."""
    text = text.replace(str(person.home), "/home/anna")
    text = re.sub(r"after [0-9.]+ m?s", "after 6 s", text)
    text = re.sub(r"(?<= )[ 0-9][0-9][sm]$", " 9s", text, flags=re.MULTILINE)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "00000000-0000-4000-8000-000000000001", text)
    drawn = list(dict.fromkeys(found[0] for found in WORDS.finditer(text)))
    for number, words in enumerate(drawn):
        text = text.replace(words, f"{names.ADJECTIVES[number]}-{names.ANIMALS[number]}")
    return text
