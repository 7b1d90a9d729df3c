"""The Ansible collection hetzner.hcloud, unmodified: a playbook that changes nothing the second time, the inventory."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from paddock.base.run import run
from tests.clients.cloud import EXAMPLES, ROOT, Place

pytestmark = [pytest.mark.guest, pytest.mark.slow]

CLIENTS = ROOT / ".venv-clients" / "bin"


@dataclass
class Ansible:
    """Its commands, in a home of their own."""

    place: Place
    home: Path

    def run(self, command: str, *words: str | Path) -> str:
        env = {**self.place.env, "HOME": str(self.home), "ANSIBLE_HOME": str(self.home), "ANSIBLE_NOCOLOR": "1",
               "ANSIBLE_INVENTORY_ENABLED": "hetzner.hcloud.hcloud,host_list", "LC_ALL": "C.UTF-8"}  # fmt: skip
        return run([CLIENTS / command, *words], env=env, timeout=240, cwd=self.home).stdout

    def play(self, name: str) -> dict[str, int]:
        """Run an example: how many tasks were ok, changed, failed and so on."""
        said = self.run("ansible-playbook", "-i", "localhost,", "-e", f"public_key={self.home}/key.pub",
                        "-e", f"ansible_python_interpreter={CLIENTS}/python", EXAMPLES / name)  # fmt: skip
        recap = re.search(r"localhost +: (.+)", said)
        assert recap, said
        return {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", recap[1])}

    def inventory(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.run("ansible-inventory", "-i", EXAMPLES / "cloud.hcloud.yml", "--list"))
        return said


@pytest.fixture(scope="module")
def ansible(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ansible]:
    home = tmp_path_factory.mktemp("ansible")
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / "key"])
    yield Ansible(place, home)
    shutil.rmtree(home)


def test_a_playbook_twice(ansible: Ansible) -> None:
    first = ansible.play("playbook.yml")
    assert (first["changed"], first["failed"]) == (4, 0)
    again = ansible.play("playbook.yml")
    assert (again["changed"], again["failed"]) == (0, 0)
    ansible.place.ready("shop-1")
    volume = ansible.place.by_name("shop-data", "volumes")
    assert f"/mnt/HC_Volume_{volume['id']} ext4" in ansible.place.by_agent("shop-1", "cat", "/proc/mounts")


def test_the_inventory(ansible: Ansible) -> None:
    said = ansible.inventory()
    assert said["role_shop"]["hosts"] == ["shop-1"]
    host = said["_meta"]["hostvars"]["shop-1"]
    shown = {name: host[name]["__ansible_unsafe"] for name in ("hcloud_status", "hcloud_location", "ansible_host")}
    assert shown == {"hcloud_status": "running", "hcloud_location": "local", "ansible_host": "shop-1"}


def test_all_info_modules(ansible: Ansible) -> None:
    for what in ("server", "image", "location", "datacenter", "server_type", "ssh_key", "volume", "network", "firewall",
                 "floating_ip", "primary_ip", "load_balancer", "load_balancer_type", "certificate", "iso"):  # fmt: skip
        python = f"ansible_python_interpreter={CLIENTS}/python"
        said = ansible.run("ansible", "localhost", "-i", "localhost,", "-c", "local", "-e", python, "-m",
                           f"hetzner.hcloud.{what}_info")  # fmt: skip
        assert "SUCCESS" in said, said


def test_the_end(ansible: Ansible) -> None:
    assert ansible.play("teardown.yml")["failed"] == 0
    assert ansible.place.stack.servers() == []
