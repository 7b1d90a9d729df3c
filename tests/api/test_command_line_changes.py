"""What changes a server, on the real API: `paddock server rebuild`, `change-type`, `rescue`, ...; and its metrics."""

import json
import re
from typing import Any

import pytest

from paddock.base import clock
from paddock.cloud.models import Action
from paddock.machine.image import Role
from tests.api.shells import Person, anna, reader  # noqa: F401  # fixtures
from tests.cloud.harness import Cloud, make_image

pytestmark = pytest.mark.slow


@pytest.fixture
def web(anna: Person, cloud: Cloud) -> str:  # noqa: F811
    """One that runs."""
    return cloud.running_server("web").name


@pytest.fixture
def off(anna: Person, cloud: Cloud) -> str:  # noqa: F811
    return cloud.stopped_server("db").name


def test_rebuild(anna: Person, web: str) -> None:  # noqa: F811
    assert "would lose all data on web's system disk\nhint: if you mean it: --yes" in anna.fails(
        "server", "rebuild", web, "tiny"
    )
    before = anna.json("server", "show", web)
    said = anna.ok("server", "rebuild", web, "tiny", "--yes")
    assert said.startswith("web is rebuilt from tiny\n")
    assert anna.json("server", "show", web)["id"] == before["id"]
    assert anna.json("server", "rebuild", web, "tiny", "--yes")["command"] == "rebuild_server"
    assert "did you mean tiny?" in anna.fails("server", "rebuild", web, "tinny", "--yes")
    assert "there is no server 'wob'\nhint: did you mean web?" in anna.fails("server", "rebuild", "wob", "tiny", "-y")
    assert "Missing argument 'IMAGE'" in anna.fails("server", "rebuild", web, code=2)
    assert "nothing.yaml can't be read" in anna.fails(
        "server", "rebuild", web, "tiny", "-y", "--user-data", "nothing.yaml"
    )


def test_rebuild_takes_user_data(anna: Person, web: str) -> None:  # noqa: F811
    file = anna.home / "data.yaml"
    file.write_text("#cloud-config\n")
    anna.ok("server", "rebuild", web, "tiny", "--yes", "--user-data", str(file))
    assert Action.objects.filter(command="rebuild_server").latest("pk").status == "success"


def test_change_type(anna: Person, web: str, off: str) -> None:  # noqa: F811
    assert "power it off first" in anna.fails("server", "change-type", web, "micro")
    assert anna.ok("server", "change-type", off, "small", "--keep-disk") == "db is of type small\n"
    assert anna.ok("server", "change-type", off, "micro") == "db is of type micro\n"
    said = anna.fails("server", "change-type", off, "nano")
    assert "server type nano has 2 GB of disk, server db has 20 GB\nhint: disks never shrink\n" in said
    assert "there is no server type 'nope'" in anna.fails("server", "change-type", off, "nope")


def test_change_type_while_it_runs(anna: Person, cloud: Cloud) -> None:  # noqa: F811
    cloud.running_server("big", plan="micro")
    assert anna.ok("server", "change-type", "big", "small", "--live", "--keep-disk") == "big is of type small\n"
    assert "hint: power it off for anything else" in anna.fails("server", "change-type", "big", "micro", "--live")


def test_passwords_and_rescue(anna: Person, web: str) -> None:  # noqa: F811
    make_image("rescue", "rescue", Role.KERNEL, Role.INITRD)
    said = anna.ok("server", "reset-password", web).splitlines()
    assert said[0] == "web has a new root password"
    assert said[1].startswith("root's password, shown only now: ")
    assert len(anna.json("server", "reset-password", web)["root_password"]) > 10
    assert "there is no SSH key 'nope'" in anna.fails("server", "rescue", web, "--ssh-key", "nope")
    lines = anna.ok("server", "rescue", web, "--reboot").splitlines()
    assert lines[:2] == ["web boots the rescue system next time", "web boots the rescue system"]
    assert anna.ok("server", "rescue", web, "--off") == "web starts as usual\n"
    assert "root_password" in anna.json("server", "rescue", web)


def test_drives(anna: Person, web: str, cloud: Cloud) -> None:  # noqa: F811
    make_image("installer", "iso", Role.ISO, project=cloud.project())
    assert anna.ok("server", "attach-iso", web, "installer") == "web has installer in its drive\n"
    assert anna.ok("server", "detach-iso", web) == "web has an empty drive\n"
    assert "there is no ISO 'instaler'\nhint: did you mean installer?" in anna.fails(
        "server", "attach-iso", web, "instaler"
    )


def test_snapshots(anna: Person, web: str, reader: Person) -> None:  # noqa: F811
    assert anna.ok("snapshot", web, "--name", "before", "--label", "a=b") == (
        "web has snapshot before; use it: paddock launch before\n"
    )
    shown = anna.json("image", "show", "before")
    assert (shown["description"], shown["labels"], shown["x_state"]) == ("snapshot of web", {"a": "b"}, "ready")
    unnamed = anna.json("server", "snapshot", web, "-d", "of today")
    assert (unnamed["x_state"], unnamed["description"]) == ("ready", "of today")
    listed = anna.table("image", "list", "--type", "snapshot")
    assert [row[0] for row in listed] == ["NAME", "before", "-"]
    id = listed[2][1]
    assert anna.ok("image", "rename", id, "after") == f"image {id} is now after\n"
    assert "is already used: after" in anna.fails("image", "rename", "before", "after")
    assert "belongs to the catalogue" in anna.fails("image", "rename", "tiny", "mine")
    assert "already an image or ISO before" in anna.fails("snapshot", web, "--name", "before")
    assert "'A b' is no name of an image" in anna.fails("snapshot", web, "--name", "A b")
    anna.ok("image", "set", "after", "-d", "of yesterday")
    anna.ok("image", "label", "after", "env=prod")
    assert anna.ok("image", "list", "-q", "-l", "env=prod") == "after\n"
    assert "Made of:      web\n" in anna.ok("image", "show", "after")
    anna.ok("image", "protect", "after")
    done = anna.run("image", "delete", "after", "before")
    assert (done.returncode, done.stdout) == (1, "image before is deleted\n")
    assert "error: image after: snapshot deletion is protected\n" in done.stderr
    anna.ok("image", "protect", "after", "--off")
    assert "may only read" in reader.fails("image", "delete", "after")
    assert anna.ok("image", "rm", "after") == "image after is deleted\n"


def test_names_labels_protection(anna: Person, web: str, off: str, reader: Person) -> None:  # noqa: F811
    assert anna.ok("server", "rename", web, "www.example.com") == "web is now www.example.com\n"
    assert "is already used: db" in anna.fails("server", "rename", "www.example.com", "db")
    assert "must be a host name" in anna.fails("server", "rename", off, "a b")
    anna.ok("server", "label", off, "env=prod", "tier=")
    anna.ok("server", "label", off, "tier-")
    assert anna.json("server", "show", off)["labels"] == {"env": "prod"}
    assert anna.ok("server", "protect", off) == "db is protected\n"
    assert re.search("^Protected: +against delete and against rebuild$", anna.ok("server", "show", off), re.MULTILINE)
    assert "server deletion is protected" in anna.fails("rm", off)
    assert "rebuild is protected" in anna.fails("server", "rebuild", off, "tiny", "--yes")
    assert anna.ok("server", "protect", off, "--off") == "db may be deleted and rebuilt\n"
    assert "may only read" in reader.fails("server", "protect", off)


def test_a_screen(anna: Person, web: str, off: str) -> None:  # noqa: F811
    url, password = anna.ok("server", "screen", web).splitlines()
    assert (url.startswith(f"ws://127.0.0.1:{anna.endpoint.rsplit(':', 1)[1]}/x/v1/console/"), password[:10]) == (
        True, "password: ",
    )  # fmt: skip
    assert set(anna.json("server", "screen", web)) >= {"wss_url", "password"}
    assert "is off: it has no screen" in anna.fails("server", "screen", off)


def test_metrics(anna: Person, web: str, off: str, cloud: Cloud) -> None:  # noqa: F811
    clock.sleep(1.1)  # the fake's guests are measured by the second
    table = anna.table("server", "metrics", web, "--last", "10s")
    assert table[0] == ["SERIES", "LAST", "MEAN", "MOST", "COURSE"]
    assert [row[0] for row in table[1:4]] == ["cpu", "disk.0.bandwidth.read", "disk.0.bandwidth.write"]
    found: Any = anna.json("server", "metrics", web, "--last", "30m")
    assert (found["step"] > 0, len(found["time_series"])) == (True, 9)
    assert "'3' is no length of time\nhint: such as 30m" in anna.fails("server", "metrics", web, "--last", "3")
    assert "there is no server 'wob'" in anna.fails("server", "metrics", "wob")
    fresh = cloud.new_server("fresh").name
    assert "nothing was measured of fresh in the last 1h" in anna.run("server", "metrics", fresh).stderr
    assert json.loads(anna.ok("server", "metrics", fresh, "-o", "json"))["time_series"]


def test_server_types_with_what_sets_them_apart(anna: Person, reader: Person) -> None:  # noqa: F811
    size = ("--cpus", "2", "--memory", "1536M", "--disk", "20G")
    said = anna.ok("type", "create", "lab", *size, "--nested", "--huge-pages", "--hourly", "0.0150")
    assert said == "server type lab is made; use it: paddock launch IMAGE --type lab\n"
    try:
        made = anna.json("type", "show", "lab")
        assert (made["cores"], made["memory"], made["disk"]) == (2, 1.5, 20)
        assert (made["cpu_type"], made["x_nested"], made["x_huge_pages"]) == ("shared", True, True)
        rows = {line[0]: " ".join(line[1:]) for line in anna.table("type", "list")}
        assert rows["lab"].endswith("2 1.5G 20G 0.0150 EUR huge pages, nested")
        assert anna.json("type", "set", "lab", "--no-nested", "--dedicated-cpus", "--deprecated")["deprecated"]
        assert "dedicated CPUs, huge pages, deprecated" in anna.ok("type", "list", columns=120)
        assert "CPUs are:               dedicated" in anna.ok("type", "show", "lab")
        assert "nothing to change" in anna.fails("type", "set", "lab")
        assert "name is already used" in anna.fails("type", "create", "lab", *size)
        assert "is no whole amount" in anna.fails(
            "type", "create", "x", "--cpus", "1", "--memory", "1G", "--disk", "1.5G"
        )
        assert "this needs an operator's token" in reader.fails("type", "delete", "lab")
    finally:
        anna.ok("type", "delete", "lab")
    assert "there is no server type 'lab'" in anna.fails("type", "show", "lab")
