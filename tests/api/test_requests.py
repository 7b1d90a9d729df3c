"""What surrounds routes: tokens, correlation ids, methods, slashes, unknown paths, fields that ask for nothing."""

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext

from paddock.api.errors import known
from paddock.cloud.models import Image, Server, Token, Volume
from tests.api.caller import Caller
from tests.api.keys import ed25519, rsa
from tests.cloud.harness import Cloud

GOOD: dict[str, Any] = {"name": "web-1", "server_type": "nano", "image": "tiny"}


def row(ask: Caller) -> Token:
    return Token.objects.get(digest=Token.digest_of(ask.token))


def test_a_tokens_use_is_noted_once_a_minute(ask: Caller) -> None:
    assert row(ask).last_used is None
    ask.ok("GET", "/v1/locations")
    first = row(ask).last_used
    with CaptureQueriesContext(connection) as queries:
        ask.ok("GET", "/v1/locations")
        ask.refused("POST", "/v1/servers", {}, 422, "invalid_input")
    assert row(ask).last_used == first
    assert [q["sql"].split()[0] for q in queries.captured_queries] == ["SELECT", "SELECT"]
    Token.objects.filter(pk=row(ask).pk).update(last_used=Now() - timedelta(seconds=61))
    ask.refused("POST", "/v1/servers", {}, 422, "invalid_input")
    assert row(ask).last_used >= first  # type: ignore[operator]  # it is set


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "x" * 64])
def test_headers_that_are_no_token(header: str, cloud: Cloud) -> None:
    response = Client().get("/v1/servers", headers={"Authorization": header} if header else {})
    assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorized")


def test_every_answer_has_a_correlation_id(ask: Caller) -> None:
    seen = {
        ask(method, path)["X-Correlation-Id"]
        for method, path in (
            ("GET", "/v1/servers"), ("GET", "/nowhere"), ("PATCH", "/v1/servers"), ("OPTIONS", "/v1/servers"),
            ("DELETE", "/v1/ssh_keys/1"), ("POST", "/v1/servers"), ("HEAD", "/v1/servers"),
        )
    }  # fmt: skip
    assert len(seen) == 7
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in seen)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v2/servers", "/v1/servers/x", "/x/v1", "/v1/servers/1/x",
                                  "/v1/servers/" + "9" * 5000, "/admin", "/favicon.ico"])  # fmt: skip
def test_unknown_paths_are_known_before_tokens(path: str, cloud: Cloud) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}):
        response = Client().get(path, headers=headers)
        assert (response.status_code, response.json()) == (
            404,
            {"error": {"code": "not_found", "message": "api route not found", "details": None}},
        )


def test_methods(ask: Caller) -> None:
    response = ask("PATCH", "/v1/servers")
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")
    assert set(response["Allow"].split(", ")) == {"GET", "POST"}
    options = ask("OPTIONS", "/v1/servers")
    assert (options.status_code, options.content, "POST" in options["Allow"]) == (204, b"", True)
    head = ask("HEAD", "/v1/servers")
    assert (head.status_code, head.content) == (200, b"")
    assert Client().head("/v1/servers").status_code == 401
    assert ask("HEAD", "/v1/servers/999999").status_code == 404


@pytest.mark.parametrize("path", ["/v1//servers", "/v1/servers/", "/v1///servers//"])
def test_slashes_are_forgiven(path: str, ask: Caller) -> None:
    assert ask.ok("GET", path)["servers"] == []


def test_ids_that_can_not_be(ask: Caller) -> None:
    for id in (0, 2**53, 2**63, 2**64):
        ask.refused("GET", f"/v1/servers/{id}", None, 404, "not_found")


@pytest.mark.parametrize("more", [
    dict.fromkeys(("location", "datacenter", "ssh_keys", "user_data", "labels", "start_after_create", "networks",
                   "volumes", "firewalls", "placement_group", "public_net", "automount", "x_group")),
    {"networks": [], "volumes": [], "firewalls": [], "automount": False, "ssh_keys": [], "labels": {}, "user_data": "",
     "public_net": {"enable_ipv4": True, "enable_ipv6": True, "ipv4": None, "ipv6": None}},
    {"location": "1"}, {"location": 1}, {"location": "local"}, {"datacenter": "local-dc1"}, {"automount": True},
    {"public_net": {"enable_ipv4": False, "enable_ipv6": False}}, {"isos": "unknown fields are let be"},
])  # fmt: skip
def test_what_clients_send_for_nothing(more: dict[str, Any], ask: Caller) -> None:
    made = ask.ok("POST", "/v1/servers", {**GOOD, **more})
    assert (made["server"]["name"], made["server"]["labels"]) == ("web-1", {})
    assert Server.objects.get().public_keys == []
    assert len(made["root_password"]) == 20


def test_what_a_server_has_beyond_the_original(ask: Caller, cloud: Cloud) -> None:
    more = {"x_description": "the shop", "x_restart": "on-failure", "x_autostart": {"enabled": True, "order": 3}}
    made = ask.ok("POST", "/v1/servers", {**GOOD, **more})["server"]
    assert made["x_autostart"] == {"enabled": True, "order": 3, "delay": 0, "at": None}
    cloud.settle()
    path = f"/v1/servers/{made['id']}"
    assert ask.ok("GET", path)["server"]["x_description"] == "the shop"
    changed = ask.ok("PUT", path, {"x_autostart": {"delay": 5}, "x_group": "g", "x_description": ""})["server"]
    assert changed["x_autostart"] == {"enabled": True, "order": 3, "delay": 5, "at": None}
    assert (changed["x_group"], changed["x_description"], changed["x_restart"]) == ("g", "", "on-failure")
    ask.refused("PUT", path, {"x_kernel_args": "quiet"}, 422, "invalid_input")
    assert ask.ok("PUT", path, {})["server"] == changed


def test_other_kernel_arguments_reach_the_node(ask: Caller, cloud: Cloud) -> None:
    image = Image.objects.get(name="tiny")
    made = ask.ok("POST", "/v1/servers", GOOD)["server"]
    cloud.settle()
    Image.objects.filter(pk=image.pk).update(manifest={**image.manifest, "direct_boot": True})
    ask.ok("PUT", f"/v1/servers/{made['id']}", {"x_kernel_args": "quiet"})
    assert Server.objects.get().told != Server.objects.get().revision


def test_ids_and_names_name_the_same(ask: Caller) -> None:
    keys = [
        ask.ok("POST", "/v1/ssh_keys", {"name": name, "public_key": key})["ssh_key"]
        for name, key in (("a", ed25519("a")), ("b", rsa("b")))
    ]
    plan = ask.ok("GET", "/v1/server_types?name=nano")["server_types"][0]["id"]
    image = ask.ok("GET", "/v1/images?name=tiny")["images"][0]["id"]
    wanted = {"ssh_keys": ["b", keys[0]["id"], str(keys[0]["id"]), "a"], "server_type": str(plan), "image": image}
    made = ask.ok("POST", "/v1/servers", {**GOOD, **wanted})
    assert made["root_password"] is None
    assert made["server"]["server_type"]["name"] == "nano"
    assert Server.objects.get().public_keys == [keys[1]["public_key"], keys[0]["public_key"]]


def test_an_id_wins_over_a_name(ask: Caller) -> None:
    first = ask.ok("POST", "/v1/ssh_keys", {"name": "first", "public_key": ed25519("a")})["ssh_key"]
    ask.ok("POST", "/v1/ssh_keys", {"name": str(first["id"]), "public_key": ed25519("b")})
    ask.ok("POST", "/v1/servers", {**GOOD, "ssh_keys": [str(first["id"])]})
    assert Server.objects.get().public_keys == [first["public_key"]]


def test_actions_tell_steps_to_the_microsecond(ask: Caller, cloud: Cloud) -> None:
    made = ask.ok("POST", "/v1/servers", GOOD)
    cloud.settle()
    action = ask.ok("GET", f"/v1/actions/{made['action']['id']}")["action"]
    assert (action["status"], action["progress"]) == ("success", 100)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", action["started"])
    assert [s["name"] for s in action["x_steps"]][:2] == ["place", "image"]
    moments = [datetime.fromisoformat(s["finished"]) for s in action["x_steps"]]
    assert moments == sorted(moments)
    assert any(m.microsecond for m in moments)
    assert [a["id"] for a in ask.ok("GET", "/v1/actions")["actions"]] == [action["id"]]
    assert ask.ok("GET", "/v1/actions?status=running")["actions"] == []
    assert ask.ok("GET", f"/v1/actions?id={action['id']}&id=999999")["meta"]["pagination"]["total_entries"] == 1


def test_put_changes_only_what_it_names(ask: Caller) -> None:
    id = ask.ok("POST", "/v1/servers", {**GOOD, "labels": {"a": "b"}})["server"]["id"]
    assert ask.ok("PUT", f"/v1/servers/{id}", {"labels": None, "name": "web-2"})["server"]["labels"] == {"a": "b"}
    renamed = ask.ok("PUT", f"/v1/servers/{id}", {"labels": {"example.com/c": ""}})["server"]
    assert (renamed["name"], renamed["labels"]) == ("web-2", {"example.com/c": ""})
    ask.ok("PUT", f"/v1/servers/{id}", {"name": "WEB-2"})  # its own name, in other letters


def test_an_error_of_ours_says_nothing_of_its_inside(ask: Caller) -> None:
    tiny = Image.objects.get(project=None, name="tiny")
    Image.objects.filter(pk=tiny.pk).update(manifest=["not what it must be"])
    try:
        error = ask.refused("GET", "/v1/images", None, 500, "server_error")
    finally:
        Image.objects.filter(pk=tiny.pk).update(manifest=tiny.manifest)
    assert error["message"] == "an error of ours; the log has it under this correlation id"


def test_what_was_named_and_went_before_the_commit_is_a_conflict(cloud: Cloud) -> None:
    with pytest.raises(IntegrityError) as caught, transaction.atomic():
        Volume.objects.create(project=cloud.project(), name="data", size_gib=10, server_id=2**40)
    assert (known(caught.value).status, known(caught.value).code) == (409, "conflict")
