"""Several projects on one cloud that others reach over the network: HTTPS, a real guest's screen, nodes not shared."""

import os
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from paddock.base.errors import CommandFailed
from paddock.base.run import run
from paddock.base.statedir import STATE_ENV
from tests.api.vnc import Viewer
from tests.guests.stack import Plan, Stack, stack

pytestmark = [pytest.mark.guest, pytest.mark.slow]


def test_tenants_of_a_cloud_on_the_network() -> None:
    with stack(Plan(host="0.0.0.0")) as cloud:
        server = cloud.launch("web")
        _nobody_speaks_plainly(cloud)
        _its_screen_is_shown(cloud, server)
        _a_stranger_sees_nothing(cloud, server)
        _tools_are_pointed_here(cloud)
        cloud.remove(server["id"])
        cloud.nothing_left()


def _nobody_speaks_plainly(cloud: Stack) -> None:
    assert str(cloud.api.base_url).startswith("https://")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{cloud.ports[0]}/x/v1/version", trust_env=False)
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://127.0.0.1:{cloud.ports[0]}/x/v1/version", trust_env=False)


@contextmanager
def _viewer(cloud: Stack, url: str) -> Iterator[Viewer]:
    trust = ssl.create_default_context(cafile=cloud.state.ca)
    with connect(url, ssl=trust, proxy=None, subprotocols=["binary"], max_size=None) as line:  # type: ignore[list-item]
        yield Viewer(line)


def _its_screen_is_shown(cloud: Stack, server: dict[str, Any]) -> None:
    path = f"/v1/servers/{server['id']}/actions/request_console"
    said = cloud.post(path)
    assert said["wss_url"].startswith(f"wss://127.0.0.1:{cloud.ports[0]}/x/v1/console/")
    assert said["action"]["status"] == "success"
    with _viewer(cloud, said["wss_url"]) as found:
        assert found.log_in(said["password"]) == ""
        width, height, name = found.size()
        assert (width >= 640, height >= 400, name[:4]) == (True, True, "QEMU")
        pixels = found.picture(width, height)
        assert len(pixels) == width * height * 4
        assert len({pixels[i : i + 4] for i in range(0, len(pixels), 4)}) > 1, "a BIOS or a kernel has written on it"
    with _viewer(cloud, said["wss_url"]) as again, pytest.raises(ConnectionClosed):
        again.read(1)
    other = cloud.post(path)
    with _viewer(cloud, other["wss_url"]) as found:
        assert "wrong" in found.log_in("wrong")


def _a_stranger_sees_nothing(cloud: Stack, server: dict[str, Any]) -> None:
    """And gets no place on a node whose guests reach each other's ports on the host's loopback."""
    project = cloud.post("/admin/v1/projects", {"name": "stranger", "limits": {"servers": 1}})["project"]
    secret = cloud.post(f"/admin/v1/projects/{project['id']}/tokens")["secret"]
    trust = ssl.create_default_context(cafile=cloud.state.ca)
    bearer = {"Authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=cloud.api.base_url, headers=bearer, verify=trust, trust_env=False) as stranger:
        assert stranger.get("/v1/servers").json()["servers"] == []
        assert stranger.get(f"/v1/servers/{server['id']}").status_code == 404
        made = stranger.post("/v1/servers", json={"name": "mine", "server_type": "nano", "image": "tiny"})
        assert (made.status_code, made.json()["error"]["code"]) == (412, "resource_unavailable")
        assert "n1 serves another project" in made.json()["error"]["message"]


def _tools_are_pointed_here(cloud: Stack) -> None:
    script = (
        'lines=$("$0" -m paddock.cli.main env) && eval "$lines" && {} hcloud server list -o noheader -o columns=name'
    )
    env = {"PATH": os.environ["PATH"], "HOME": str(cloud.root), STATE_ENV: str(cloud.state.root)}
    words = [f"{name}={value}" for name, value in env.items()]
    argv = ["env", "-i", *words, "sh", "-c"]
    assert run([*argv, script.format(""), sys.executable]).stdout.strip() == "web"
    with pytest.raises(CommandFailed, match="x509: certificate signed by unknown authority"):
        run([*argv, script.format("unset SSL_CERT_FILE;"), sys.executable])
