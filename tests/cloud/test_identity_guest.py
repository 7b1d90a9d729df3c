"""What helper guests did, seen by real guests: the password of a server that was off, a clone that is somebody else."""

import pytest

from paddock.cloud.flows import server
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.models import Action, Image, Server
from tests.cloud.harness import Cloud, make_image_ready
from tests.cloud.test_server_changes_guest import in_guest

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.parametrize("agent", ["qemu"], indirect=True)]

HASH = "$6$saltsaltsaltsalt$" + "a" * 86
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ{}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa me"
TRACES = "echo ls > /root/.ash_history; echo said > /var/log/said; echo mine > /etc/mine; sync"


def done(cloud: Cloud, action: Action) -> None:
    cloud.settle(180)
    action.refresh_from_db()
    assert action.status == "success", f"{action.error_code}: {action.error_message}"


def host_key(cloud: Cloud, row: Server) -> str:
    said = in_guest(cloud, row, "sh", "-c", "dropbearkey -y -f /etc/dropbear/ed25519")
    return next(line for line in said.splitlines() if line.startswith("ssh-ed25519")).split()[1]


@pytest.fixture(autouse=True)
def helper(cloud: Cloud) -> Image:
    assert cloud.real
    return make_image_ready("rescue", real=True)


def test_a_clone_is_somebody_else(cloud: Cloud) -> None:
    row = cloud.running_server(public_keys=[KEY.format("A")])
    in_guest(cloud, row, "sh", "-c", TRACES)
    key = host_key(cloud, row)
    image, action = wishes.create_image(row, "", {}, "", wishes.Template("base"))
    done(cloud, action)
    image.refresh_from_db()
    assert (image.state, image.frozen, image.shared) == ("ready", True, []), image.not_frozen
    assert image.cleaned is not None
    kinds = {phrase.split(":")[0] for phrase in image.cleaned}
    assert {"host-keys", "hostname", "authorized-keys", "logs", "history", "cloud-init"} <= kinds
    assert host_key(cloud, row) == key
    server.delete(row)
    cloud.settle()

    clone = cloud.stopped_server("web-2", public_keys=[KEY.format("B")])
    done(cloud, wishes.rebuild(clone, image, None, "", ""))
    assert in_guest(cloud, clone, "cat", "/etc/mine") == "mine"
    assert in_guest(cloud, clone, "hostname") == "web-2"
    assert host_key(cloud, clone) != key
    assert in_guest(cloud, clone, "cat", "/root/.ssh/authorized_keys") == KEY.format("B")
    assert in_guest(cloud, clone, "sh", "-c", "ls /root/.ash_history; cat /var/log/said; true") == ""

    server.ask(clone, "stop_server")
    cloud.settle()
    done(cloud, wishes.reset_password(clone, HASH, "", offline=True))
    done(cloud, server.ask(clone, "start_server"))
    assert in_guest(cloud, clone, "cut", "-d:", "-f1,2", "/etc/shadow") == f"root:{HASH}"
    server.delete(clone)
    cloud.settle()
    cloud.nothing_left()
