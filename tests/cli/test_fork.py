"""`paddock server fork`: one, several, what is said of them, and what goes wrong."""

import json

from tests.cli.conftest import Shell
from tests.cli.server import Cloud


def test_one(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    assert paddock.ok("server", "fork", "web").splitlines() == [
        "web was forked: it stood still for 12.5 ms",
        "web-fork-1 is ready by ssh+agent after 14 s; log in: paddock ssh web-fork-1",
    ]
    [body] = [body for method, path, body in cloud.requests if (method, path) == ("POST", "/x/v1/servers/1/fork")]
    assert body == {}


def test_several(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    assert paddock.ok("server", "fork", "web", "-c", "2", "--name", "db", "-l", "env=test", "-q") == "db-1\ndb-2\n"
    [body] = [body for method, path, body in cloud.requests if path == "/x/v1/servers/1/fork" and method == "POST"]
    assert body == {"count": 2, "name": "db", "labels": {"env": "test"}}
    said = json.loads(paddock.ok("server", "fork", "web", "--count", "2", "-o", "json"))
    assert [server["name"] for server in said["servers"]] == ["web-fork-1", "web-fork-2"]
    assert said["action"]["command"] == "fork_server"


def test_without_waiting(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    said = paddock.ok("server", "fork", "web", "--no-wait")
    assert said == "web is being forked; look with: paddock server show web-fork-1\n"


def test_what_fails(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    cloud.fail_step = "place"
    done = paddock.run("server", "fork", "web")
    assert done.returncode == 1
    assert "web-fork-1: " in done.stderr
    assert "ready" not in done.stdout
    assert paddock.run("server", "fork", "no-such").returncode == 1
    assert paddock.run("server", "fork", "web", "--label", "no").returncode != 0
