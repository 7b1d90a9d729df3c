"""What wrong requests get: the right status and code, the field's name, what to do, and nothing left behind."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from paddock.cloud.models import Action, Image, Node, Server, SSHKey
from paddock.machine.spec import MAX_USER_DATA
from tests.agent.process import AgentProcess
from tests.api.caller import Caller, fields
from tests.api.keys import ed25519, public_key, rsa
from tests.cloud.harness import Cloud

GOOD: dict[str, Any] = {"name": "web-1", "server_type": "nano", "image": "tiny"}
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n"


@pytest.fixture(scope="module")
def cloud(agent: AgentProcess) -> Iterator[Cloud]:
    """One for all that is refused, since nothing may become of it."""
    cloud = Cloud(agent)
    cloud.reset()
    yield cloud
    cloud.reset()


@pytest.fixture(scope="module")
def ask(cloud: Cloud) -> Caller:
    return Caller()


@pytest.fixture(autouse=True)
def _nothing_left_behind(cloud: Cloud) -> Iterator[None]:
    yield
    cloud.nothing_left()
    assert not Action.objects.exists()
    SSHKey.objects.all().delete()
    Image.objects.exclude(project=None).delete()


BAD_FIELDS = [
    *(("name", name, "host name") for name in (
        "", "a_b", "-a", "a-", "a..b", ".a", "a b", "ä", "web\n", "a/b", "\u212a", "x" * 64, ".".join(["x" * 60] * 5))),
    ("name", 7, "string"),
    ("name", "we\0b", "zero character"),
    ("server_type", "huge", "there is no server type 'huge'; there are micro"),
    ("server_type", 2**70, "there is no server type"),
    ("server_type", "9" * 5000, "there is no server type"),
    ("server_type", True, "id or a name"),
    ("server_type", 1.5, "id or a name"),
    ("server_type", "", "id or a name"),
    ("image", "plan9", "there is no image 'plan9'; there are "),
    ("image", 987654, "there is no image '987654'"),
    ("image", {"id": 1}, "id or a name"),
    ("ssh_keys", ["nobody"], "there is no SSH key 'nobody'"),
    ("ssh_keys", [987654], "there is no SSH key '987654'"),
    ("ssh_keys", "nobody", "list"),
    ("ssh_keys.0", [None], "id or a name"),
    ("ssh_keys", ["k"] * 101, "100"),
    ("user_data", "x" * (MAX_USER_DATA + 1), "1 more than the 32768"),
    ("user_data", "ä" * (MAX_USER_DATA // 2 + 1), "2 more than the 32768"),
    ("user_data", "a\0b", "zero character"),
    ("user_data", 5, "string"),
    ("labels", {"a b": "c"}, "is no label"),
    ("labels", {"": "c"}, "is no label"),
    ("labels", {"a": "c d"}, "the value of 'a'"),
    ("labels", {"a": "x" * 64}, "the value of 'a'"),
    ("labels", {"x" * 64: "a"}, "is no label"),
    ("labels.a", {"a": 1}, "string"),
    ("labels", [], "dictionary"),
    ("volumes", [987654], "there is no volume '987654'"),
    ("volumes", [0, -1], "there is no volume '0'"),
    ("volumes", 4, "list"),
    ("volumes.0", ["data"], "integer"),
    ("volumes", [1] * 17, "16"),
    ("placement_group", 987654, "there is no placement group '987654'"),
    ("placement_group", 2**70, "there is no placement group"),
    ("placement_group", "group", "integer"),
    ("location", "moon", "there is no location 'moon'; there is local"),
    ("datacenter", "moon", "there is no datacenter 'moon'"),
    ("start_after_create", "yes", "boolean"),
    ("x_restart", "always", "'no' or 'on-failure'"),
    ("x_group", "a b", "pattern"),
    ("x_description", "a\nb", "one line"),
    ("x_description", "x" * 501, "500"),
    ("x_kernel_args", "a\nb", "one line"),
    ("x_kernel_args", "quiet", "boots a kernel of its own"),
    ("x_autostart.order", {"order": -1}, "0"),
    ("x_autostart.delay", {"delay": 3601}, "3600"),
    ("x_autostart.enabled", {"enabled": "yes"}, "boolean"),
    ("x_autostart", True, "dictionary"),
    ("public_net", [], "must be an object"),
    ("public_net", {"enable_ipv4": "no"}, "must be true or false"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "says"), BAD_FIELDS)
def test_a_servers_field(field: str, value: Any, says: str, ask: Caller) -> None:
    error = ask.refused("POST", "/v1/servers", {**GOOD, field.split(".")[0]: value}, 422, "invalid_input")
    assert says in " ".join(fields(error)[field])
    assert says in error["message"]
    assert f"'{field}'" in error["message"]
    assert "Value error" not in str(error)


@pytest.mark.parametrize("field", ["name", "server_type", "image"])
def test_a_servers_field_is_missing(field: str, ask: Caller) -> None:
    for body in ({k: v for k, v in GOOD.items() if k != field}, {**GOOD, field: None}):
        assert field in fields(ask.refused("POST", "/v1/servers", body, 422, "invalid_input"))


@pytest.mark.parametrize(("field", "value", "named"), [
    ("networks", [4], "networks"), ("firewalls", [{"firewall": 4}], "firewalls"),
    ("public_net", {"ipv4": 4}, "public_net.ipv4"),
])  # fmt: skip
def test_what_this_cloud_lacks(field: str, value: Any, named: str, ask: Caller) -> None:
    error = ask.refused("POST", "/v1/servers", {**GOOD, field: value}, 422, "unsupported_error")
    assert list(fields(error)) == [named]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"null", b"NaN", b'{"name": "\xff"}',
                                  b'{"name": "\\ud800"}', b'{"a":' * 5000,
                                  b'{"name": ' + b"9" * 6000 + b"}"])  # fmt: skip
def test_bodies_that_are_none(body: bytes, ask: Caller) -> None:
    response = ask("POST", "/v1/servers", body)
    assert (response.status_code, response.json()["error"]["code"]) in ((400, "json_error"), (422, "invalid_input"))


def test_user_data_that_is_not_utf_8(ask: Caller) -> None:
    body = b'{"name": "web", "server_type": "nano", "image": "tiny", "user_data": "\xfc"}'
    assert "UTF-8" in ask.refused("POST", "/v1/servers", body, 400, "json_error")["message"]


def test_a_body_over_the_limit(ask: Caller) -> None:
    ask.refused("POST", "/v1/servers", b'{"name": "' + b"x" * 2**20 + b'"}', 413, "invalid_input")


def test_a_server_that_no_node_can_hold(cloud: Cloud, ask: Caller) -> None:
    Node.objects.filter(name="n1").update(cpus=1, memory_mib=512, disk_gib=10)
    Node.objects.create(name="n2", url="unix:///nowhere", state="down", cpus=1, memory_mib=64, disk_gib=10)
    error = ask.refused("POST", "/v1/servers", {**GOOD, "server_type": "large"}, 412, "resource_unavailable")
    for reason in ("n1 has", "of 1 CPUs free", "of 512 MiB of memory free", "of 10 GiB of disk free", "n2 is down"):
        assert reason in error["message"]
    assert "smaller" in error["details"]["hint"]
    cloud.nothing_left()
    cloud.reset()


def test_an_image_larger_than_the_disk(ask: Caller, cloud: Cloud) -> None:
    image = Image.objects.get(project=None, name="tiny")
    Image.objects.filter(pk=image.pk).update(manifest={**image.manifest, "disk_size": 5 * 2**30})
    try:
        error = ask.refused("POST", "/v1/servers", GOOD, 422, "invalid_input")
    finally:
        Image.objects.filter(pk=image.pk).update(manifest=image.manifest)
    assert fields(error) == {"server_type": ["image tiny needs 5 GB of disk, nano has 2"]}


def test_an_image_that_was_only_announced(ask: Caller) -> None:
    ask.ok("POST", "/x/v1/images", {"name": "mine"})
    error = ask.refused("POST", "/v1/servers", {**GOOD, "image": "mine"}, 422, "invalid_input")
    assert "nothing was uploaded" in fields(error)["image"][0]


@pytest.mark.parametrize(("key", "says"), [
    (PRIVATE, "private key"),
    ("", "must begin with a key type"),
    ("ssh-ed25519", "must begin with a key type"),
    ("AAAAC3NzaC1lZDI1NTE5", "must begin with a key type"),
    (ed25519("a")[:40], "cut off"),
    (" ".join(ed25519("a").split()[:2])[:-8], "cut off"),
    (rsa("a")[:200], "cut off"),
    (ed25519("a").replace("ssh-ed25519", "ssh-rsa"), "not a whole ssh-rsa key"),
    (ed25519("a").replace("ssh-ed25519", "ssh-dss"), "must begin with a key type"),
    ("ssh-rsa " + base64.b64encode(b"hello").decode(), "cut off"),
    (public_key("ssh-rsa", b"\1\0\1"), "not a whole ssh-rsa key"),
    (ed25519("a") + "\n" + ed25519("b"), "one key on one line"),
    (ed25519("a") + "\r\n" + ed25519("b"), "one key on one line"),
    ('command="sh" ' + ed25519("a"), "must begin with a key type"),
    ("ssh-ed25519 nö== x", "base64"),
    ("x" * 16385, "16384"),
])  # fmt: skip
def test_a_public_key_that_is_none(key: str, says: str, ask: Caller) -> None:
    error = ask.refused("POST", "/v1/ssh_keys", {"name": "k", "public_key": key}, 422, "invalid_input")
    assert says in fields(error)["public_key"][0]
    assert not SSHKey.objects.exists()


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201, "\x1b[2J"])
def test_a_keys_name(name: str, ask: Caller) -> None:
    error = ask.refused("POST", "/v1/ssh_keys", {"name": name, "public_key": ed25519("a")}, 422, "invalid_input")
    assert list(fields(error)) == ["name"]


def test_a_key_that_is_there_already(ask: Caller) -> None:
    ask.ok("POST", "/v1/ssh_keys", {"name": "k", "public_key": ed25519("a")})
    other = ask.ok("POST", "/v1/ssh_keys", {"name": "other", "public_key": rsa("a")})["ssh_key"]
    taken = {"name": "k", "public_key": ed25519("b")}
    assert "name" in fields(ask.refused("POST", "/v1/ssh_keys", taken, 409, "uniqueness_error"))
    same = {"name": "l", "public_key": ed25519("a")}
    assert "fingerprint" in fields(ask.refused("POST", "/v1/ssh_keys", same, 409, "uniqueness_error"))
    ask.refused("PUT", f"/v1/ssh_keys/{other['id']}", {"name": "k"}, 409, "uniqueness_error")
    assert sorted(SSHKey.objects.values_list("name", flat=True)) == ["k", "other"]


@pytest.mark.parametrize(("field", "value"), [
    ("name", "My Image"), ("name", ""), ("os_flavor", "Debian 12"), ("default_user", "Ro ot"), ("sha256", "beef"),
    ("description", "x" * 201), ("description", "a\nb"), ("cloud_init", "yes"), ("os_version", 12),
])  # fmt: skip
def test_an_images_field(field: str, value: Any, ask: Caller) -> None:
    error = ask.refused("POST", "/x/v1/images", {"name": "mine", field: value}, 422, "invalid_input")
    assert list(fields(error)) == [field]
    assert not Image.objects.filter(name="mine").exists()


@pytest.mark.parametrize("query", [
    "page=0", "page=x", "page=-1", "page=" + "9" * 5000, "per_page=0", "per_page=", "per_page=1.5", "sort=secret",
    "sort=id:up", "label_selector=a%20b", "label_selector==", "label_selector=a=b,", "status=dancing", "name=%00",
    "label_selector=%00", "page=%00", "sort=%00", "status=%00", "label_selector=a in (b", "sort=", "sort=id:",
    "label_selector=a in (b c)", "label_selector=a notin (_)", "status=",
])  # fmt: skip
def test_a_query(query: str, ask: Caller) -> None:
    if query == "per_page=":  # as if it was left out
        assert ask.ok("GET", f"/v1/servers?{query}")["meta"]["pagination"]["per_page"] == 25
        return
    error = ask.refused("GET", f"/v1/servers?{query}", None, 422, "invalid_input")
    assert list(fields(error)) == [query.split("=", maxsplit=1)[0]]


@pytest.mark.parametrize("path", [
    "/v1/actions?id=x", "/v1/actions?id=0", "/v1/actions?status=x", "/v1/images?type=x", "/v1/images?architecture=6502",
    "/v1/server_types?sort=x", "/v1/locations?page=x", "/v1/locations?sort=x", "/v1/images?include_deprecated=maybe",
    "/v1/images?bound_to=x", "/v1/isos?architecture=x", "/v1/isos?include_architecture_wildcard=2", "/v1/isos?sort=x",
    "/v1/volumes?status=x", "/v1/volumes?sort=size", "/v1/volumes?label_selector==", "/v1/placement_groups?type=x",
    "/v1/placement_groups?sort=x", "/v1/servers/actions?status=x", "/v1/images/actions?id=x", "/v1/networks?page=0",
    "/v1/volumes/actions?sort=x", "/v1/networks?sort=x", "/v1/firewalls?label_selector==",
    "/v1/zones/actions?status=x", "/v1/ssh_keys?fingerprint=%00", "/v1/servers?x_group=%00",
])  # fmt: skip
def test_queries_of_other_lists(path: str, ask: Caller) -> None:
    ask.refused("GET", path, None, 422, "invalid_input")


class TestTaken:
    """Names that are taken, and what is in the way."""

    @pytest.fixture(autouse=True)
    def _a_server(self, cloud: Cloud, ask: Caller, _nothing_left_behind: None) -> Iterator[None]:
        self.server = cloud.running_server("web-1")
        yield
        assert Server.objects.get().name == "web-1"
        cloud.reset()

    @pytest.mark.parametrize("name", ["web-1", "WEB-1"])
    def test_create(self, name: str, ask: Caller) -> None:
        error = ask.refused("POST", "/v1/servers", {**GOOD, "name": name}, 409, "uniqueness_error")
        assert "name is already used" in error["message"]
        assert list(fields(error)) == ["name"]

    def test_rename(self, ask: Caller, cloud: Cloud) -> None:
        other = cloud.new_server("web-2")
        cloud.settle()
        error = ask.refused("PUT", f"/v1/servers/{other.pk}", {"name": "Web-1"}, 409, "uniqueness_error")
        assert list(fields(error)) == ["name"]
        ask.refused("PUT", f"/v1/servers/{other.pk}", {"name": "_"}, 422, "invalid_input")
        ask.ok("DELETE", f"/v1/servers/{other.pk}")
        cloud.settle()

    def test_an_image_of_the_catalogue(self, ask: Caller) -> None:
        ask.refused("POST", "/x/v1/images", {"name": "tiny"}, 409, "uniqueness_error")
        image = Image.objects.get(project=None, name="tiny").pk
        ask.refused("DELETE", f"/v1/images/{image}", None, 423, "protected")
        ask.refused("POST", f"/x/v1/images/{image}/build", None, 409, "conflict")

    def test_a_step_that_is_none(self, cloud: Cloud) -> None:
        operator, path = Caller(operator=True), f"/admin/v1/servers/{self.server.pk}/steps"
        operator.refused("POST", f"{path}/dance", {}, 404, "not_found")
        operator.refused("POST", f"{path}/destroy", {}, 404, "not_found")
        error = operator.refused("POST", f"{path}/clone", {}, 409, "conflict")
        assert "stopped" in error["message"]
