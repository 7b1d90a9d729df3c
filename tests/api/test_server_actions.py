"""What can be asked of a server through the API: what becomes of it, what is refused, and in which words."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from paddock.base import clock
from paddock.cloud.models import Action, Image, PlacementGroup, Project, Server, ServerType, Volume
from tests.api.caller import Caller, fields
from tests.api.keys import ed25519
from tests.cloud.harness import Cloud

PASSWORD = re.compile(r"[A-Za-z0-9]{20}")


@pytest.fixture(autouse=True)
def _nothing_left(cloud: Cloud) -> Iterator[None]:
    yield
    cloud.reset()


class Web:
    """A server, and what tests ask of it."""

    def __init__(self, ask: Caller, cloud: Cloud) -> None:
        self.ask, self.cloud = ask, cloud
        self.id = cloud.running_server("web-1").pk

    def post(self, command: str, body: Any = None) -> Any:
        """Ask, and return the answer once it has been done."""
        said = self.ask.ok("POST", f"/v1/servers/{self.id}/actions/{command}", body)
        self.cloud.settle()
        said["action"] = self.ask.ok("GET", f"/v1/actions/{said['action']['id']}")["action"]
        assert said["action"]["status"] == "success", said["action"]
        return said

    def refused(self, command: str, body: Any, status: int, code: str) -> dict[str, Any]:
        return self.ask.refused("POST", f"/v1/servers/{self.id}/actions/{command}", body, status, code)

    def failed(self, command: str, body: Any = None) -> dict[str, Any]:
        """The error of an action that was begun, and failed."""
        id = self.ask.ok("POST", f"/v1/servers/{self.id}/actions/{command}", body)["action"]["id"]
        self.cloud.settle()
        error: dict[str, Any] = self.ask.ok("GET", f"/v1/actions/{id}")["action"]["error"]
        return error

    def shown(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask.ok("GET", f"/v1/servers/{self.id}")["server"]
        return found


@pytest.fixture
def web(ask: Caller, cloud: Cloud) -> Web:
    """A server that runs."""
    return Web(ask, cloud)


def test_power(web: Web) -> None:
    for command, status in (("reboot", "running"), ("reset", "running"), ("poweroff", "off"), ("poweron", "running"),
                            ("shutdown", "off")):  # fmt: skip
        web.post(command, {} if command == "reset" else None)
        assert web.shown()["status"] == status


def test_power_of_what_is_paused(web: Web, cloud: Cloud) -> None:
    """Clients see one that runs: power on, power off and reset do what they say, and what its guest must do fails with
    a reason instead of pretending."""
    for command, shown in (("poweron", "running"), ("reset", "running"), ("poweroff", "off")):
        web.post("poweron")
        succeeded(web, cloud, "pause")
        assert (web.shown()["status"], web.shown()["x_status"]) == ("running", "paused")
        for unheard in ("shutdown", "reboot"):
            assert "is paused: nobody can" in web.failed(unheard)["message"]
        web.post(command)
        assert (web.shown()["status"], web.shown()["x_status"]) == (shown, shown)


def test_power_of_what_is_hibernated(web: Web, cloud: Cloud) -> None:
    """Clients see one that is off: a power on wakes it."""
    succeeded(web, cloud, "hibernate")
    assert (web.shown()["status"], web.shown()["x_status"]) == ("off", "hibernated")
    web.post("poweron")
    assert (web.shown()["status"], web.shown()["x_status"]) == ("running", "running")


def succeeded(web: Web, cloud: Cloud, command: str) -> None:
    """An action beyond what clients know."""
    web.ask.ok("POST", f"/x/v1/servers/{web.id}/actions/{command}")
    cloud.settle()


def test_reset_password(web: Web) -> None:
    said = web.post("reset_password")
    assert said["action"]["command"] == "reset_password"
    assert PASSWORD.fullmatch(said["root_password"])
    assert said["root_password"] not in str(list(Action.objects.values())), "only its hash is kept"
    web.post("poweroff")
    assert "is off" in web.failed("reset_password")["message"]


def test_rebuild(web: Web) -> None:
    Server.objects.filter(pk=web.id).update(user_data="#!/bin/sh\n")
    before = web.shown()
    said = web.post("rebuild", {"image": "tiny"})
    assert PASSWORD.fullmatch(said["root_password"])
    after = web.shown()
    assert (after["status"], after["x_name"], after["x_generation"]) == ("running", before["x_name"], 1)
    assert Server.objects.get().user_data == "#!/bin/sh\n"
    Server.objects.filter(pk=web.id).update(public_keys=[ed25519("a")])
    said = web.post("rebuild", {"image": str(after["image"]["id"]), "user_data": "#cloud-config\n"})
    assert (said["root_password"], Server.objects.get().user_data) == (None, "#cloud-config\n")


BAD_REBUILDS: list[tuple[Any, str]] = [
    ({}, "image"), ({"image": "plan9"}, "image"), ({"image": 987654}, "image"), ({"image": None}, "image"),
    ({"image": "tiny", "user_data": 5}, "user_data"), ({"image": "tiny", "user_data": "x" * 32769}, "user_data"),
]  # fmt: skip


def test_what_rebuild_can_not_be_of(web: Web) -> None:
    for body, field in BAD_REBUILDS:
        assert list(fields(web.refused("rebuild", body, 422, "invalid_input"))) == [field]


def test_protection(web: Web) -> None:
    assert web.shown()["protection"] == {"delete": False, "rebuild": False}
    said = web.ask.ok("POST", f"/v1/servers/{web.id}/actions/change_protection", {"delete": True, "rebuild": True})
    assert (said["action"]["status"], said["action"]["progress"]) == ("success", 100)
    assert web.shown()["protection"] == {"delete": True, "rebuild": True}
    error = web.ask.refused("DELETE", f"/v1/servers/{web.id}", None, 423, "protected")
    assert error["message"] == "server deletion is protected"
    assert "rebuild is protected" in web.refused("rebuild", {"image": "tiny"}, 423, "protected")["message"]
    web.post("change_protection", {"delete": False})
    assert web.shown()["protection"] == {"delete": False, "rebuild": True}
    web.refused("change_protection", {"delete": "no"}, 422, "invalid_input")
    web.ask.ok("DELETE", f"/v1/servers/{web.id}")


def test_rescue(web: Web) -> None:
    Image.objects.get_or_create(project=None, name="rescue", defaults={"type": "rescue", "step": "rest"})
    ready = Image.objects.get(project=None, name="tiny")
    Image.objects.filter(project=None, name="rescue").update(
        state="ready", sha256=ready.sha256, manifest=ready.manifest, next_at=None
    )
    key = web.ask.ok("POST", "/v1/ssh_keys", {"name": "k", "public_key": ed25519("a")})["ssh_key"]
    web.refused("enable_rescue", {"type": "freebsd64"}, 422, "invalid_input")
    web.refused("enable_rescue", {"ssh_keys": [987654]}, 422, "invalid_input")
    said = web.post("enable_rescue", {"type": "linux64", "ssh_keys": [key["id"]]})
    assert PASSWORD.fullmatch(said["root_password"])
    assert web.shown()["rescue_enabled"] is True
    assert Server.objects.get().rescue_keys == [key["public_key"]]
    web.post("reset")
    assert (web.shown()["rescue_enabled"], web.shown()["x_in_rescue"]) == (False, True)
    web.post("enable_rescue")  # without a body
    web.post("disable_rescue")
    assert web.shown()["rescue_enabled"] is False


def test_change_type(web: Web) -> None:
    small, over = ServerType.objects.get(name="small"), ServerType.objects.get(name="micro")
    bigger = {"server_type": "small", "upgrade_disk": False}
    web.refused("change_type", bigger, 422, "server_not_stopped")
    web.post("poweroff")
    web.post("change_type", bigger)
    assert (web.shown()["server_type"]["name"], web.shown()["primary_disk_size"]) == ("small", 2)
    web.refused("change_type", {**bigger, "server_type": str(small.pk)}, 422, "invalid_server_type")
    ServerType.objects.filter(pk=over.pk).update(deprecated=clock.now())
    try:
        web.refused("change_type", {**bigger, "server_type": "micro"}, 422, "invalid_server_type")
    finally:
        ServerType.objects.filter(pk=over.pk).update(deprecated=None)
    web.post("change_type", {"server_type": "medium", "upgrade_disk": True})
    assert web.shown()["primary_disk_size"] == 80
    error = web.refused("change_type", {"server_type": "nano", "upgrade_disk": False}, 422, "invalid_server_type")
    assert "disk" in error["message"]
    web.refused("change_type", {"server_type": "medium"}, 422, "invalid_input")
    web.refused("change_type", {"server_type": "none", "upgrade_disk": True}, 422, "invalid_input")


def test_change_type_while_it_runs(web: Web) -> None:
    web.id = web.cloud.new_server("web-2", plan="small").pk
    web.cloud.settle()
    web.post("change_type", {"server_type": "medium", "upgrade_disk": False, "x_live": True})
    assert (web.shown()["status"], web.shown()["server_type"]["name"]) == ("running", "medium")
    less = {"server_type": "small", "upgrade_disk": False, "x_live": True}
    web.refused("change_type", less, 422, "server_not_stopped")


def test_create_image(web: Web) -> None:
    said = web.ask.ok("POST", f"/v1/servers/{web.id}/actions/create_image", {"labels": {"a": "b"}})
    image, action = said["image"], said["action"]
    assert (image["type"], image["status"], image["name"]) == ("snapshot", "creating", None)
    assert image["created_from"] == {"id": web.id, "name": "web-1"}
    assert image["description"].startswith("web-1 ")
    assert {"id": image["id"], "type": "image"} in action["resources"]
    of_image = web.ask.ok("GET", f"/v1/images/{image['id']}/actions")["actions"]
    assert [a["id"] for a in of_image] == [action["id"]]
    assert action["id"] in {a["id"] for a in web.ask.ok("GET", "/v1/images/actions")["actions"]}
    error = web.refused("create_image", {"type": "backup"}, 422, "unsupported_error")
    assert "backup" in error["message"]
    web.refused("create_image", {"type": "other"}, 422, "invalid_input")
    web.refused("create_image", {"labels": {"a b": ""}}, 422, "invalid_input")


def test_an_image_of_the_project(web: Web) -> None:
    row = Image.objects.create(
        project=Project.objects.get(name="default"), type="snapshot", description="mine", step="rest", next_at=None,
        state="ready", sha256="0" * 64, created_from_id=web.id, created_from_name="web-1",
    )  # fmt: skip
    path = f"/v1/images/{row.pk}"
    changed = web.ask.ok("PUT", path, {"description": "yours", "type": "snapshot", "labels": {"a": "b"}})["image"]
    assert (changed["description"], changed["labels"], changed["type"]) == ("yours", {"a": "b"}, "snapshot")
    for wrong in ({"type": "backup"}, {"description": 5}, {"description": ""}, {"labels": {"_": "a"}}, {"x_name": "A"}):
        web.ask.refused("PUT", path, wrong, 422, "invalid_input")
    assert [web.ask.ok("PUT", path, {"x_name": "mine"})["image"]["name"] for _ in range(2)] == ["mine", "mine"]
    web.ask.refused("PUT", path, {"x_name": "tiny"}, 409, "uniqueness_error")
    other = web.ask.ok("POST", "/x/v1/images", {"name": "other"})["image"]["id"]
    web.ask.refused("PUT", f"/v1/images/{other}", {"x_name": "mine"}, 409, "uniqueness_error")
    assert web.ask("DELETE", f"/v1/images/{other}").status_code == 204
    assert web.ask.ok("POST", f"{path}/actions/change_protection", {"delete": True})["action"]["status"] == "success"
    assert web.ask.ok("GET", path)["image"]["protection"] == {"delete": True}
    error = web.ask.refused("DELETE", path, None, 423, "protected")
    assert error["message"] == "snapshot deletion is protected"
    web.ask.ok("POST", f"{path}/actions/change_protection", {"delete": False})
    Server.objects.filter(pk=web.id).update(image=row)
    assert web.ask("DELETE", path).status_code == 204
    web.cloud.settle()
    web.ask.refused("GET", path, None, 404, "not_found")
    assert web.ask.ok("GET", "/v1/images?type=snapshot")["images"] == []
    left = web.shown()["image"]
    assert (left["id"], left["deleted"] is not None) == (row.pk, True), "its server still says what it was made of"
    tiny = Image.objects.get(project=None, name="tiny").pk
    web.ask.refused("PUT", f"/v1/images/{tiny}", {"description": "mine"}, 423, "protected")
    web.ask.refused("POST", f"/v1/images/{tiny}/actions/change_protection", {"delete": True}, 423, "protected")


def test_an_iso(web: Web) -> None:
    project, tiny = Project.objects.get(name="default"), Image.objects.get(project=None, name="tiny")
    common = {"type": "iso", "step": "rest", "next_at": None}
    ready = Image.objects.create(
        project=project, name="cd", state="ready", sha256=tiny.sha256, manifest=tiny.manifest, **common
    )
    waiting = Image.objects.create(project=project, name="late", **common)
    listed = web.ask.ok("GET", "/v1/isos?name=cd&architecture=x86")["isos"]
    assert [(i["id"], i["type"], i["architecture"]) for i in listed] == [(ready.pk, "private", "x86")]
    assert web.ask.ok("GET", f"/v1/isos/{waiting.pk}")["iso"]["x_state"] == "absent"
    web.ask.refused("GET", f"/v1/images/{ready.pk}", None, 404, "not_found")
    for wrong in ("tiny", "late", 987654, "", None):
        assert list(fields(web.refused("attach_iso", {"iso": wrong}, 422, "invalid_input"))) == ["iso"]
    web.post("attach_iso", {"iso": "cd"})
    assert web.shown()["iso"]["id"] == ready.pk
    web.post("detach_iso")
    assert web.shown()["iso"] is None


def test_placement_group(web: Web) -> None:
    group = web.ask.ok("POST", "/v1/placement_groups", {"name": "g", "type": "spread"})["placement_group"]["id"]
    web.refused("add_to_placement_group", {"placement_group": 987654}, 422, "invalid_input")
    web.refused("add_to_placement_group", {"placement_group": group}, 422, "server_not_stopped")
    web.post("poweroff")
    web.post("add_to_placement_group", {"placement_group": group})
    assert web.shown()["placement_group"]["servers"] == [web.id]
    web.refused("add_to_placement_group", {"placement_group": group}, 422, "already_in_placement_group")
    web.post("remove_from_placement_group")
    assert web.shown()["placement_group"] is None


def test_console(web: Web) -> None:
    said = web.ask.ok("POST", f"/v1/servers/{web.id}/actions/request_console", {})
    assert re.fullmatch(r"ws://[\w.:]+/x/v1/console/[\w-]{40,}", said["wss_url"])
    assert (len(said["password"]), said["action"]["status"]) == (8, "success")
    web.post("poweroff")
    web.refused("request_console", None, 409, "conflict")


METRICS = "start=2026-01-30T23:55:00Z&end=2026-01-31T00:55:00%2B00:00"


def test_metrics(web: Web) -> None:
    now = clock.now().timestamp()
    path = f"/v1/servers/{web.id}/metrics"
    found = web.ask.ok("GET", f"{path}?type=cpu,disk&type=network&start={now - 600:.0f}&end={now:.0f}&step=60")
    assert set(found["metrics"]["time_series"]) == {
        "cpu", "disk.0.iops.read", "disk.0.iops.write", "disk.0.bandwidth.read", "disk.0.bandwidth.write",
        "network.0.pps.in", "network.0.pps.out", "network.0.bandwidth.in", "network.0.bandwidth.out",
    }  # fmt: skip
    for line in found["metrics"]["time_series"].values():
        assert all(isinstance(at, int | float) and float(value) >= 0 for at, value in line["values"])
        assert len(line["values"]) <= 500
    assert set(web.ask.ok("GET", f"{path}?type=cpu&{METRICS}")["metrics"]["time_series"]) == {"cpu"}


BAD_METRICS = [
    (METRICS, "type"), (f"type=memory&{METRICS}", "type"), (f"type=cpu,memory&{METRICS}", "type"),
    ("type=cpu&end=2026-01-31T00:55:00Z", "start"), ("type=cpu&start=2026-01-31T00:55:00Z", "end"),
    ("type=cpu&start=yesterday&end=2026-01-31T00:55:00Z", "start"), ("type=cpu&start=9e99&end=1", "start"),
    ("type=cpu&start=2026-01-31T00:55:00Z&end=2026-01-30T00:55:00Z", "start"),
    (f"type=cpu&{METRICS}&step=0", "step"), (f"type=cpu&{METRICS}&step=x", "step"),
    (f"type=cpu&{METRICS}&step=nan", "step"), ("type=cpu&start=99999999999999999999&end=1", "start"),
]  # fmt: skip


def test_metrics_that_can_not_be(web: Web) -> None:
    for query, field in BAD_METRICS:
        error = web.ask.refused("GET", f"/v1/servers/{web.id}/metrics?{query}", None, 422, "invalid_input")
        assert list(fields(error)) == [field], query


COME_LATER: list[tuple[str, Any]] = [
    ("enable_backup", None), ("disable_backup", None), ("change_dns_ptr", {"ip": "192.0.2.1", "dns_ptr": None}),
    ("attach_to_network", {"network": 1, "ip": "10.0.0.2", "alias_ips": []}), ("detach_from_network", {"network": 1}),
    ("change_alias_ips", {"network": 1, "alias_ips": ["10.0.0.3"]}),
]  # fmt: skip


def test_what_comes_later(web: Web) -> None:
    for command, body in COME_LATER:
        error = web.refused(command, body, 422, "unsupported_error")
        assert len(error["message"]) > len(command) + 40, "it says why"
        if body:
            web.refused(command, {}, 422, "invalid_input")
    assert Action.objects.count() == 1, "only the server's own"


BUSY: dict[str, Any] = {
    "reboot": None, "rebuild": {"image": "tiny"}, "create_image": None, "reset_password": None,
    "change_type": {"server_type": "micro", "upgrade_disk": False}, "attach_iso": {"iso": "cd"}, "enable_rescue": None,
    "remove_from_placement_group": None,
}  # fmt: skip


def test_one_thing_at_a_time(web: Web) -> None:
    Image.objects.get_or_create(project=None, name="rescue", defaults={"type": "rescue", "step": "rest"})
    project = Project.objects.get(name="default")
    Image.objects.create(project=project, name="cd", type="iso", state="ready", step="rest", next_at=None)
    web.ask.ok("POST", f"/v1/servers/{web.id}/actions/reset")
    for command, body in BUSY.items():
        assert "reset_server" in web.refused(command, body, 423, "locked")["message"]


def test_others_things_are_not_there(web: Web) -> None:
    """What a body names of another project is answered as if it never was."""
    other, _ = Project.objects.get_or_create(name="another")
    common = {"project": other, "step": "rest", "next_at": None, "state": "ready"}
    image, iso = Image.objects.create(name="i", **common), Image.objects.create(name="o", type="iso", **common)
    group = PlacementGroup.objects.create(project=other, name="g")
    strange = web.cloud.new_server("strange", project=other)
    volume = Volume.objects.create(project=web.cloud.project(), name="v", size_gib=10, next_at=None, step="rest")
    path = f"/v1/servers/{web.id}/actions"
    for url, field, id in (
        (f"{path}/rebuild", "image", image.pk), (f"{path}/attach_iso", "iso", iso.pk),
        (f"{path}/add_to_placement_group", "placement_group", group.pk),
        (f"/v1/volumes/{volume.pk}/actions/attach", "server", strange.pk),
    ):  # fmt: skip
        real, never = (web.ask.refused("POST", url, {field: i}, 422, "invalid_input") for i in (id, 987654))
        assert str(real).replace(f"'{id}'", "#") == str(never).replace("'987654'", "#")


def test_a_server_type_that_is_over(ask: Caller) -> None:
    ServerType.objects.filter(name="micro").update(deprecated=clock.now())
    try:
        shown = ask.ok("GET", "/v1/server_types?name=micro")["server_types"][0]
        assert (shown["deprecated"], shown["locations"][0]["available"]) == (True, False)
        assert shown["id"] not in ask.ok("GET", "/v1/datacenters")["datacenters"][0]["server_types"]["available"]
        body = {"name": "web", "server_type": "micro", "image": "tiny"}
        assert "deprecated" in ask.refused("POST", "/v1/servers", body, 422, "invalid_input")["message"]
    finally:
        ServerType.objects.filter(name="micro").update(deprecated=None)


def test_a_place_that_is_named_twice(ask: Caller) -> None:
    body = {"name": "web", "server_type": "nano", "image": "tiny", "location": "local", "datacenter": "local-dc1"}
    assert list(fields(ask.refused("POST", "/v1/servers", body, 422, "invalid_input"))) == ["location"]


def test_a_quota(ask: Caller) -> None:
    Project.objects.filter(name="default").update(limit_servers=0)
    try:
        body = {"name": "web", "server_type": "nano", "image": "tiny"}
        error = ask.refused("POST", "/v1/servers", body, 403, "resource_limit_exceeded")
        assert error["details"]["limits"] == [{"name": "servers"}]
    finally:
        Project.objects.filter(name="default").update(limit_servers=None)


def test_prices(ask: Caller) -> None:
    pricing = ask.ok("GET", "/v1/pricing")["pricing"]
    assert pricing["currency"] == "EUR"
    listed = ask.ok("GET", "/v1/server_types")["server_types"]
    assert [(p["id"], p["prices"]) for p in pricing["server_types"]] == [(t["id"], t["prices"]) for t in listed]
