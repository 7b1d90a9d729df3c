"""Forks of a server through the API: how many, how they are called, and what is refused in which words."""

from collections.abc import Iterator
from typing import Any

import pytest

from paddock.cloud.models import Server
from tests.api.caller import Caller
from tests.api.keys import ed25519
from tests.cloud.harness import Cloud


@pytest.fixture(autouse=True)
def _nothing_left(cloud: Cloud) -> Iterator[None]:
    yield
    cloud.reset()


class Parent:
    """A server that runs, and how it is forked."""

    def __init__(self, ask: Caller, cloud: Cloud) -> None:
        self.ask, self.cloud = ask, cloud
        self.id = cloud.running_server("web").pk
        self.path = f"/x/v1/servers/{self.id}/fork"

    def fork(self, **body: Any) -> dict[str, Any]:
        said: dict[str, Any] = self.ask.ok("POST", self.path, body)
        return said


@pytest.fixture
def parent(ask: Caller, cloud: Cloud) -> Parent:
    return Parent(ask, cloud)


def test_names(parent: Parent) -> None:
    """Each way to say how they are called; every answer names the new servers with their actions."""
    wanted: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["web-fork-1"]),
        ({"count": 2}, ["web-fork-2", "web-fork-3"]),
        ({"name": "db"}, ["db"]),
        ({"name": "db", "count": 2}, ["db-1", "db-2"]),
        ({"names": ["a", "b"]}, ["a", "b"]),
    ]
    for body, names in wanted:
        said = parent.fork(**body)
        assert [server["name"] for server in said["servers"]] == names
        assert [server["x_status"] for server in said["servers"]] == ["initializing"] * len(names)
        assert said["action"]["command"] == "fork_server"
        assert [action["command"] for action in said["next_actions"]] == ["create_server"] * len(names)
        about = [resource["id"] for resource in said["action"]["resources"]]
        assert about == [parent.id, *(server["id"] for server in said["servers"])]
        parent.cloud.settle()
        for server in said["servers"]:
            shown = parent.ask.ok("GET", f"/v1/servers/{server['id']}")["server"]
            assert (shown["x_status"], shown["x_began"], shown["x_problem"]) == ("running", "fork", None)
        done = parent.ask.ok("GET", f"/v1/actions/{said['action']['id']}")["action"]
        assert done["status"] == "success"
        assert [step["detail"] for step in done["x_steps"] if step["name"] == "fork"] == ["it stood still for 10 ms"]


def test_keys_and_labels(parent: Parent) -> None:
    key = parent.ask.ok("POST", "/v1/ssh_keys", {"name": "more", "public_key": ed25519("more")})["ssh_key"]
    said = parent.fork(ssh_keys=["more"], labels={"env": "test"})
    row = Server.objects.get(pk=said["servers"][0]["id"])
    assert row.public_keys == [*Server.objects.get(pk=parent.id).public_keys, key["public_key"]]
    assert row.labels == {"env": "test"}
    parent.cloud.settle()


def test_refused(parent: Parent) -> None:
    refused = parent.ask.refused
    wrong: list[dict[str, Any]] = [
        {"count": 0}, {"count": 101}, {"names": []}, {"names": ["a", "A"]}, {"name": "a b"},
        {"names": ["a"], "name": "b"}, {"names": ["a"], "count": 2}, {"ssh_keys": ["no such"]},
    ]  # fmt: skip
    for body in wrong:
        refused("POST", parent.path, body, 422, "invalid_input")
    refused("POST", parent.path, {"name": "WEB"}, 409, "uniqueness_error")
    parent.ask.ok("POST", f"/x/v1/servers/{parent.id}/actions/pause")
    parent.cloud.settle()
    refused("POST", parent.path, {}, 409, "conflict")
    assert Server.objects.count() == 1
