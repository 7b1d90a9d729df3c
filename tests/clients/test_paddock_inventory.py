"""`paddock-inventory` under a real ansible-playbook: two guests that it finds by their group, and logs in to."""

import re
import sys
from pathlib import Path

import pytest

from paddock.base.run import run
from tests.clients.cloud import ROOT, Place

pytestmark = [pytest.mark.guest, pytest.mark.slow]

CLIENTS = ROOT / ".venv-clients" / "bin"
PLAYBOOK = """
- hosts: group_shop_role_web
  gather_facts: false  # tiny has no Python
  tasks:
    - raw: hostname
      register: said
    - assert:
        that:
          - said.stdout | trim == inventory_hostname
          - paddock_group == "shop" and paddock_labels.env == "test"
- hosts: group_shop:&label_env_other
  gather_facts: false
  tasks:
    - raw: "false"
"""


def test_a_playbook_finds_servers_by_group_and_logs_in(place: Place, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), "LC_ALL": "C.UTF-8",
           "PADDOCK_STATE_DIR": str(place.stack.state.root), "ANSIBLE_HOME": str(tmp_path), "ANSIBLE_NOCOLOR": "1",
           "ANSIBLE_INVENTORY_ENABLED": "script",
           "ANSIBLE_SSH_CONTROL_PATH_DIR": str(place.stack.state.run)}  # fmt: skip
    words = ["launch", "tiny", "--type", "nano", "--name", "shop", "--count", "2", "--group", "shop", "--role", "web",
             "--label", "env=test"]  # fmt: skip
    run([sys.executable, "-m", "paddock.cli.main", *words], env=env, timeout=200)
    script = tmp_path / "paddock-inventory"  # as pip makes it
    script.write_text(f"#!{sys.executable}\nfrom paddock.cli.inventory import main\nmain()\n")
    script.chmod(0o755)
    (tmp_path / "site.yml").write_text(PLAYBOOK)
    done = run([CLIENTS / "ansible-playbook", "-i", script, tmp_path / "site.yml"], env=env, timeout=200, check=False)
    assert done.code == 0, done.stdout + done.stderr
    recap = dict(re.findall(r"(shop-\d) +: ok=(\d)", done.stdout))
    assert recap == {"shop-1": "2", "shop-2": "2"}, done.stdout
