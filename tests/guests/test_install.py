"""A template made by an installation from a CD, as one makes it by hand: watched, checked, made an image of."""

import shutil
import sys
from pathlib import Path

import pytest

from paddock.base.run import Completed, run
from paddock.cli import keys
from tests.guests.stack import Stack, until
from tests.support_images import built_image
from tests.support_iso import INSTALLED, INSTALLING, RUNS, installer

pytestmark = [pytest.mark.guest, pytest.mark.slow]

BOOT = 300.0  # seconds under TCG, on a busy host


def said(cloud: Stack, server: int) -> str:
    """What it wrote to its serial console."""
    answer = cloud.api.get(f"/x/v1/servers/{server}/console_log", params={"limit": 65536})
    return answer.text if answer.is_success else ""


def paddock(cloud: Stack, home: Path, *words: str) -> Completed:
    """The command line of somebody who has the key."""
    config = home / "config/paddock"
    config.mkdir(parents=True, exist_ok=True)
    shutil.copy(cloud.key, config / keys.MADE)
    argv: list[str | Path] = [sys.executable, "-m", "paddock.cli.main", "--state-dir", cloud.state.root, *words]
    env = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), "SSH_AUTH_SOCK": ""}
    return run(argv, env=env, timeout=300, check=False)


def test_from_a_cd_to_a_template(cloud: Stack, tmp_path: Path) -> None:
    cd = installer(built_image("rescue"), tmp_path / "installer.iso")
    assert paddock(cloud, tmp_path, "iso", "import", str(cd), "--name", "installer").code == 0
    server, action = cloud.create("template", image=None, server_type="micro", x_iso="installer")
    cloud.done(action)
    until(lambda: INSTALLED in said(cloud, server), BOOT, lambda: f"the installation: {said(cloud, server)[-800:]}")
    assert INSTALLING in said(cloud, server)
    until(lambda: cloud.server(server)["status"] == "off", 60, "it to switch itself off")

    cloud.done(cloud.power(server, "poweron"))  # the CD is in still, but the disk has something now
    until(lambda: RUNS in said(cloud, server), BOOT, lambda: f"the disk to boot: {said(cloud, server)[-800:]}")
    cloud.done(cloud.power(server, "poweroff"))
    cloud.done(cloud.post(f"/v1/servers/{server}/actions/detach_iso")["action"]["id"])
    cloud.done(cloud.power(server, "poweron"))
    cloud.ready(server, BOOT)

    checked = paddock(cloud, tmp_path, "image", "check", "template", "-l", "root")
    found = {line[:17].strip(): line[17:].split()[0] for line in checked.stdout.splitlines()[1:]}
    assert checked.code == 1, "it has no Python, and that is said"
    assert "template is no good template yet: Python" in checked.stderr, (checked.stdout, checked.stderr)
    assert (found["reached by SSH"], found["a key for root"], found["network by DHCP"]) == ("yes", "yes", "yes")
    assert cloud.ssh(cloud.server(server), "hostname").strip() == "template"

    snapshot = cloud.post(f"/v1/servers/{server}/actions/create_image", {"description": "installed"})
    cloud.done(snapshot["action"]["id"], 120)
    copy = cloud.launch("copy", image=snapshot["image"]["id"], server_type="micro")
    assert cloud.ssh(copy, "hostname").strip() == "copy"
    cloud.remove(server, copy["id"])
    assert cloud.api.delete(f"/v1/images/{snapshot['image']['id']}").is_success
    iso = cloud.get("/x/v1/isos")["isos"][0]["id"]
    assert cloud.api.delete(f"/x/v1/isos/{iso}").is_success
