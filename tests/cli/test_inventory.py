"""`paddock inventory`: what Ansible is told."""

import json
import subprocess
import sys

from tests.cli.conftest import Shell
from tests.cli.server import Cloud


def test_groups_and_how_to_reach_each_server(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web", x_group="pf1", x_role="web", labels={"env": "prod", "gpu": ""})
    cloud.add("db", x_group="pf-2")
    cloud.add("off", status="off")
    told = json.loads(paddock.ok("inventory"))
    assert {name: group["hosts"] for name, group in told.items() if name not in ("_meta", "all")} == {
        "group_pf1": ["web"], "role_web": ["web"], "group_pf1_role_web": ["web"], "group_pf_2": ["db"],
        "image_tiny": ["web", "db"], "label_env_prod": ["web"], "label_gpu": ["web"],
    }  # fmt: skip
    assert told["all"]["hosts"] == ["web", "db"]
    web = told["_meta"]["hostvars"]["web"]
    assert (web["ansible_host"], web["ansible_port"], web["ansible_user"]) == ("127.0.0.1", 2200, "root")
    assert "HostKeyAlias=paddock-00000000-0000-0000-0000-000000000001" in web["ansible_ssh_common_args"]
    assert json.loads(paddock.ok("inventory", "--host", "web")) == web
    assert json.loads(paddock.ok("inventory", "--host", "nobody")) == {}


def test_as_ansible_runs_it(paddock: Shell, cloud: Cloud) -> None:
    cloud.add("web")
    argv = [sys.executable, "-c", "from paddock.cli.inventory import main; main()", "--list"]
    done = subprocess.run(argv, env=paddock.env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["all"]["hosts"] == ["web"]
    done = subprocess.run(argv, env={**paddock.env, "PADDOCK_TOKEN": "x"}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
