"""What operators do: projects with limits and tokens, server types, everybody's images."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from paddock.base import clock
from paddock.cloud import prepare
from paddock.cloud.models import Image, Project, Server, ServerType, SSHKey, Token, Volume
from tests.api.caller import Caller, fields
from tests.api.keys import ed25519
from tests.cloud.harness import Cloud

DEFAULTS = {  # D21: name → cores, memory, disk, price per hour
    "micro": (1, 1024, 20, "0.0050"), "small": (2, 2048, 40, "0.0100"), "medium": (4, 4096, 80, "0.0200"),
    "large": (8, 8192, 160, "0.0400"),
}  # fmt: skip
NONE = dict.fromkeys(("servers", "cores", "memory_mib", "disk_gib", "volumes", "volume_gib", "snapshots"))


@pytest.fixture
def boss(cloud: Cloud) -> Iterator[Caller]:
    """An operator."""
    yield Caller(operator=True)
    for project in Project.objects.filter(name__startswith="acme"):
        Server.objects.filter(project=project).delete()
        Image.objects.filter(project=project).delete()
        project.delete()
    ServerType.objects.filter(name__startswith="acme").delete()
    Image.objects.filter(name__startswith="acme").delete()


def opened(boss: Caller, project: int, **more: Any) -> Caller:
    """A caller with a new token of the project."""
    made = boss.ok("POST", f"/admin/v1/projects/{project}/tokens", more)
    caller = Caller()
    caller.token = made["secret"]
    return caller


def test_the_default_plans(boss: Caller) -> None:
    plans = {p["name"]: p for p in boss.ok("GET", "/admin/v1/server_types")["server_types"]}
    for name, (cores, memory_mib, disk_gib, hourly) in DEFAULTS.items():
        found = plans[name]
        assert (found["cores"], found["memory_mib"], found["disk_gib"]) == (cores, memory_mib, disk_gib)
        assert (found["price_hourly"], found["deprecated"]) == (hourly, None)
    assert "nano" in plans


def test_an_operator_says_on_which_node(boss: Caller, cloud: Cloud) -> None:
    body = {"name": "acme-1", "server_type": "nano", "image": "tiny", "x_node": "n1"}
    try:
        made = boss.ok("POST", "/v1/servers", body)["server"]
        cloud.settle()
        assert boss.ok("GET", f"/v1/servers/{made['id']}")["server"]["x_node"] == "n1"
        error = boss.refused("POST", "/v1/servers", {**body, "name": "acme-2", "x_node": "n9"}, 422, "invalid_input")
        assert fields(error) == {"x_node": ["there is no node 'n9'; there are n1"]}
        Caller().refused("POST", "/v1/servers", {**body, "name": "acme-2"}, 403, "forbidden")
        assert not Server.objects.filter(name="acme-2").exists()
    finally:
        cloud.reset()


def test_the_last_use_of_what_all_share_says_something_of_others(boss: Caller, cloud: Cloud) -> None:
    tiny = Image.objects.get(project=None, name="tiny")
    at = clock.now()
    own = Image.objects.create(project=cloud.project(), name="acme-own", type="snapshot", state="ready", used_at=at)
    Image.objects.filter(pk=tiny.pk).update(used_at=at)
    try:
        for who, seen in ((boss, True), (Caller(), False)):
            assert bool(who.ok("GET", f"/v1/images/{tiny.pk}")["image"]["x_used_at"]) == seen
            assert bool(who.ok("GET", "/v1/images?name=tiny")["images"][0]["x_used_at"]) == seen
            assert who.ok("GET", f"/v1/images/{own.pk}")["image"]["x_used_at"] == at.isoformat(timespec="seconds")
    finally:
        Image.objects.filter(pk=tiny.pk).update(used_at=None)
        own.delete()


def test_a_plan_that_was_deleted_stays_so(boss: Caller) -> None:
    id = boss.ok("POST", "/admin/v1/server_types", {"name": "acme", "cores": 1, "memory_mib": 64, "disk_gib": 1})
    ServerType.objects.filter(name="large").update(name="acme-large")
    prepare._server_types()
    assert not ServerType.objects.filter(name="large").exists()
    ServerType.objects.filter(name="acme-large").update(name="large")
    assert id["server_type"]["price_hourly"] == "0.0000"


def test_the_life_of_a_project(boss: Caller) -> None:
    made = boss.ok("POST", "/admin/v1/projects", {"name": "acme", "limits": {"servers": 2, "cores": None}})["project"]
    assert made["limits"] == {**NONE, "servers": 2}
    boss.refused("POST", "/admin/v1/projects", {"name": "acme"}, 409, "uniqueness_error")
    path = f"/admin/v1/projects/{made['id']}"
    changed = boss.ok("PUT", path, {"name": "acme-2", "limits": {"servers": None, "volume_gib": 100}})["project"]
    assert (changed["name"], changed["limits"]) == ("acme-2", {**NONE, "volume_gib": 100})
    shown = boss.ok("GET", path)
    assert shown["project"] == changed
    assert shown["usage"]["volume_gib"] == {"limit": 100, "used": 0}
    assert "acme-2" in [p["name"] for p in boss.ok("GET", "/admin/v1/projects?per_page=50")["projects"]]
    assert boss("DELETE", path).status_code == 204
    boss.refused("GET", path, None, 404, "not_found")


@pytest.mark.parametrize(("body", "field"), [
    ({}, "name"), ({"name": ""}, "name"), ({"name": "a b"}, "name"), ({"name": "a" * 64}, "name"),
    ({"name": "acme", "limits": {"servers": -1}}, "limits.servers"),
    ({"name": "acme", "limits": {"servers": "2"}}, "limits.servers"),
    ({"name": "acme", "limits": {"serverz": 2}}, "limits.serverz"),
])  # fmt: skip
def test_what_is_no_project(body: Any, field: str, boss: Caller) -> None:
    assert next(iter(fields(boss.refused("POST", "/admin/v1/projects", body, 422, "invalid_input")))) == field


def test_a_project_is_deleted_when_empty(boss: Caller, cloud: Cloud) -> None:
    id = boss.ok("POST", "/admin/v1/projects", {"name": "acme"})["project"]["id"]
    acme, path = opened(boss, id), f"/admin/v1/projects/{id}"
    acme.ok("POST", "/v1/ssh_keys", {"name": "a", "public_key": ed25519("a")})
    for name in ("a", "b"):
        acme.ok("POST", "/v1/servers", {"name": name, "server_type": "nano", "image": "tiny"})
    volume = Volume.objects.create(project_id=id, name="v", size_gib=1, step="rest", next_at=None)
    Image.objects.create(project_id=id, name="acme-image", step="rest", next_at=None)
    error = boss.refused("DELETE", path, None, 422, "resource_in_use")
    assert "project acme still has 2 servers, 1 volume, 1 image" in error["message"]
    volume.delete()
    Image.objects.filter(project_id=id).delete()
    Server.objects.filter(project_id=id).delete()
    assert boss("DELETE", path).status_code == 204
    assert not SSHKey.objects.filter(project_id=id).exists()
    assert acme("GET", "/v1/servers").status_code == 401, "its tokens are gone with it"


def test_the_operators_own_project_stays(boss: Caller) -> None:
    own = Project.objects.get(name="default")
    boss.refused("DELETE", f"/admin/v1/projects/{own.pk}", None, 423, "protected")
    boss.refused("PUT", f"/admin/v1/projects/{own.pk}", {"name": "acme"}, 422, "protected")


def test_tokens_of_a_project(boss: Caller) -> None:
    id = boss.ok("POST", "/admin/v1/projects", {"name": "acme"})["project"]["id"]
    path = f"/admin/v1/projects/{id}/tokens"
    made = boss.ok("POST", path, {"description": "for CI", "read_only": True})
    assert len(made["secret"]) == 64
    assert (made["token"]["read_only"], made["token"]["last_used"]) == (True, None)
    reader, writer, operator = opened(boss, id, read_only=True), opened(boss, id), opened(boss, id, operator=True)
    reader.ok("GET", "/v1/servers")
    assert writer("GET", "/admin/v1/nodes").status_code == 403
    operator.ok("GET", "/admin/v1/nodes")
    listed = boss.ok("GET", path)["tokens"]
    assert len(listed) == 4
    assert listed[1]["last_used"] is not None
    assert made["secret"] not in str(listed)
    assert boss("DELETE", f"{path}/{listed[1]['id']}").status_code == 204
    assert reader("GET", "/v1/servers").status_code == 401
    other = Token.objects.exclude(project_id=id).first()
    assert other
    boss.refused("DELETE", f"{path}/{other.pk}", None, 404, "not_found")


def test_a_project_makes_and_revokes_its_own_tokens(boss: Caller) -> None:
    id = boss.ok("POST", "/admin/v1/projects", {"name": "acme"})["project"]["id"]
    owner, operators = opened(boss, id), boss.ok("POST", f"/admin/v1/projects/{id}/tokens", {"operator": True})
    made = owner.ok("POST", "/x/v1/tokens", {"description": "another"})
    assert (made["token"]["operator"], made["token"]["description"]) == (False, "another")
    assert owner.ok("POST", "/x/v1/tokens", {"operator": True})["token"]["operator"] is False
    assert made["token"] in owner.ok("GET", "/x/v1/tokens")["tokens"]
    assert owner.ok("GET", f"/x/v1/tokens/{made['token']['id']}")["token"] == made["token"]
    owner.refused("DELETE", f"/x/v1/tokens/{operators['token']['id']}", None, 403, "forbidden")
    assert owner("DELETE", f"/x/v1/tokens/{made['token']['id']}").status_code == 204
    assert Token.objects.filter(project_id=id).count() == 3


def test_limits_are_seen_by_the_project(boss: Caller) -> None:
    limits = {"servers": 1, "cores": 4}
    id = boss.ok("POST", "/admin/v1/projects", {"name": "acme", "limits": limits})["project"]["id"]
    acme = opened(boss, id)
    acme.ok("POST", "/v1/servers", {"name": "a", "server_type": "nano", "image": "tiny"})
    said = acme.ok("GET", "/x/v1/limits")["limits"]
    assert said["servers"] == {"limit": 1, "used": 1}
    assert said["cores"] == {"limit": 4, "used": 1}
    assert said["memory_mib"] == {"limit": None, "used": 128}
    assert set(said) == set(NONE)


def test_the_life_of_a_plan(boss: Caller, cloud: Cloud) -> None:
    body = {
        "name": "acme",
        "description": "big",
        "cores": 2,
        "memory_mib": 256,
        "disk_gib": 3,
        "price_hourly": "0.1234",
        "dedicated_cpus": False,
        "huge_pages": False,
        "nested": False,
    }
    made = boss.ok("POST", "/admin/v1/server_types", body)["server_type"]
    assert made == {**body, "id": made["id"], "price_monthly": "90.0820", "deprecated": None, "servers": 0}
    path = f"/admin/v1/server_types/{made['id']}"
    server = cloud.new_server(plan="acme")
    changed = boss.ok("PUT", path, {"price_monthly": "80", "deprecated": True, "cores": 4})["server_type"]
    assert (changed["price_monthly"], changed["cores"], changed["servers"]) == ("80.0000", 4, 1)
    assert changed["deprecated"]
    server.refresh_from_db()
    assert server.cores == 2, "who has it keeps what it has"
    public = boss.ok("GET", "/v1/server_types?name=acme")["server_types"][0]
    assert (public["deprecated"], public["prices"][0]["price_monthly"]["net"]) == (True, "80.0000")
    boss.ok("PUT", path, {"dedicated_cpus": True, "nested": True})
    public = boss.ok("GET", "/v1/server_types?name=acme")["server_types"][0]
    assert (public["cpu_type"], public["x_nested"], public["x_huge_pages"]) == ("dedicated", True, False)
    error = boss.refused("DELETE", path, None, 422, "resource_in_use")
    assert "is that of 1 server:" in error["message"]
    assert boss.ok("PUT", path, {"deprecated": False})["server_type"]["deprecated"] is None
    Server.objects.all().delete()
    assert boss("DELETE", path).status_code == 204


@pytest.mark.parametrize(("body", "field"), [
    ({"cores": 0}, "cores"), ({"memory_mib": 31}, "memory_mib"), ({"disk_gib": 0}, "disk_gib"), ({"name": "A"}, "name"),
    ({"price_hourly": "1.23456"}, "price_hourly"), ({"price_hourly": 0.1}, "price_hourly"), ({"cores": "1"}, "cores"),
    ({"price_monthly": "-1"}, "price_monthly"), ({"description": "a\nb"}, "description"),
])  # fmt: skip
def test_what_is_no_plan(body: Any, field: str, boss: Caller) -> None:
    whole = {"name": "acme", "cores": 1, "memory_mib": 64, "disk_gib": 1, **body}
    assert next(iter(fields(boss.refused("POST", "/admin/v1/server_types", whole, 422, "invalid_input")))) == field


def test_images_of_all_projects(boss: Caller) -> None:
    project = Project.objects.create(name="acme")
    image = Image.objects.create(project=project, name="acme-image", type="snapshot", step="rest", next_at=None)
    listed = {i["id"]: i for i in boss.ok("GET", "/admin/v1/images?per_page=50")["images"]}
    assert listed[image.pk]["project"] == {"id": project.pk, "name": "acme"}
    path = f"/admin/v1/images/{image.pk}"
    boss.refused("POST", f"{path}/publish", {}, 409, "conflict")
    Image.objects.filter(pk=image.pk).update(state="ready")
    boss.refused("POST", f"{path}/publish", {"name": "tiny"}, 409, "uniqueness_error")
    stranger = Caller("acme-strangers")
    stranger.refused("GET", f"/v1/images/{image.pk}", None, 404, "not_found")
    published = boss.ok("POST", f"{path}/publish", {"name": "acme-published"})["image"]
    assert (published["project"], published["type"], published["name"]) == (None, "system", "acme-published")
    stranger.ok("GET", f"/v1/images/{image.pk}")
    opened(boss, project.pk).refused("DELETE", f"/v1/images/{image.pk}", None, 423, "protected")
    assert boss.ok("GET", path)["image"]["nodes"] == 0
    assert boss("DELETE", path).status_code == 204


def test_what_the_catalogue_builds_stays(boss: Caller) -> None:
    tiny = Image.objects.get(project=None, name="tiny")
    boss.refused("DELETE", f"/admin/v1/images/{tiny.pk}", None, 423, "protected")


@pytest.mark.parametrize("path", ["projects", "server_types", "images"])
def test_no_query_for_each_row(path: str, boss: Caller) -> None:
    boss.ok("GET", f"/admin/v1/{path}")
    counts = []
    for _ in range(2):
        with CaptureQueriesContext(connection) as queries:
            boss.ok("GET", f"/admin/v1/{path}")
        counts.append(len(queries))
        for n in range(5):
            project = Project.objects.create(name=f"acme-{len(counts)}-{n}")
            Image.objects.create(project=project, name="acme", step="rest", next_at=None)
            ServerType.objects.create(name=f"acme-{len(counts)}-{n}", cores=1, memory_mib=64, disk_gib=1)
    assert counts[0] == counts[1]
