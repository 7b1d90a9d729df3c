"""A fork through the whole of it: asked for with `paddock`, made by a node, seen in the guests by who may log in."""

import re
from pathlib import Path

import pytest

from tests.guests.person import paddock
from tests.guests.stack import Stack, until

pytestmark = [pytest.mark.guest, pytest.mark.slow]

COUNTER = "(n=0; while :; do n=$((n+1)); echo $n > /tmp/count; sleep 0.2; done) > /dev/null 2>&1 &"


def test_forked_used_and_deleted(cloud: Stack, tmp_path: Path) -> None:
    parent = cloud.launch("parent", server_type="nano", user_data="#!/bin/sh\necho ran >> /root/ran\n")
    cloud.ssh(parent, COUNTER)
    said = paddock(cloud, tmp_path, "server", "fork", "parent", "--count", "2", "--name", "kid")
    assert said.code == 0, said.stderr
    assert re.search(r"^parent was forked: it stood still for [0-9.]+ ms$", said.stdout, re.MULTILINE)
    servers = [parent, *(s for s in cloud.servers() if s["name"].startswith("kid-"))]
    assert [s["name"] for s in servers[1:]] == ["kid-1", "kid-2"]
    assert {s["x_began"] for s in servers[1:]} == {"fork"}
    for server in servers:
        assert cloud.ssh(server, "hostname; cat /root/ran").split() == [server["name"], "ran"]
        before = cloud.ssh(server, "cat /tmp/count")
        until(lambda s=server, n=before: cloud.ssh(s, "cat /tmp/count") != n, 20, "its process to go on")  # type: ignore[misc]
    keys = {cloud.ssh(server, "sha256sum < /etc/dropbear/ed25519") for server in servers}
    assert len(keys) == len(servers)
    assert not list((cloud.node_dir() / "warm").glob("fork-*/memory")), "the last one has the memory removed"
    cloud.remove(parent["id"])
    assert cloud.ssh(servers[1], "hostname") == "kid-1", "it goes on"
    cloud.remove(*(server["id"] for server in servers[1:]))
    assert not list((cloud.node_dir() / "warm").glob("fork-*"))
