"""Rows are locked in one order (see `flows/actions.py`): of those who work on the same ones at once, none waits for one
that waits for it. Each of these ended one of the two with "deadlock detected" once."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import transaction

from paddock.base import clock
from paddock.base.errors import AlreadyAttached, Locked, PaddockError
from paddock.cloud.flows import autostart, claim, quota, server, volume, volume_room
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.flows.engine import Flow, advance
from paddock.cloud.models import Action, Node, Project, Server, ServerType, Volume
from tests.cloud.harness import Cloud, at_once

LINGER = 0.15  # seconds for which each keeps what it has locked, before it wants more
FLOW = Flow.registry["server"]


def lingering(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Whoever has called this keeps its locks for a moment."""
    real: Callable[..., Any] = getattr(owner, name)

    def slow(*args: Any, **named: Any) -> Any:
        result = real(*args, **named)
        clock.sleep(LINGER)
        return result

    monkeypatch.setattr(owner, name, slow)


def new_volume(cloud: Cloud, name: str) -> Volume:
    row = Volume(project=cloud.project(), name=name, size_gib=1)
    volume.create(row, None, False)
    cloud.settle()
    return Volume.objects.get(pk=row.pk)


def ended(answers: list[object]) -> list[object]:
    """What each did; one that died of something else than a refusal has done nothing."""
    assert not any(callable(answer) for answer in answers), "one of them broke off"
    return answers


def test_two_servers_with_the_same_volumes_the_other_way_round(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = new_volume(cloud, "a"), new_volume(cloud, "b")
    lingering(monkeypatch, volume, "attach_to_new")
    answers = ended(
        at_once(
            partial(cloud.new_server, "web-1", volumes=[a, b]),
            partial(cloud.new_server, "web-2", volumes=[b, a]),
        )
    )
    assert {type(answer) for answer in answers} == {Server, AlreadyAttached}
    cloud.settle()


@pytest.mark.parametrize("other", ["change_type", "create_image"])
def test_a_volume_for_a_server_that_changes(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    row = cloud.stopped_server()
    Project.objects.update(limit_volume_gib=100, limit_cores=100, limit_snapshots=100)
    lingering(monkeypatch, quota, "check")
    new = Volume(project=cloud.project(), name="data", size_gib=1)
    small = ServerType.objects.get(name="small")
    asked: dict[str, Callable[[], object]] = {
        "change_type": lambda: wishes.change_type(row, small, upgrade_disk=False, live=False, correlation_id=""),
        "create_image": lambda: wishes.create_image(row, "", {}, ""),
    }

    def later() -> object:
        clock.sleep(LINGER / 3)
        return asked[other]()

    answers = ended(at_once(lambda: volume.create(new, row, False), later))
    assert any(not isinstance(answer, PaddockError) for answer in answers)
    cloud.settle()
    assert not Action.objects.filter(status="running").exists()


def test_a_volume_for_a_server_that_is_just_being_deleted(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the volume for a moment, and leaves it behind."""
    row, data = cloud.running_server(), new_volume(cloud, "data")
    lingering(monkeypatch, volume_room, "claim_room")

    def delete() -> None:
        clock.sleep(LINGER / 3)
        server.delete(row)
        advance(FLOW, row.pk)

    answers = ended(at_once(partial(volume.attach, data, row, False), delete))
    assert isinstance(answers[0], Action)
    cloud.settle()
    assert Volume.objects.get().server is None
    volume.delete(Volume.objects.get())
    cloud.settle()
    cloud.nothing_left()


def test_a_volume_for_a_server_that_was_deleted_meanwhile(cloud: Cloud) -> None:
    """Who asks has read the server before it was asked to go."""
    row, data = cloud.running_server(), new_volume(cloud, "data")
    server.delete(row)
    Action.objects.filter(command="delete_server").update(status="success")
    assert not row.delete_requested
    with pytest.raises(Locked, match="is being deleted"):
        volume.attach(data, row, False)
    cloud.settle()


def test_a_node_that_starts_while_a_server_of_it_changes(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    row = cloud.stopped_server(autostart=True)
    Node.objects.update(facts={"boot_id": "before"})
    lingering(monkeypatch, autostart, "from_now")
    small = ServerType.objects.get(name="small")

    def change() -> object:
        with transaction.atomic():
            Server.objects.select_for_update().get(pk=row.pk)
            clock.sleep(LINGER)
            return wishes.change_type(row, small, upgrade_disk=False, live=False, correlation_id="")

    answers = ended(at_once(partial(autostart.note_boot, cloud.node, "after"), change))
    assert answers[0] is None
    assert isinstance(answers[1], Action)
    cloud.settle()


def test_a_port_that_is_taken_while_a_server_gets_more(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    row = cloud.stopped_server()
    lingering(monkeypatch, claim, "_free_port")
    small = ServerType.objects.get(name="small")

    def change() -> object:
        with transaction.atomic():
            Server.objects.select_for_update().get(pk=row.pk)
            clock.sleep(LINGER)
            return wishes.change_type(row, small, upgrade_disk=False, live=False, correlation_id="")

    taken = Server.objects.select_related("node").get(pk=row.pk)
    answers = ended(at_once(partial(claim.take_next_port, taken), change))
    assert answers[0] is None
    assert isinstance(answers[1], Action)
    cloud.settle()
