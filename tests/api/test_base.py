"""The base configuration: read by everybody, changed by operators, given to servers with each new disk."""

import pytest
import yaml

from paddock.base.errors import Invalid
from paddock.cloud import base_config
from paddock.cloud.models import Server
from paddock.machine.spec import MAX_VENDOR_DATA
from tests.api.caller import Caller, fields
from tests.cloud.harness import Cloud

OWN = "#cloud-config\nruncmd: [[touch, /run/own]]\n"


@pytest.fixture
def boss(cloud: Cloud) -> Caller:
    """An operator."""
    return Caller(operator=True)


def test_the_default_can_be_used() -> None:
    base_config.check(base_config.default())
    config = yaml.safe_load(base_config.default())
    paths = [file["path"] for file in config["write_files"]]
    assert paths == ["/etc/sysctl.d/60-paddock.conf", "/etc/ssh/sshd_config.d/60-paddock.conf", config["runcmd"][0][1]]


def test_its_life(boss: Caller, ask: Caller) -> None:
    base = ask.ok("GET", "/x/v1/base")["base"]
    assert (base["text"], base["default"], base["changed"]) == (base_config.default(), True, None)
    changed = boss.ok("PUT", "/admin/v1/base", {"text": OWN})["base"]
    assert (changed["text"], changed["default"]) == (OWN, False)
    assert ask.ok("GET", "/x/v1/base")["base"] == boss.ok("GET", "/admin/v1/base")["base"] == changed
    assert boss.ok("DELETE", "/admin/v1/base")["base"] == base


def test_servers_keep_what_was_in_force_until_they_are_rebuilt(boss: Caller, ask: Caller, cloud: Cloud) -> None:
    made = {"server_type": "nano", "image": "tiny"}
    ids = [
        ask.ok("POST", "/v1/servers", {**made, "name": name, **more})["server"]["id"]
        for name, more in (("with", {}), ("without", {"x_base_config": False}))
    ]
    cloud.settle()
    boss.ok("PUT", "/admin/v1/base", {"text": OWN})
    given = [Server.objects.get(pk=id).machine().seed.vendor_data for id in ids]
    assert given == [base_config.default(), ""]
    assert [ask.ok("GET", f"/v1/servers/{id}")["server"]["x_base_config"] for id in ids] == [True, False]
    for id in ids:
        ask.ok("POST", f"/v1/servers/{id}/actions/rebuild", {"image": "tiny"})
    cloud.settle()
    assert [Server.objects.get(pk=id).machine().seed.vendor_data for id in ids] == [OWN, ""]


@pytest.mark.parametrize(("text", "said"), [
    ("", "its first line must be #cloud-config"),
    ("#!/bin/sh\n", "its first line must be #cloud-config"),
    ("#cloud-config\n", "must be a mapping"),
    ("#cloud-config\n- a\n", "must be a mapping"),
    ("#cloud-config\n1: a\n", "must be a mapping"),
    ("#cloud-config\na: b: c\n", "not YAML: mapping values are not allowed here in line 2"),
    ("#cloud-config\na: 2026-99-99\n", "not YAML"),
    ("#cloud-config\na: &x [1]\nb: *x\n", "no YAML aliases"),
    ("#cloud-config\nruncmd: echo\n", "runcmd must be a list"),
    ("#cloud-config\nssh_pwauth: true\n", "ssh_pwauth is what Paddock itself says"),
    ("#cloud-config\na: " + "[" * 15000 + "\n", "more than 50 lists and mappings within each other"),
    ("#cloud-config\n" + "".join(f"{' ' * n}a:\n" for n in range(60)), "more than 50 lists"),
    ("#cloud-config\n#" + "x" * MAX_VENDOR_DATA, f"15 more than the {MAX_VENDOR_DATA} there may be"),
])  # fmt: skip
def test_what_can_not_be_used(text: str, said: str) -> None:
    with pytest.raises(Invalid, match="the base configuration can't be used") as caught:
        base_config.check(text)
    assert said in caught.value.message


def test_a_refusal_names_the_field(boss: Caller) -> None:
    refused = boss.refused("PUT", "/admin/v1/base", {"text": "#cloud-config\n["}, 422, "invalid_input")
    assert "not YAML" in fields(refused)["text"][0]
