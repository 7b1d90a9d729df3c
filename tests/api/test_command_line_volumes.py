"""`paddock volume` and `paddock placement-group` on the real API: what each says when it goes well, and when not."""

import re

import pytest

from tests.api.shells import Person, anna, reader  # noqa: F401  # fixtures
from tests.cli.terminal import on_terminal
from tests.cloud.harness import Cloud

pytestmark = pytest.mark.slow


@pytest.fixture
def data(anna: Person) -> str:  # noqa: F811
    anna.ok("volume", "create", "data", "--size", "10", "--format", "ext4", "--label", "env=prod")
    return "data"


def test_the_life_of_a_volume(anna: Person, data: str, cloud: Cloud) -> None:  # noqa: F811
    cloud.running_server("web")
    assert anna.table("volume", "list")[1][0:6:2] == [data, "10", "ext4"]
    device = anna.json("volume", "show", data)["linux_device"]
    assert anna.ok("volume", "attach", data, "web", "--automount") == f"volume data is attached to web: {device}\n"
    shown = anna.ok("volume", "show", data)
    assert ("Server:               web" in shown, device in shown) == (True, True)
    assert anna.table("volume", "ls")[1][6] == "web"
    assert re.search("^Volumes: +data$", anna.ok("server", "show", "web"), re.MULTILINE)
    assert anna.ok("volume", "resize", data, "--size", "20G") == "volume data has 20 GB\n"
    assert anna.ok("volume", "detach", data) == "volume data is detached\n"
    assert anna.ok("volume", "rename", data, "old") == "volume data is now old\n"
    anna.ok("volume", "label", "old", "env-", "tier=cold")
    assert anna.ok("volume", "list", "-q", "-l", "tier=cold") == "old\n"
    assert anna.ok("volume", "list", "-q", "-l", "env=prod") == ""
    anna.ok("volume", "protect", "old")
    assert "error: volume old: volume deletion is protected\n" in anna.fails("volume", "delete", "old", "--yes")
    anna.ok("volume", "protect", "old", "--off")
    assert anna.ok("volume", "rm", "old", "-y") == "volume old is deleted\n"
    assert anna.json("volume", "list") == []


def test_a_volume_with_its_server(anna: Person, cloud: Cloud) -> None:  # noqa: F811
    cloud.running_server("web")
    said = anna.ok("volume", "create", "logs", "-s", "1T", "--format", "xfs", "--server", "web", "--automount")
    assert said == "volume logs is made\nvolume logs is attached to web\n"
    made = anna.json("volume", "create", "more", "-s", "10", "--server", "web")
    assert (made["name"], made["size"], made["server"]) == ("more", 10, anna.json("server", "show", "web")["id"])
    said = anna.ok("volume", "create", "late", "-s", "10", "--no-wait")
    assert said.startswith("volume late: create_volume is accepted, action ")


def test_what_is_no_volume(anna: Person, data: str, reader: Person) -> None:  # noqa: F811
    assert "hint: did you mean data?" in anna.fails("volume", "show", "dta")
    assert "there is no server 'nope'\nhint: there is no server at all yet" in anna.fails(
        "volume", "attach", data, "nope"
    )
    assert "is already used: data" in anna.fails("volume", "create", data, "--size", "10")
    assert "greater than or equal to 10" in anna.fails("volume", "create", "few", "--size", "9")
    assert "never shrink" in anna.fails("volume", "resize", data, "--size", "10")
    assert "is not attached" in anna.fails("volume", "detach", data)
    assert "--label 'a' is not key=value" in anna.fails("volume", "create", "x", "-s", "10", "--label", "a")
    assert "neither key=value" in anna.fails("volume", "label", data, "a")
    assert "can't be read from character" in anna.fails("volume", "list", "-l", "a b")
    assert "say 10, 50G or 1T" in anna.fails("volume", "create", "x", "--size", "ten", code=2)
    assert "goes with --server" in anna.fails("volume", "create", "x", "--size", "10", "--automount", code=2)
    assert "'ntfs' is not one of 'ext4', 'xfs'" in anna.fails("volume", "create", "x", "-s", "10", "-f", "ntfs", code=2)
    assert "Missing option '-s' / '--size'" in anna.fails("volume", "create", "x", code=2)
    assert "if you mean it: --yes" in anna.fails("volume", "delete", data)
    assert "may only read" in reader.fails("volume", "create", "x", "--size", "10")
    assert [v["name"] for v in reader.json("volume", "list")] == [data]


def test_a_volume_that_can_not_go_stops_no_other(anna: Person, data: str, cloud: Cloud) -> None:  # noqa: F811
    cloud.running_server("web")
    anna.ok("volume", "attach", data, "web")
    anna.ok("volume", "create", "spare", "-s", "10")
    done = anna.run("volume", "delete", data, "spare", "--yes")
    assert (done.returncode, done.stdout) == (1, "volume spare is deleted\n")
    assert done.stderr == "error: volume data is still attached to server web\nhint: detach it first\n"
    assert "there is no volume 'nope'" in anna.fails("volume", "delete", data, "nope", "--yes")


def test_a_person_is_asked_before_data_is_lost(anna: Person, data: str) -> None:  # noqa: F811
    for answer, code in (("n", 1), ("y", 0)):
        with on_terminal(anna, "volume", "delete", data) as terminal:
            terminal.until("Delete data and all data there? [y/N]: ")
            terminal.type(f"{answer}\n")
            terminal.until("nothing is deleted" if code else "volume data is deleted")
            assert terminal.wait() == code


def test_a_failed_mount_is_said_once(anna: Person, data: str, cloud: Cloud) -> None:  # noqa: F811
    cloud.stopped_server("web")
    said = anna.fails("volume", "attach", data, "web", "--automount")
    assert "error: volume data is attached, but not mounted: server web is off\nhint: start the server" in said


def test_placement_groups(anna: Person, cloud: Cloud, reader: Person) -> None:  # noqa: F811
    cloud.stopped_server("db-1")
    cloud.running_server("db-2")
    assert anna.ok("placement-group", "create", "dbs", "--label", "env=prod") == "placement group dbs is made\n"
    assert anna.json("placement-group", "create", "other")["type"] == "spread"
    assert "is already used: dbs" in anna.fails("placement-group", "create", "dbs")
    assert anna.ok("server", "join", "db-1", "dbs") == "db-1 is in dbs\n"
    assert "in a placement group already" in anna.fails("server", "join", "db-1", "other")
    assert "power it off first" in anna.fails("server", "join", "db-2", "dbs")
    assert "hint: did you mean dbs?" in anna.fails("server", "join", "db-2", "dbz")
    shown = anna.ok("placement-group", "show", "dbs")
    assert ("Servers:  db-1\n" in shown, "Labels:   env=prod\n" in shown) == (True, True)
    listed = [(row[0], row[2], row[3]) for row in anna.table("placement-group", "list")[1:]]
    assert listed == [("dbs", "spread", "1"), ("other", "spread", "0")]
    assert anna.ok("placement-group", "rename", "dbs", "databases") == "placement group dbs is now databases\n"
    anna.ok("placement-group", "label", "databases", "env-", "a=b")
    assert anna.json("placement-group", "show", "databases")["labels"] == {"a": "b"}
    assert anna.ok("server", "leave", "db-1") == "db-1 is in no placement group\n"
    assert "may only read" in reader.fails("placement-group", "delete", "databases")
    assert anna.ok("placement-group", "rm", "databases", "other").count("is deleted") == 2
    assert "there is no placement group at all yet" in anna.fails("placement-group", "show", "databases")
