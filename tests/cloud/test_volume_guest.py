"""A volume in a real guest: formatted, mounted, grown while it runs, unmounted, and its data still there afterwards."""

import pytest

from paddock.cloud.flows import mounting, server, volume
from paddock.cloud.models import Server, Volume
from paddock.machine.state import GuestResult
from tests.cloud.harness import Cloud
from tests.cloud.test_volume import asked, fresh, new_volume

pytestmark = [
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.parametrize("agent", ["qemu"], indirect=True),
]


def in_guest(cloud: Cloud, host: Server, command: str) -> str:
    done: GuestResult = cloud.host().guest.exec(host.uuid, ("/bin/sh", "-c", command), "", 20)
    assert done.exit_code == 0, done
    return done.stdout


def test_from_format_to_data_kept(cloud: Cloud) -> None:
    host = cloud.running_server()
    cloud.boot(host)
    row = new_volume(cloud, size_gib=1, format="ext4", server=host, automount=True)
    cloud.settle()
    assert asked(row, "attach_volume").status == "success", asked(row, "attach_volume").error_message
    place = mounting.directory(row)
    assert f" {place} ext4 " in in_guest(cloud, host, "cat /proc/mounts")
    assert in_guest(cloud, host, "cat /etc/fstab").count(place) == 1
    mounting.mount(cloud.host(), host.uuid, row)  # again
    assert in_guest(cloud, host, "cat /etc/fstab").count(place) == 1
    in_guest(cloud, host, f"echo kept >{place}/file")

    volume.resize(fresh(row), 2)
    cloud.settle()
    assert asked(row, "resize_volume").status == "success"
    disk = in_guest(cloud, host, f"readlink -f {row.linux_device}").strip().removeprefix("/dev/")
    assert int(in_guest(cloud, host, f"cat /sys/block/{disk}/size")) == 2 * 2**21

    volume.detach(fresh(row))
    cloud.settle()
    assert asked(row, "detach_volume").status == "success"
    assert place not in in_guest(cloud, host, "cat /proc/mounts /etc/fstab")
    assert in_guest(cloud, host, f"ls {row.linux_device} 2>&1 || true").strip().endswith("No such file or directory")

    volume.attach(fresh(row), host, True)
    cloud.settle()
    assert in_guest(cloud, host, f"cat {place}/file") == "kept\n"
    server.delete(host)
    cloud.settle()
    assert [v.uuid for v in cloud.host().volumes.volumes()] == [row.uuid]
    volume.delete(fresh(row))
    cloud.settle()
    assert not Volume.objects.exists()
    assert cloud.host().volumes.volumes() == ()
