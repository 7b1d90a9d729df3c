"""Packer as Debian has it, unmodified: a server is booted, changed over SSH, and its snapshot is an image.

It knows no other way to a server than its public address, which there is not: the example's proxy leads it there.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.base.run import run, spawn
from tests.clients.cloud import EXAMPLES, Place
from tests.guests.stack import until
from tests.support_ports import free_ports, is_free

pytestmark = [pytest.mark.guest, pytest.mark.slow]


@pytest.fixture
def proxy_port(place: Place, tmp_path: Path) -> Iterator[int]:
    """Where the example's proxy listens."""
    port = free_ports(1)[0]
    argv: list[str | Path] = [sys.executable, EXAMPLES / "ssh_proxy.py", "golden-build", str(port)]
    process = spawn(argv, output=tmp_path / "proxy.log", env=place.env)
    try:
        until(lambda: not is_free(port), 10, lambda: (tmp_path / "proxy.log").read_text())
        yield port
    finally:
        process.kill()
        process.wait()


def test_an_image_is_built(place: Place, tmp_path: Path, proxy_port: int) -> None:
    env = {**place.env, "HOME": str(tmp_path), "PACKER_CACHE_DIR": str(tmp_path / "cache"), "CHECKPOINT_DISABLE": "1"}
    words = ["build", "-color=false", "-var", f"proxy_port={proxy_port}", str(EXAMPLES / "image.pkr.hcl")]
    said = run(["packer", *words], env=env, timeout=400, cwd=tmp_path)
    image = re.search(r"A snapshot was created: 'golden' \(ID: (\d+)\)", said.stdout)
    assert image, said.stdout
    until(lambda: not place.stack.servers(), 20, "its server to be gone")
    assert [k["name"] for k in place.stack.get("/v1/ssh_keys")["ssh_keys"]] == ["tester"]
    shown = place.stack.get(f"/v1/images/{image[1]}")["image"]
    assert (shown["status"], shown["labels"], shown["description"]) == ("available", {"made_by": "packer"}, "golden")
    server = place.stack.launch("from-golden", image=image[1])
    assert place.stack.ssh(server, "cat /etc/golden") == "golden"
    place.stack.remove(server["id"])
