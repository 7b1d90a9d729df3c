"""A template made by an installation from a CD, as one makes it by hand: watched, checked, made an image of."""

from functools import partial
from pathlib import Path

import pytest

from tests.guests.person import console, paddock
from tests.guests.stack import Stack, until
from tests.support_images import built_image
from tests.support_iso import INSTALLED, INSTALLING, RUNS, installer

pytestmark = [pytest.mark.guest, pytest.mark.slow]

BOOT = 300.0  # seconds under TCG, on a busy host


def test_from_a_cd_to_a_template(cloud: Stack, tmp_path: Path) -> None:
    cd = installer(built_image("rescue"), tmp_path / "installer.iso")
    assert paddock(cloud, tmp_path, "iso", "import", str(cd), "--name", "installer").code == 0
    server, action = cloud.create("template", image=None, server_type="micro", x_iso="installer")
    cloud.done(action)
    said = partial(console, cloud, server)
    until(lambda: INSTALLED in said(), BOOT, lambda: f"the installation: {said()[-800:]}")
    assert INSTALLING in said()
    until(lambda: cloud.server(server)["status"] == "off", 60, "it to switch itself off")

    cloud.done(cloud.power(server, "poweron"))  # the CD is in still, but the disk has something now
    until(lambda: RUNS in said(), BOOT, lambda: f"the disk to boot: {said()[-800:]}")
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
