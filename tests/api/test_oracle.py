"""Our answers against the description of the API that clients of other clouds are made for, where a copy of it lies.

It is no part of this project: a checkout without it skips these tests.
"""

import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from paddock.cloud.models import Project, SSHKey
from tests.api.caller import Caller
from tests.api.keys import ed25519
from tests.cloud.harness import Cloud

ORACLE = Path(__file__).parents[2].parent / "shared" / "hcloud" / "openapi.json.gz"
pytestmark = pytest.mark.skipif(not ORACLE.is_file(), reason=f"no description of the API at {ORACLE}")
FORMATS = jsonschema.FormatChecker(())


@FORMATS.checks("date-time", raises=ValueError)
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


@pytest.fixture(scope="module")
def oracle() -> dict[str, Any]:
    """The description as plain JSON Schema: what is `nullable` there may be null here."""
    described: dict[str, Any] = _plain(json.loads(gzip.decompress(ORACLE.read_bytes())))
    return described


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if not isinstance(value, dict):
        return value
    plain = {k: _plain(v) for k, v in value.items() if k != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if value.get("nullable") is True else plain


def answers_as(oracle: dict[str, Any], ask: Caller, method: str, template: str, body: Any = None, **ids: int) -> Any:
    """Ask, hold the answer against the schema of its status, and return it."""
    response = ask(method, "/v1" + template.format(**ids), body)
    known = oracle["paths"][template][method.lower()]["responses"]
    said = known.get(str(response.status_code)) or known[f"{response.status_code // 100}xx"]
    assert response["Content-Type"].startswith("application/json")
    schema = {**said["content"]["application/json"]["schema"], "components": oracle["components"]}
    jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(response.json())
    return response.json()


def test_the_oracle_refuses_what_is_wrong(oracle: dict[str, Any]) -> None:
    """A test of the test: a server without a name, or with a time in words, is seen."""
    schema = {"$ref": "#/components/schemas/location", "components": oracle["components"]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({"id": 1})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate("today", {"format": "date-time"}, format_checker=FORMATS)


@pytest.mark.parametrize("what", ["image", "server_type", "location", "datacenter"])
def test_catalogue(what: str, oracle: dict[str, Any], ask: Caller) -> None:
    listed = answers_as(oracle, ask, "GET", f"/{what}s")[f"{what}s"]
    assert listed
    for one in listed:
        shown = answers_as(oracle, ask, "GET", f"/{what}s/{{id}}", id=one["id"])
        assert shown[what] == one


def test_ssh_keys(oracle: dict[str, Any], ask: Caller) -> None:
    body = {"name": "k", "public_key": ed25519("a"), "labels": {"a": "b"}}
    id = answers_as(oracle, ask, "POST", "/ssh_keys", body)["ssh_key"]["id"]
    answers_as(oracle, ask, "GET", "/ssh_keys")
    answers_as(oracle, ask, "GET", "/ssh_keys/{id}", id=id)
    answers_as(oracle, ask, "PUT", "/ssh_keys/{id}", {"name": "l"}, id=id)
    answers_as(oracle, ask, "POST", "/ssh_keys", {**body, "name": "other"})  # its fingerprint is taken


def test_a_servers_life(oracle: dict[str, Any], ask: Caller, cloud: Cloud) -> None:
    body = {"name": "web-1", "server_type": "nano", "image": "tiny", "labels": {"env": "test"}}
    made = answers_as(oracle, ask, "POST", "/servers", body)
    id, action = made["server"]["id"], made["action"]["id"]
    answers_as(oracle, ask, "GET", "/servers/{id}", id=id)
    cloud.settle()
    assert answers_as(oracle, ask, "GET", "/actions/{id}", id=action)["action"]["status"] == "success"
    for template in ("/servers", "/servers/{id}", "/servers/{id}/actions"):
        answers_as(oracle, ask, "GET", template, id=id)
    answers_as(oracle, ask, "GET", "/servers/{id}/actions/{action_id}", id=id, action_id=action)
    for command in ("reboot", "reset", "shutdown", "poweroff", "poweron"):
        answers_as(oracle, ask, "POST", f"/servers/{{id}}/actions/{command}", id=id)
        answers_as(oracle, ask, "POST", f"/servers/{{id}}/actions/{command}", id=id)  # busy
        cloud.settle()
    answers_as(oracle, ask, "PUT", "/servers/{id}", {"name": "web-2", "labels": {}}, id=id)
    answers_as(oracle, ask, "GET", "/actions")
    answers_as(oracle, ask, "DELETE", "/servers/{id}", id=id)
    cloud.settle()
    answers_as(oracle, ask, "GET", "/servers/{id}", id=id)


def test_errors(oracle: dict[str, Any], ask: Caller) -> None:
    answers_as(oracle, ask, "GET", "/servers/{id}", id=999999)
    answers_as(oracle, ask, "POST", "/servers", {"name": "_"})
    answers_as(oracle, ask, "POST", "/servers", b"{")
    answers_as(oracle, Caller(read_only=True), "POST", "/servers", {})
    SSHKey.objects.create(project=Project.objects.get(name="default"), name="k", public_key="x", fingerprint="0")
    answers_as(oracle, ask, "POST", "/ssh_keys", {"name": "k", "public_key": ed25519("b")})
