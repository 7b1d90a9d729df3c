"""`paddock apply`: a description becomes servers, once; and what it refuses."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from tests.cli.server import Cloud

SHOP = """
stack: shop
servers:
  - {name: web, image: tiny, count: 2, group: pf1, role: web, labels: {env: prod}}
  - {name: db, image: tiny, type: small, group: pf1, role: sql, state: off}
"""


def described(tmp_path: Path, text: str, name: str = "stack.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def names(cloud: Cloud) -> list[str]:
    return [s["name"] for s in cloud.servers.values()]


def test_a_description_becomes_servers_and_a_second_time_nothing(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    file = described(tmp_path, SHOP)
    shown = paddock.ok("apply", "-f", file, "--dry-run")
    assert [line.split()[:2] for line in shown.splitlines()[1:]] == [
        ["web-1", "create"], ["web-2", "create"], ["db", "create"],
    ]  # fmt: skip
    assert not cloud.servers
    said = paddock.ok("apply", "-f", file, "--yes")
    assert said.endswith("web-1 is created\nweb-2 is created\ndb is created\n")
    web, _, db = cloud.servers.values()
    assert web["labels"] == {"env": "prod", "paddock.stack": "shop"}
    assert (web["x_group"], web["x_role"], web["status"]) == ("pf1", "web", "running")
    assert (db["server_type"]["name"], db["status"]) == ("small", "off")
    assert paddock.ok("apply", "-f", file) == "nothing to do: all is as described\n"


def test_what_differs_is_changed_and_what_is_left_over_only_with_prune(
    paddock: Shell, cloud: Cloud, tmp_path: Path
) -> None:
    paddock.ok("apply", "-f", described(tmp_path, SHOP), "--yes")
    cloud.add("other")
    smaller = "stack: shop\nservers:\n  - {name: web, image: tiny, count: 1, state: off}\n  - {name: db, image: tiny}\n"
    file = described(tmp_path, smaller)
    shown = json.loads(paddock.ok("apply", "-f", file, "-n", "-o", "json"))
    assert [(c["server"], c["change"]) for c in shown] == [("web-1", "stop"), ("db", "start")]
    assert "hint: if you mean it: --yes" in paddock.fails("apply", "-f", file, "--prune")
    paddock.ok("apply", "-f", file, "--prune", "--yes")
    assert {s["name"]: s["status"] for s in cloud.servers.values()} == {
        "web-1": "off", "db": "running", "other": "running",
    }  # fmt: skip


def test_another_image_or_type_is_refused_with_the_command_for_it(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    cloud.add("web")
    said = paddock.fails("apply", "-f", described(tmp_path, "servers: [{name: web, image: debian-12}]"), "-y")
    assert "`paddock server rebuild web debian-12`" in said
    said = paddock.fails("apply", "-f", described(tmp_path, "servers: [{name: web, image: tiny, type: medium}]"), "-y")
    assert "`paddock stop web && paddock server change-type web medium`" in said


def test_lines_of_the_mini_cloud(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    paddock.ok("apply", "-f", described(tmp_path, "# a test\ntiny:2:pf1:web\ntiny:1:pf1:sql\n", "pftest"), "-y")
    assert names(cloud) == ["pf1-web-1", "pf1-web-2", "pf1-sql-1"]
    assert {s["labels"]["paddock.stack"] for s in cloud.servers.values()} == {"pftest"}


def test_bad_descriptions_name_the_place(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    for text, said in (
        ("servers: [{image: tiny, cuont: 2}]", "servers, number 1, cuont: there is no such field"),
        ("servers: [{name: a, imge: tiny}]", "imge: there is no such field\nhint: there are: name, image, type, count"),
        ("servers: [{name: a, image: tiny}, {name: b}]", "servers, number 2, image: is missing"),
        ("server: []", "server: there is no such field\nhint: there are: stack, type, ssh_keys, servers"),
        ("servers: [{name: Bad_Name, image: tiny}]", "'Bad_Name' is no name for a server"),
        ("servers: [{name: a, image: tiny}, {name: a, image: tiny}]", "two servers of the description are called a"),
        ("servers: [{name: a, image: tinny}]", "did you mean tiny?"),
        ("servers: [", "is not YAML"),
        ("tiny:many:x:y", "line 1: 'tiny:many:x:y' is not image:count:group:role"),
        ("servers: [{name: a, image: tiny, user_data_file: nowhere}]", "nowhere can't be read"),
    ):
        assert said in paddock.fails("apply", "-f", described(tmp_path, text), "-y")
    assert "error: /nowhere can't be read: No such file or directory\n" in paddock.fails("apply", "-f", "/nowhere")
    assert not cloud.servers


@pytest.mark.parametrize("status", ["off", "paused", "hibernated"])
def test_what_shall_run_is_started_from_wherever_it_is(
    paddock: Shell, cloud: Cloud, tmp_path: Path, status: str
) -> None:
    cloud.add("web", status=status, labels={"paddock.stack": "default"})
    file = described(tmp_path, "servers: [{name: web, image: tiny}]")
    assert f"it is {status}" in paddock.ok("apply", "-f", file, "-y")
    assert cloud.servers[1]["status"] == "running"


def test_one_that_fails_stops_no_other(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    cloud.add("web", status="off", labels={"paddock.stack": "default"})
    cloud.fail_step = "clone"
    said = paddock.fails(
        "apply", "-f", described(tmp_path, "servers: [{name: a, image: tiny}, {name: web, image: tiny}]")
    )
    assert "error: a: no room on n1" in said
    assert cloud.servers[1]["status"] == "running"
