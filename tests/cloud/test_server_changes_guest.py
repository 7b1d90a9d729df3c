"""A server's changes with a real guest: what the rows say is what QEMU does."""

import pytest

from paddock.cloud.flows import server
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.models import Action, Server, ServerType
from tests.cloud.harness import Cloud

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.parametrize("agent", ["qemu"], indirect=True)]


def done(cloud: Cloud, action: Action) -> None:
    cloud.settle()
    action.refresh_from_db()
    assert action.status == "success", f"{action.error_code}: {action.error_message}"


def in_guest(cloud: Cloud, row: Server, *argv: str) -> str:
    cloud.agent_answers(row)
    result = cloud.host().guest.exec(row.uuid, argv, "", 60)
    assert result.exit_code == 0, result.stderr
    return result.stdout.strip()


def test_snapshot_rebuild_and_another_type(cloud: Cloud) -> None:
    """What was written before the snapshot is there after a rebuild from it; what came later is not."""
    row = cloud.running_server()
    in_guest(cloud, row, "sh", "-c", "echo before >/root/said; sync")
    image, action = wishes.create_image(row, "with a word", {}, "")
    done(cloud, action)
    image.refresh_from_db()
    assert (image.state, image.frozen) == ("ready", True), image.not_frozen
    in_guest(cloud, row, "sh", "-c", "echo after >/root/said; sync")
    done(cloud, wishes.rebuild(row, image, None, "", ""))
    assert in_guest(cloud, row, "cat", "/root/said") == "before"
    done(cloud, server.ask(row, "stop_server"))
    small = ServerType.objects.get(name="micro")
    done(cloud, wishes.change_type(row, small, upgrade_disk=True, live=False, correlation_id=""))
    done(cloud, server.ask(row, "start_server"))
    assert in_guest(cloud, row, "sh", "-c", "cat /sys/block/[sv]da/size") == str(20 * 2**30 // 512)
    assert int(in_guest(cloud, row, "sh", "-c", "grep MemTotal /proc/meminfo").split()[1]) > 800 * 1024
    server.delete(row)
    cloud.settle()
    cloud.nothing_left()
