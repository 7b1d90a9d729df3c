"""Images made of servers for other servers, and passwords of servers that are off, as people ask for them."""

import pytest

from paddock.cloud.models import Image, Server
from paddock.machine.image import Role
from tests.api.caller import Caller
from tests.api.shells import Person, anna, reader  # noqa: F401  # fixtures
from tests.cloud.harness import Cloud, make_image


@pytest.fixture(autouse=True)
def helper(cloud: Cloud) -> Image:
    assert cloud.node
    return make_image("rescue", "rescue", Role.KERNEL, Role.INITRD)


def test_an_image_of_a_server(anna: Person, cloud: Cloud) -> None:  # noqa: F811
    cloud.running_server("web")
    said = anna.ok("image", "create", "base", "--from", "web", "--keep", "logs", "--keep", "history", "-d", "for all")
    assert said.splitlines() == [
        "web is image base now; use it: paddock launch base",
        "all servers made of it share: logs: 1",
        "all servers made of it share: history: 1",
    ]
    shown = anna.json("image", "show", "base")
    assert (shown["type"], shown["description"], shown["x_shared"]) == (
        "snapshot",
        "for all",
        ["logs: 1", "history: 1"],
    )
    assert shown["created_from"]["name"] == "web"
    assert "host-keys: 1" in shown["x_cleaned"]
    assert "Shared:" in anna.ok("image", "show", "base")
    assert "clone" in anna.ok("launch", "base", "--name", "clone", "--type", "small")


def test_names_that_it_can_not_have(anna: Person, cloud: Cloud) -> None:  # noqa: F811
    cloud.running_server("web")
    anna.ok("image", "create", "base", "--from", "web")
    make_image("tools", "iso", Role.ISO, project=cloud.project())
    for name in ("base", "tiny", "tools"):
        assert f"there is already an image or ISO {name}\nhint: choose another NAME" in anna.fails(
            "image", "create", name, "--from", "web"
        )
    assert "nonsense" in anna.fails("image", "create", "x", "--from", "web", "--keep", "nonsense", code=2)
    assert anna.json("server", "show", "web")["status"] == "running"


def test_a_reader_makes_none(reader: Person, cloud: Cloud) -> None:  # noqa: F811
    cloud.running_server("web")
    assert "read" in reader.fails("image", "create", "base", "--from", "web")


def test_a_snapshot_of_v1_is_exact(ask: Caller, cloud: Cloud) -> None:
    row = cloud.running_server("web")
    said = ask.ok("POST", f"/v1/servers/{row.pk}/actions/create_image", {"description": "exact"})
    cloud.settle()
    image = ask.ok("GET", f"/v1/images/{said['image']['id']}")["image"]
    assert (image["status"], image["x_cleaned"], image["x_shared"]) == ("available", None, [])


def test_the_password_of_a_server_that_is_off(anna: Person, cloud: Cloud) -> None:  # noqa: F811
    row = cloud.stopped_server("db")
    for words in ((), ("--offline",)):
        lines = anna.ok("server", "reset-password", "db", *words).splitlines()
        assert lines[0] == "db has a new root password"
        kept = cloud.saved(row)["passwords"]["root"]
        assert kept == Server.objects.get(pk=row.pk).password_hash
        assert kept.startswith("$6$")
    cloud.running_server("web")
    assert "web is running" in anna.fails("server", "reset-password", "web", "--offline")


def test_v1_refuses_it_while_off_unless_asked(ask: Caller, cloud: Cloud) -> None:
    row = cloud.stopped_server("db")
    said = ask.ok("POST", f"/v1/servers/{row.pk}/actions/reset_password", {"x_offline": True})
    assert len(said["root_password"]) > 10
    cloud.settle()
    assert ask.ok("GET", f"/v1/actions/{said['action']['id']}")["action"]["status"] == "success"
