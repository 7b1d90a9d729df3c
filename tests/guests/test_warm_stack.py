"""A warm start through the whole of it: asked of the API, made and used by a node, seen in the guest."""

from typing import Any

import pytest

from tests.guests.stack import Stack, until

pytestmark = [pytest.mark.guest, pytest.mark.slow]


def test_made_used_and_dropped(cloud: Stack) -> None:
    image = cloud.get("/v1/images", name="tiny")["images"][0]
    if image["x_state"] == "absent":
        cloud.done(cloud.post(f"/x/v1/images/{image['id']}/build")["action"]["id"], 300)
    action = cloud.post(f"/admin/v1/images/{image['id']}/warm", {"server_type": "nano"})["action"]
    cloud.done(action["id"], 300)
    [warm] = until(lambda: [w for w in _known(cloud) if not w["making"]], 30, "the node to tell of it")
    assert (warm["image"], warm["scope"], warm["unusable"]) == ("tiny", "public", "")

    names = ["warm-1", "warm-2"]
    servers = [
        cloud.launch(name, server_type="nano", user_data=f"#!/bin/sh\necho {name} > /root/said\n") for name in names
    ]
    assert [s["x_began"] for s in servers] == ["warm", "warm"]
    started = [e for e in cloud.get(f"/x/v1/servers/{servers[0]['id']}/timeline")["timeline"] if e["step"] == "start"]
    assert [e["detail"] for e in started] == ["from a warm image"]
    said = [cloud.ssh(s, "hostname; until cat /root/said 2>/dev/null; do sleep 1; done") for s in servers]
    assert said == ["warm-1\nwarm-1", "warm-2\nwarm-2"]
    keys = [cloud.ssh(s, "sha256sum < /etc/dropbear/ed25519") for s in servers]
    assert keys[0] != keys[1]

    cold = cloud.launch("cold", server_type="nano", x_warm=False)
    assert (cold["x_began"], cold["x_not_warm"]) == ("cold", "it was not asked for")
    cloud.done(cloud.post(f"/admin/v1/images/{image['id']}/cool")["action"]["id"], 60)
    until(lambda: not _known(cloud), 30, "the node to have dropped it")
    assert cloud.ssh(servers[0], "cat /etc/hostname") == "warm-1", "it goes on"


def _known(cloud: Stack) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cloud.get("/admin/v1/warm_images")["warm_images"]
    return found
