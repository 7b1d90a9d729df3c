"""Every operation that the description of the API knows, asked: with nothing there, and through the life of everything.

What comes back is held against it by the caller (caller.py). Here is seen that no operation is left out. The
description is no part of this project: a checkout without a copy beside it skips these tests.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from paddock.api.v1.later import FAMILIES
from paddock.api.v1.server_refusals import REFUSED
from paddock.cloud.models import Image, Project, Server, SSHKey, Volume
from tests.api.caller import Caller
from tests.api.keys import ed25519
from tests.api.routes import all_routes
from tests.clients.specification import MISSING, Answer, Specification
from tests.cloud.harness import Cloud

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def operations() -> list[str]:
    """`GET /servers/{id}` and so on."""
    known = Specification.load()
    return [] if known is None else sorted(known.operations())


def nameless(route: str) -> str:
    """A route whose holes have no names."""
    return re.sub(r"{\w+}", "{}", route)


class Recorder(Caller):
    """A caller that remembers which operations it was answered well."""

    def __init__(self) -> None:
        super().__init__()
        self.good: set[str] = set()

    def __call__(self, method: str, path: str, body: Any = None, **extra: Any) -> Any:
        response = super().__call__(method, path, body, **extra)
        known = Specification.load()
        if known and response.status_code < 300:
            self.good.add(f"{method} {known.template(method, path.partition('?')[0].removeprefix('/v1'))}")
        return response


@pytest.fixture
def _clean(cloud: Cloud) -> Iterator[None]:
    yield
    cloud.reset()


def test_the_caller_sees_what_is_wrong() -> None:
    """A test of the test: a server without a name, an action with a time in words."""
    known = Specification.load()
    assert known
    headers = {"content-type": "application/json", "x-correlation-id": "0" * 16}
    for method, path, body in (("GET", "/servers/1", b'{"server": {"id": 1}}'), ("GET", "/actions/1", b"{")):
        assert known.violations(Answer(method, path, 200, headers, body))


def test_every_operation_has_a_route() -> None:
    ours = {nameless(route.replace(" /v1", " ")) for route in all_routes() if " /v1/" in route}
    assert {nameless(operation) for operation in operations()} - ours == set()


def test_with_nothing_there(ask: Caller) -> None:
    for operation in operations():
        method, template = operation.split(" ")
        for id in ("1", str(2**41)):  # one of the catalogue's perhaps, and one that no row ever had
            path = re.sub(r"{\w*id}", id, template)
            path = re.sub(r"{\w+}", "x", path)
            response = ask(method, f"/v1{path}?page=1&per_page=1", None if method in ("GET", "DELETE") else {})
            assert response.status_code in (200, 404, 422, 423), (operation, response.content)


@pytest.mark.usefixtures("_clean")
def test_the_life_of_everything(cloud: Cloud) -> None:
    ask = Recorder()
    _catalogue(ask, cloud)
    key = _key(ask)
    group = ask.ok("POST", "/v1/placement_groups", {"name": "g", "type": "spread"})["placement_group"]["id"]
    server = ask.ok("POST", "/v1/servers", {"name": "web-1", "server_type": "nano", "image": "tiny"})["server"]["id"]
    cloud.settle()
    _volume(ask, cloud, server)
    _server(ask, cloud, server, group, key)
    _image(ask, cloud, server)
    ask.ok("DELETE", f"/v1/servers/{server}")
    cloud.settle()
    ask.ok("DELETE", f"/v1/ssh_keys/{key}")
    _group(ask, group)
    for family in FAMILIES:
        ask.ok("GET", f"/v1/{family}")
    assert _working() - ask.good == set()


def _working() -> set[str]:
    """What must have been answered well: all but what comes later."""
    return {
        operation for operation in operations()
        if operation.split("/")[1] not in FAMILIES and operation.rpartition("/")[2] not in REFUSED
    }  # fmt: skip


def _catalogue(ask: Caller, cloud: Cloud) -> None:
    tiny = Image.objects.get(project=None, name="tiny")
    common = {"state": "ready", "step": "rest", "next_at": None, "sha256": tiny.sha256, "manifest": tiny.manifest}
    Image.objects.create(project=cloud.project(), name="cd", type="iso", **common)
    Image.objects.update_or_create(project=None, name="rescue", defaults={**common, "type": "rescue"})
    for what in ("image", "server_type", "location", "datacenter", "iso"):
        listed = ask.ok("GET", f"/v1/{what}s")[f"{what}s"]
        assert listed
        for one in listed:
            assert ask.ok("GET", f"/v1/{what}s/{one['id']}")[what] == one
    ask.ok("GET", "/v1/pricing")


def _key(ask: Caller) -> int:
    body = {"name": "k", "public_key": ed25519("a"), "labels": {"a": "b"}}
    id: int = ask.ok("POST", "/v1/ssh_keys", body)["ssh_key"]["id"]
    ask.ok("GET", "/v1/ssh_keys")
    ask.ok("GET", f"/v1/ssh_keys/{id}")
    ask.ok("PUT", f"/v1/ssh_keys/{id}", {"name": "l"})
    return id


def _group(ask: Caller, id: int) -> None:
    ask.ok("GET", "/v1/placement_groups")
    ask.ok("GET", f"/v1/placement_groups/{id}")
    ask.ok("PUT", f"/v1/placement_groups/{id}", {"name": "other"})
    ask.ok("DELETE", f"/v1/placement_groups/{id}")


def _volume(ask: Caller, cloud: Cloud, server: int) -> None:
    id = ask.ok("POST", "/v1/volumes", {"name": "v", "size": 10, "location": "1"})["volume"]["id"]
    cloud.settle()
    for command, body in (("attach", {"server": server}), ("resize", {"size": 11}), ("detach", None),
                          ("change_protection", {"delete": False})):  # fmt: skip
        ask.ok("POST", f"/v1/volumes/{id}/actions/{command}", body)
        cloud.settle()
    ask.ok("GET", "/v1/volumes")
    ask.ok("GET", f"/v1/volumes/{id}")
    ask.ok("PUT", f"/v1/volumes/{id}", {"labels": {"a": "b"}})
    _actions(ask, "volumes", id)
    ask.ok("DELETE", f"/v1/volumes/{id}")
    cloud.settle()
    assert not Volume.objects.exists()


def _actions(ask: Caller, kind: str, id: int) -> None:
    """All lists of actions in which this thing's are."""
    action = ask.ok("GET", f"/v1/{kind}/{id}/actions")["actions"][0]["id"]
    for path in (f"{kind}/{id}/actions/{action}", f"{kind}/actions", f"{kind}/actions/{action}", f"actions/{action}",
                 f"actions?id={action}"):  # fmt: skip
        ask.ok("GET", f"/v1/{path}")


def _server(ask: Caller, cloud: Cloud, id: int, group: int, key: int) -> None:
    ask.ok("GET", f"/v1/servers/{id}/metrics?type=cpu,disk,network&start=0&end=60")
    asked: list[tuple[str, Any]] = [
        ("request_console", None), ("reset_password", None), ("enable_rescue", {"ssh_keys": [key]}),
        ("disable_rescue", None), ("attach_iso", {"iso": "cd"}), ("detach_iso", None), ("reboot", None),
        ("reset", None), ("create_image", {}), ("rebuild", {"image": "tiny"}), ("shutdown", None), ("poweron", None),
        ("poweroff", None), ("add_to_placement_group", {"placement_group": group}),
        ("change_type", {"server_type": "micro", "upgrade_disk": True}), ("remove_from_placement_group", None),
        ("change_protection", {"delete": False, "rebuild": False}),
    ]  # fmt: skip
    for command, body in asked:
        ask.ok("POST", f"/v1/servers/{id}/actions/{command}", body)
        ask.ok("GET", "/v1/servers")
        cloud.settle()
        ask.ok("GET", f"/v1/servers/{id}")
    ask.ok("PUT", f"/v1/servers/{id}", {"name": "web-2", "labels": {}})
    _actions(ask, "servers", id)
    cloud.settle()


def _image(ask: Caller, cloud: Cloud, server: int) -> None:
    """The snapshot that was made of the server."""
    id = ask.ok("GET", "/v1/images?type=snapshot")["images"][0]["id"]
    ask.ok("PUT", f"/v1/images/{id}", {"description": "d"})
    ask.ok("POST", f"/v1/images/{id}/actions/change_protection", {"delete": False})
    _actions(ask, "images", id)
    ask.ok("DELETE", f"/v1/images/{id}")
    cloud.settle()


def test_errors(ask: Caller) -> None:
    ask.refused("POST", "/v1/servers", {"name": "_"}, 422, "invalid_input")
    ask.refused("POST", "/v1/servers", b"{", 400, "json_error")
    Caller(read_only=True).refused("POST", "/v1/servers", {}, 401, "token_readonly")
    project = Project.objects.get(name="default")
    SSHKey.objects.create(project=project, name="k", public_key="x", fingerprint="0")
    ask.refused("POST", "/v1/ssh_keys", {"name": "k", "public_key": ed25519("b")}, 409, "uniqueness_error")
    assert not Server.objects.exists()
