"""What every command that changes something has: a sentence for people, `-o json` for programs, `--no-wait`."""

import json
from typing import Any

import pytest

from tests.cli.conftest import Shell
from tests.cli.server import Cloud
from tests.cli.test_help import SHOWN

WAITS_OR_NOT = (
    "server attach-iso", "server detach-iso", "server join", "server leave", "server rescue", "server rebuild",
    "server reset-password", "server change-type", "server run-step", "image prune", "image update", "volume attach",
)  # fmt: skip
# Programs of their own, whose output is somebody else's; and those that print what they are asked for as it is.
RAW = {
    "up", "down", "ssh", "console", "vnc", "exec", "cp", "inventory", "env", "shell", "server log", "server send-key",
    "base edit", "database backup", "database restore", "completion",
}  # fmt: skip


@pytest.mark.parametrize("path", SHOWN)
def test_every_command_can_be_read_by_programs(path: str) -> None:
    options = {option for parameter in SHOWN[path].params for option in parameter.opts}
    assert ("--output" in options) != (path in RAW), path


@pytest.mark.parametrize("path", WAITS_OR_NOT)
def test_what_is_waited_for_need_not_be(path: str) -> None:
    assert "--no-wait" in {option for parameter in SHOWN[path].params for option in parameter.opts}


def said(paddock: Shell, *words: str) -> Any:
    return json.loads(paddock.ok(*words, "-o", "json"))


def test_what_was_changed_is_shown_as_it_is_now(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    assert said(paddock, "server", "rename", "web", "www")["name"] == "www"
    assert said(paddock, "server", "label", "www", "env=prod")["labels"] == {"env": "prod"}
    assert said(paddock, "server", "protect", "www")["command"] == "change_protection"
    assert said(paddock, "server", "run-step", "www", "cloud_init")["status"] == "success"


def test_what_was_deleted_is_shown_as_it_was(paddock: Shell, cloud: Cloud) -> None:
    for number, name in ((1, "anna"), (2, "bert")):
        cloud.keys[number] = {"id": number, "name": name, "fingerprint": "ab", "labels": {}}
    assert [k["name"] for k in said(paddock, "ssh-key", "delete", "anna", "bert")] == ["anna", "bert"]
    assert cloud.keys == {}


def test_nothing_is_waited_for(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    before = len(cloud.requests)
    assert paddock.ok("server", "detach-iso", "web", "--no-wait") == "web: detach_iso is accepted, action 1\n"
    assert not [path for _, path, _ in cloud.requests[before:] if path.startswith("/v1/actions")]
    assert said(paddock, "server", "detach-iso", "web", "--no-wait")["status"] == "running"
