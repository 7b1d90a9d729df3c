"""What is done to a server's disk in a helper guest: its password while it is off, an image cleaned for others."""

import pytest
from django.db import IntegrityError, transaction

from paddock.base.errors import NotStopped
from paddock.cloud.flows import server
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.models import Action, Image, Server
from paddock.machine.cleaning import Trace
from paddock.machine.image import Role
from tests.cloud.harness import Cloud, make_image


@pytest.fixture(autouse=True)
def helper(cloud: Cloud) -> Image:
    """What helper guests boot."""
    assert cloud.node
    return make_image("rescue", "rescue", Role.KERNEL, Role.INITRD)


def done(cloud: Cloud, action: Action) -> Action:
    cloud.settle()
    action.refresh_from_db()
    return action


def fresh(row: Server) -> Server:
    row.refresh_from_db()
    return row


def test_password_of_a_server_that_is_off(cloud: Cloud) -> None:
    row = cloud.stopped_server()
    ended = done(cloud, wishes.reset_password(row, "$6$a$b", "", offline=True))
    assert (ended.status, ended.error_message) == ("success", "")
    assert cloud.saved(row)["passwords"] == {"root": "$6$a$b"}
    assert (fresh(row).status, row.password_hash) == ("off", "$6$a$b")
    assert done(cloud, server.ask(row, "start_server")).status == "success"


def test_not_of_one_that_runs(cloud: Cloud) -> None:
    with pytest.raises(NotStopped):
        wishes.reset_password(cloud.running_server(), "$6$a$b", "", offline=True)


def test_a_helper_that_can_not_leaves_it_as_it_was(cloud: Cloud) -> None:
    row = cloud.stopped_server()
    cloud.agent_faults(helper_error="there is no Linux system on the disk; what was found: /dev/sda2 (ufs)")
    ended = done(cloud, wishes.reset_password(row, "$6$a$b", "", offline=True))
    assert "is as it was: there is no Linux system" in ended.error_message
    assert (fresh(row).status, row.password_hash, row.problem) == ("off", "", "")
    assert cloud.saved(row)["passwords"] == {}


def test_a_cloud_without_a_rescue_system(cloud: Cloud, helper: Image) -> None:
    row = cloud.stopped_server()
    helper.delete()
    ended = done(cloud, wishes.reset_password(row, "$6$a$b", "", offline=True))
    assert "no rescue system" in ended.error_message


def test_a_server_is_deleted_meanwhile(cloud: Cloud) -> None:
    row = cloud.stopped_server()
    cloud.agent_faults(copy_seconds=60)
    action = wishes.reset_password(row, "$6$a$b", "", offline=True)
    server.delete(row)
    assert done(cloud, action).error_code == "server_deleted"
    cloud.nothing_left()


@pytest.mark.parametrize("runs", [True, False])
def test_an_image_for_other_servers(cloud: Cloud, runs: bool) -> None:
    row = cloud.running_server() if runs else cloud.stopped_server()
    template = wishes.Template("base", (Trace.LOGS, Trace.HISTORY))
    image, action = wishes.create_image(row, "for the web", {"a": "b"}, "", template)
    assert done(cloud, action).error_message == ""
    image.refresh_from_db()
    assert (image.state, image.name, image.type) == ("ready", "base", "snapshot")
    assert image.shared == ["logs: 1", "history: 1"]
    assert image.cleaned is not None
    assert "host-keys: 1" in image.cleaned
    assert len(image.cleaned) == len(Trace) - 2
    again = cloud.running_server("web-3")
    assert done(cloud, wishes.rebuild(again, image, None, "", "")).status == "success"


def test_a_snapshot_is_exact(cloud: Cloud) -> None:
    image, action = wishes.create_image(cloud.running_server(), "", {}, "")
    assert done(cloud, action).status == "success"
    image.refresh_from_db()
    assert (image.cleaned, image.shared) == (None, [])


def test_what_could_not_be_cleaned_is_no_image(cloud: Cloud) -> None:
    row = cloud.running_server()
    cloud.agent_faults(helper_error="servers made of this image would share what could not be removed: host-keys: 2")
    image, action = wishes.create_image(row, "", {}, "", wishes.Template("base"))
    assert "host-keys: 2" in done(cloud, action).error_message
    assert not Image.objects.filter(pk=image.pk).exists()
    assert fresh(row).status == "running"
    cloud.agent_faults(clear=True)
    _, action = wishes.create_image(row, "", {}, "", wishes.Template("base"))
    assert done(cloud, action).status == "success"


def test_two_of_one_name(cloud: Cloud) -> None:
    row = cloud.running_server()
    _, action = wishes.create_image(row, "", {}, "", wishes.Template("base"))
    assert done(cloud, action).status == "success"
    with pytest.raises(IntegrityError), transaction.atomic():
        wishes.create_image(row, "", {}, "", wishes.Template("base"))
    assert fresh(row).step == "rest"
