"""Volumes through the API: what can be asked of them, what is refused and how, and what a server shows of them."""

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from paddock.cloud.models import Action, Image, PlacementGroup, Project, Server, Volume
from tests.api.caller import Caller, fields
from tests.cloud.harness import Cloud

GOOD: dict[str, Any] = {"name": "data", "size": 10, "location": "local"}


@pytest.fixture(autouse=True)
def _no_volumes(cloud: Cloud) -> Iterator[None]:
    yield
    cloud.reset()


def volume(ask: Caller, **more: Any) -> dict[str, Any]:
    """A new volume."""
    made: dict[str, Any] = ask.ok("POST", "/v1/volumes", {**GOOD, **more})
    return made


def shown(ask: Caller, id: int) -> dict[str, Any]:
    found: dict[str, Any] = ask.ok("GET", f"/v1/volumes/{id}")["volume"]
    return found


def test_a_volume_that_nobody_has(ask: Caller, cloud: Cloud) -> None:
    made = volume(ask, labels={"a": "b"}, format="ext4")
    assert (made["action"]["command"], made["next_actions"]) == ("create_volume", [])
    cloud.settle()
    found = shown(ask, made["volume"]["id"])
    assert (found["status"], found["size"], found["server"], found["format"]) == ("available", 10, None, "ext4")
    assert found["linux_device"] == f"/dev/disk/by-id/scsi-0HC_Volume_{found['id']}"
    assert (found["location"]["name"], found["labels"]) == ("local", {"a": "b"})
    assert ask.ok("GET", f"/v1/actions/{made['action']['id']}")["action"]["status"] == "success"


def test_its_life_at_a_server(ask: Caller, cloud: Cloud) -> None:
    server = cloud.running_server()
    made = volume(ask, name="data", server=server.pk, location=None)
    id = made["volume"]["id"]
    assert [a["command"] for a in made["next_actions"]] == ["attach_volume"]
    about = made["next_actions"][0]["resources"]
    assert about == [{"id": id, "type": "volume"}, {"id": server.pk, "type": "server"}]
    cloud.settle()
    assert shown(ask, id)["server"] == server.pk
    assert ask.ok("GET", f"/v1/servers/{server.pk}")["server"]["volumes"] == [id]
    resized = ask.ok("POST", f"/v1/volumes/{id}/actions/resize", {"size": 20.0})["action"]
    cloud.settle()
    assert shown(ask, id)["size"] == 20
    assert ask.ok("GET", f"/v1/actions/{resized['id']}")["action"]["status"] == "success"
    ask.refused("DELETE", f"/v1/volumes/{id}", None, 422, "resource_in_use")
    ask.ok("POST", f"/v1/volumes/{id}/actions/detach")
    cloud.settle()
    assert shown(ask, id)["server"] is None
    assert ask.ok("GET", f"/v1/servers/{server.pk}")["server"]["volumes"] == []
    assert ask("DELETE", f"/v1/volumes/{id}").status_code == 204
    ask.refused("GET", f"/v1/volumes/{id}", None, 404, "not_found")
    cloud.settle()
    assert not Volume.objects.exists()


def test_attached_to_one_server_only(ask: Caller, cloud: Cloud) -> None:
    one, other = cloud.running_server("one"), cloud.running_server("other")
    id = volume(ask)["volume"]["id"]
    cloud.settle()
    ask.ok("POST", f"/v1/volumes/{id}/actions/attach", {"server": one.pk})
    cloud.settle()
    ask.refused("POST", f"/v1/volumes/{id}/actions/attach", {"server": other.pk}, 422, "volume_already_attached")
    assert shown(ask, id)["server"] == one.pk


def test_protection(ask: Caller, cloud: Cloud) -> None:
    id = volume(ask)["volume"]["id"]
    cloud.settle()
    action = ask.ok("POST", f"/v1/volumes/{id}/actions/change_protection", {"delete": True})["action"]
    assert (action["command"], action["status"], action["progress"]) == ("change_protection", "success", 100)
    assert shown(ask, id)["protection"] == {"delete": True}
    error = ask.refused("DELETE", f"/v1/volumes/{id}", None, 423, "protected")
    assert error["message"] == "volume deletion is protected"
    ask.ok("POST", f"/v1/volumes/{id}/actions/change_protection", {})  # as it was
    assert shown(ask, id)["protection"] == {"delete": True}
    ask.ok("POST", f"/v1/volumes/{id}/actions/change_protection", {"delete": False})
    ask.ok("DELETE", f"/v1/volumes/{id}")


def test_a_new_server_with_volumes(ask: Caller, cloud: Cloud) -> None:
    ids = [volume(ask, name=name)["volume"]["id"] for name in ("a", "b")]
    cloud.settle()
    body = {"name": "web-1", "server_type": "nano", "image": "tiny", "volumes": [ids[1], ids[0], ids[1]]}
    made = ask.ok("POST", "/v1/servers", body)
    assert [a["command"] for a in made["next_actions"]] == ["attach_volume", "attach_volume"]
    assert made["server"]["volumes"] == ids
    taken = ask.refused("POST", "/v1/servers", {**body, "name": "web-2"}, 422, "volume_already_attached")
    assert "web-1" in taken["message"]
    cloud.settle()
    assert [shown(ask, id)["server"] for id in ids] == [made["server"]["id"]] * 2
    for action in (made["action"], *made["next_actions"]):
        assert ask.ok("GET", f"/v1/actions/{action['id']}")["action"]["status"] == "success"
    listed = ask.ok("GET", f"/v1/servers/{made['server']['id']}/actions?sort=id")["actions"]
    assert [a["command"] for a in listed] == ["create_server", "attach_volume", "attach_volume"]
    ask.ok("DELETE", f"/v1/servers/{made['server']['id']}")
    cloud.settle()
    assert [(shown(ask, id)["server"], shown(ask, id)["size"]) for id in ids] == [(None, 10)] * 2


BAD: list[tuple[str, Any, str]] = [
    *(("name", name, "1 to 64") for name in ("", "-a", "a-", "a b", "ä", "x" * 65, "a/b", "a\n")),
    ("size", 9, "10"), ("size", 10241, "10240"), ("size", 10.5, "integer"), ("size", "10", "integer"),
    ("size", True, "integer"), ("format", "ntfs", "'ext4' or 'xfs'"), ("location", "moon", "there is no location"),
    ("location", None, "unless a server is named"), ("server", 987654, "there is no server '987654'"),
    ("server", "web", "integer"), ("automount", True, "needs a server"), ("labels", {"a b": "c"}, "is no label"),
]  # fmt: skip


def test_a_field(ask: Caller) -> None:
    for field, value, says in BAD:
        error = ask.refused("POST", "/v1/volumes", {**GOOD, field: value}, 422, "invalid_input")
        assert says in " ".join(fields(error)[field]), (field, value)
    for field in ("name", "size"):
        body = {k: v for k, v in GOOD.items() if k != field}
        assert field in fields(ask.refused("POST", "/v1/volumes", body, 422, "invalid_input"))
    assert not Volume.objects.exists()


def test_names(ask: Caller) -> None:
    one, other = (volume(ask, name=name)["volume"]["id"] for name in ("one", "other"))
    error = ask.refused("POST", "/v1/volumes", {**GOOD, "name": "one"}, 409, "uniqueness_error")
    assert error["message"] == "name is already used"
    assert list(fields(error)) == ["name"]
    ask.refused("PUT", f"/v1/volumes/{other}", {"name": "one"}, 409, "uniqueness_error")
    bad: list[Any] = [{"name": ""}, {"name": "a b"}, {"labels": {"a b": "c"}}, {"labels": []}, {"name": 1}]
    for wrong in bad:
        ask.refused("PUT", f"/v1/volumes/{other}", wrong, 422, "invalid_input")
    changed = ask.ok("PUT", f"/v1/volumes/{other}", {"name": "Two.2", "labels": {"a": "b"}})["volume"]
    assert (changed["name"], changed["labels"]) == ("Two.2", {"a": "b"})
    assert ask.ok("PUT", f"/v1/volumes/{other}", {})["volume"]["labels"] == {"a": "b"}
    assert [v["id"] for v in ask.ok("GET", "/v1/volumes?name=one")["volumes"]] == [one]
    assert [v["id"] for v in ask.ok("GET", "/v1/volumes?label_selector=a=b")["volumes"]] == [other]
    assert [v["id"] for v in ask.ok("GET", "/v1/volumes?sort=id:desc")["volumes"]] == [other, one]


def test_a_size_it_can_not_have(ask: Caller, cloud: Cloud) -> None:
    id = volume(ask)["volume"]["id"]
    cloud.settle()
    for size in (0, -1, 5, 10, 10.5, 10241, "20", None):
        error = ask.refused("POST", f"/v1/volumes/{id}/actions/resize", {"size": size}, 422, "invalid_input")
        assert list(fields(error)) == ["size"]
    assert shown(ask, id)["size"] == 10


def test_actions_are_listed(ask: Caller, cloud: Cloud) -> None:
    server = cloud.running_server()
    id = volume(ask, server=server.pk)["volume"]["id"]
    other = volume(ask, name="other")["action"]["id"]
    cloud.settle()
    listed = ask.ok("GET", f"/v1/volumes/{id}/actions?sort=id:desc")["actions"]
    assert [a["command"] for a in listed] == ["attach_volume", "create_volume"]
    every = {a["id"] for a in ask.ok("GET", "/v1/volumes/actions")["actions"]}
    assert every == {other, *(a["id"] for a in listed)}
    assert ask.ok("GET", f"/v1/volumes/actions?id={other}&status=success")["meta"]["pagination"]["total_entries"] == 1
    assert ask.ok("GET", f"/v1/volumes/actions/{other}")["action"]["command"] == "create_volume"
    ask.refused("GET", f"/v1/volumes/{id}/actions/{other}", None, 404, "not_found")
    of_server = ask.ok("GET", f"/v1/servers/{server.pk}/actions?status=success")["actions"]
    assert listed[0]["id"] in {a["id"] for a in of_server}, "an action belongs to all that it is about"
    assert listed[0]["id"] in {a["id"] for a in ask.ok("GET", "/v1/servers/actions?per_page=50")["actions"]}
    create = Action.objects.get(command="create_server").pk
    assert ask.ok("GET", f"/v1/servers/actions/{create}")["action"]["id"] == create
    ask.refused("GET", f"/v1/images/actions/{create}", None, 404, "not_found")


def test_quotas(ask: Caller) -> None:
    Project.objects.filter(name="default").update(limit_volumes=1, limit_volume_gib=15)
    try:
        error = ask.refused("POST", "/v1/volumes", {**GOOD, "size": 16}, 403, "resource_limit_exceeded")
        assert error["details"]["limits"] == [{"name": "volume_gib"}]
        volume(ask)
        error = ask.refused("POST", "/v1/volumes", {**GOOD, "name": "b"}, 403, "resource_limit_exceeded")
        assert error["details"]["limits"][0] == {"name": "volumes"}
    finally:
        Project.objects.filter(name="default").update(limit_volumes=None, limit_volume_gib=None)


class TestGroups:
    """Placement groups."""

    def test_life(self, ask: Caller, cloud: Cloud) -> None:
        body = {"name": "My group", "type": "spread", "labels": {"a": "b"}}
        made = ask.ok("POST", "/v1/placement_groups", body)
        assert made["action"] is None
        group = made["placement_group"]
        assert (group["servers"], group["type"], group["labels"]) == ([], "spread", {"a": "b"})
        server = {"name": "web-1", "server_type": "nano", "image": "tiny", "placement_group": group["id"]}
        inside = ask.ok("POST", "/v1/servers", server)["server"]
        assert inside["placement_group"]["servers"] == [inside["id"]]
        shown = ask.ok("GET", f"/v1/placement_groups/{group['id']}")["placement_group"]
        assert shown == {**group, "servers": [inside["id"]]}
        assert ask.ok("GET", "/v1/placement_groups?name=My group&label_selector=a")["placement_groups"] == [shown]
        renamed = ask.ok("PUT", f"/v1/placement_groups/{group['id']}", {"name": "other", "labels": {}})
        assert (renamed["placement_group"]["name"], renamed["placement_group"]["labels"]) == ("other", {})
        assert ask("DELETE", f"/v1/placement_groups/{group['id']}").status_code == 204
        assert ask.ok("GET", f"/v1/servers/{inside['id']}")["server"]["placement_group"] is None
        cloud.settle()

    BAD: ClassVar[list[tuple[dict[str, Any], str]]] = [
        ({"name": "a"}, "type"), ({"name": "a", "type": "cluster"}, "type"), ({"type": "spread"}, "name"),
        ({"name": "", "type": "spread"}, "name"), ({"name": "a\n", "type": "spread"}, "name"),
        ({"name": "a", "type": "spread", "labels": {"_": "b"}}, "labels"),
    ]  # fmt: skip

    def test_what_is_wrong(self, ask: Caller) -> None:
        for body, field in self.BAD:
            error = ask.refused("POST", "/v1/placement_groups", body, 422, "invalid_input")
            assert list(fields(error)) == [field]
            assert f"invalid input in field '{field}'" in error["message"]

    def test_a_name_that_is_taken(self, ask: Caller) -> None:
        one, two = (
            ask.ok("POST", "/v1/placement_groups", {"name": n, "type": "spread"})["placement_group"]["id"] for n in "ab"
        )
        error = ask.refused("POST", "/v1/placement_groups", {"name": "a", "type": "spread"}, 409, "uniqueness_error")
        assert error["message"] == "name is already used"
        ask.refused("PUT", f"/v1/placement_groups/{two}", {"name": "a"}, 409, "uniqueness_error")
        assert [g["id"] for g in ask.ok("GET", "/v1/placement_groups?sort=name:desc")["placement_groups"]] == [two, one]


@pytest.fixture(autouse=True, scope="module")
def _clean() -> Iterator[None]:
    yield
    for model in (Server, Volume, PlacementGroup):
        model.objects.all().delete()
    Image.objects.exclude(project=None).delete()
