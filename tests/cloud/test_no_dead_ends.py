"""Ways into which a row could go and not come out again."""

import pytest

from paddock.base.errors import PortTaken, Refused
from paddock.cloud.flows import image as images
from paddock.cloud.flows import node as watching
from paddock.cloud.flows import server
from paddock.cloud.models import Action, Image, ImageCopy, Node, Server
from paddock.images import build
from paddock.images.progress import BuildStatus
from paddock.machine.spec import Power
from tests.cloud.harness import Cloud


def ended(row: Server, command: str) -> Action:
    return Action.objects.filter(kind="server", row_id=row.pk, command=command).latest("id")


def test_a_machine_that_was_removed_fails_the_action(cloud: Cloud) -> None:
    """As after a restore of the database: the row is there, the node has buried its machine."""
    row = cloud.running_server()
    server.ask(row, "stop_server")
    cloud.settle()
    row.refresh_from_db()
    cloud.host().machines.remove(row.uuid, row.epoch + 1)
    server.ask(row, "start_server")
    cloud.settle()
    assert "was removed" in ended(row, "start_server").error_message
    server.delete(row)
    cloud.settle()
    cloud.nothing_left()


def test_a_node_that_knows_a_newer_epoch_fails_the_action(cloud: Cloud) -> None:
    row = cloud.running_server()
    cloud.host().machines.power(row.uuid, Power.ON, row.epoch + 100)
    server.ask(row, "stop_server")
    cloud.settle()
    action = ended(row, "stop_server")
    assert action.status == "error"
    assert "restored from a backup" in action.error_hint


def test_power_off_of_what_never_got_a_machine(cloud: Cloud) -> None:
    row = cloud.new_server()
    Server.objects.filter(pk=row.pk).update(step="rest", status="off", action_id=None)
    Action.objects.update(status="error")
    action = server.ask(row, "stop_server")
    cloud.settle()
    action.refresh_from_db()
    row.refresh_from_db()
    assert (action.status, row.status) == ("success", "off")


def test_ports_that_can_not_be_used_end_in_an_error(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    Node.objects.update(ssh_ports=3)
    row = cloud.new_server()
    tried = []

    def taken(self: object, *_: object) -> None:
        tried.append(Server.objects.get(pk=row.pk).ssh_port)
        raise PortTaken("taken")

    monkeypatch.setattr(type(cloud.host().machines), "power", taken)
    cloud.settle()
    assert len(set(tried)) == 3
    assert "none of the node's SSH ports" in ended(row, "create_server").error_message


def test_a_builder_that_failed_is_not_started_again_and_again(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(build, "start_build", lambda *_: started.append(1))
    monkeypatch.setattr(build, "build_status", lambda *_: BuildStatus(state="failed", error="no sources"))
    row = Image.objects.get(project=None, name="debian-12")
    Image.objects.filter(pk=row.pk).update(state="absent", sha256="", step="rest", next_at=None)
    row.refresh_from_db()
    first = images.ask_build(row, "", cloud.project().pk)
    row.refresh_from_db()
    assert images.ask_build(row, "", cloud.project().pk) == first
    cloud.settle()
    first.refresh_from_db()
    row.refresh_from_db()
    assert (first.status, row.state, len(started)) == ("error", "failed", 1)
    assert "no sources" in first.error_message
    Image.objects.filter(pk=row.pk).update(state="absent", problem="")


def test_the_same_content_in_two_projects(cloud: Cloud) -> None:
    """Whoever deletes its image leaves the other's copies where they are."""
    tiny = Image.objects.get(project=None, name="tiny")
    cloud.running_server()
    mine = Image.objects.create(
        project=cloud.project(), name="mine", state="ready", sha256=tiny.sha256, manifest=tiny.manifest, step="rest",
    )  # fmt: skip
    ImageCopy.objects.update(image=mine)
    images.delete(mine, "")
    cloud.settle()
    assert not Image.objects.filter(pk=mine.pk).exists()
    assert ImageCopy.objects.get().image == tiny


def test_a_lost_machine_wakes_its_server_once(cloud: Cloud) -> None:
    row = cloud.running_server()
    cloud.host().machines.remove(row.uuid, row.epoch)
    for _ in range(3):
        watching.look(cloud.node, 1, 0)
        cloud.settle()
    row.refresh_from_db()
    before = row.epoch
    watching.look(cloud.node, 1, 0)
    cloud.settle()
    row.refresh_from_db()
    assert (row.status, row.epoch) == ("unknown", before)


def test_other_actions_end_when_a_removal_fails(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    row = cloud.running_server()
    server.ask(row, "reboot_server")
    server.delete(row)

    def refuse(self: object, *_: object) -> None:
        raise Refused("the disk is broken")

    monkeypatch.setattr(type(cloud.host().machines), "remove", refuse)
    cloud.settle()
    monkeypatch.undo()
    assert not Action.objects.filter(status="running").exists()
    assert ended(row, "delete_server").error_message == "the disk is broken"
    assert ended(row, "reboot_server").error_code == "server_deleted"
    server.delete(row)
    cloud.settle()
    cloud.nothing_left()
