"""An image of three files, as kvm-cloud's templates are: its servers boot its kernel, with the arguments of both."""

from pathlib import Path

import pytest

from paddock.machine.image import Role
from tests.guests.person import paddock
from tests.guests.stack import Stack
from tests.support_images import built_image

pytestmark = [pytest.mark.guest, pytest.mark.slow]


def test_disk_kernel_and_initrd(cloud: Stack, tmp_path: Path) -> None:
    tiny = built_image("tiny")
    files = [word for role in (Role.DISK, Role.KERNEL, Role.INITRD) for word in (f"--{role.value}", tiny.file(role))]
    words = [*map(str, files), "--kernel-args", "console=ttyS0 from=image", "--no-cloud-init"]
    imported = paddock(cloud, tmp_path, "image", "import", "three", *words)
    assert imported.code == 0, imported
    server = cloud.launch("one", image="three", x_kernel_args="from=server")
    assert cloud.ssh(server, "cat /proc/cmdline").strip() == "console=ttyS0 from=image from=server"

    snapshot = cloud.post(f"/v1/servers/{server['id']}/actions/create_image", {"description": "of three files"})
    cloud.done(snapshot["action"]["id"], 120)
    cloud.remove(server["id"])
    for name in ("three", str(snapshot["image"]["id"])):
        assert paddock(cloud, tmp_path, "image", "delete", name).code == 0
