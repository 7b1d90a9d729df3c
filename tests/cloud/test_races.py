"""Two who want what only one can have: asked at the same moment, on connections of their own, against real rows."""

from functools import partial

import pytest

from paddock.base import clock
from paddock.base.errors import Conflict, Locked
from paddock.cloud.flows import actions, server
from paddock.cloud.flows import image as images
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.flows.engine import Flow, advance
from paddock.cloud.models import Action, Image, Server, ServerType
from paddock.machine.image import Role
from tests.cloud.harness import Cloud, at_once, make_image

FLOW = Flow.registry["server"]


def fresh(row: Server) -> Server:
    return Server.objects.get(pk=row.pk)


def test_a_rebuild_and_a_snapshot_at_once(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them is done, whole; the other is told to wait."""
    look = actions.refuse_busy

    def slow_look(*args: object) -> None:
        look(*args)  # type: ignore[arg-type]
        clock.sleep(0.1)  # between the look and the wish there is room for the other's

    monkeypatch.setattr(actions, "refuse_busy", slow_look)
    row = cloud.running_server()
    answers = at_once(
        partial(wishes.create_image, row, "", {}, ""), partial(wishes.rebuild, row, row.image, None, "", "")
    )
    assert [type(a) for a in answers if isinstance(a, Exception)] == [Locked]
    cloud.settle()
    assert not Action.objects.exclude(status="success").exists()
    assert fresh(row).status == "running"
    assert fresh(row).generation == int(isinstance(answers[0], Locked))
    assert Image.objects.filter(type="snapshot", state="ready").count() == int(isinstance(answers[1], Locked))


def test_a_rebuild_while_a_snapshot_is_copied(cloud: Cloud) -> None:
    row = cloud.running_server()
    cloud.agent_faults(copy_seconds=60)
    image, action = wishes.create_image(row, "", {}, "")
    advance(FLOW, row.pk)
    assert "copied" in fresh(row).waiting_for
    with pytest.raises(Locked, match="busy with create_image"):
        wishes.rebuild(row, row.image, None, "", "")
    cloud.agent_faults(clear=True)
    cloud.settle()
    action.refresh_from_db()
    assert action.status == "success", action.error_message
    image.refresh_from_db()
    assert (image.state, fresh(row).generation) == ("ready", 0)


def test_an_image_that_is_deleted_while_a_server_is_rebuilt_from_it(cloud: Cloud) -> None:
    """It was asked for while the image was there: either it stands on it, or it says why not, and is as it was."""
    for number in range(3):
        row = cloud.running_server(f"web-{number}")
        mine = make_image(f"mine-{number}", "snapshot", Role.DISK, project=row.project)
        action = wishes.rebuild(row, mine, None, "", "")
        at_once(partial(advance, FLOW, row.pk), partial(images.delete, mine, ""))
        cloud.settle()
        action.refresh_from_db()
        assert fresh(row).status == "running"
        assert fresh(row).image_id == (mine.pk if action.status == "success" else row.image_id)
        server.delete(row)
        cloud.settle()
        assert not Image.objects.filter(pk=mine.pk).exists()


def test_a_server_that_is_deleted_while_it_is_asked_for_more(cloud: Cloud) -> None:
    """Whoever is first: nothing is left of it, and no action waits for what is not there."""
    asked = (
        lambda row: wishes.create_image(row, "", {}, ""),
        lambda row: wishes.rebuild(row, row.image, None, "", ""),
        lambda row: server.ask(row, "stop_server"),
    )
    for number, ask in enumerate(asked):
        row = cloud.running_server(f"web-{number}")

        def delete_at_last(row: Server = row) -> None:
            server.delete(row)
            advance(FLOW, row.pk)

        answers = at_once(partial(ask, row), delete_at_last)
        assert not any(callable(answer) for answer in answers), "one of them broke off"
        cloud.settle()
        cloud.nothing_left()


def test_a_server_that_is_made_of_an_image_that_just_goes(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody stood on it when that was looked at; somebody does when it is removed."""
    mine = make_image("mine", "snapshot", Role.DISK, project=cloud.project())
    destroy, made = images.ImageFlow.destroy, list[Server]()

    def destroy_and_create(self: images.ImageFlow, image: Image) -> object:
        outcome = destroy(self, image)
        if not made:
            made.append(row_of(cloud, mine))
        return outcome

    destroy_and_create.info, destroy_and_create.__name__ = destroy.info, "destroy"  # type: ignore[attr-defined]
    monkeypatch.setattr(images.ImageFlow, "destroy", destroy_and_create)
    images.delete(mine, "")
    cloud.settle()
    assert fresh(made[0]).status == "running", fresh(made[0]).problem
    assert Image.objects.filter(pk=mine.pk).exists()
    server.delete(made[0])
    cloud.settle()
    assert not Image.objects.filter(pk=mine.pk).exists()


def test_a_server_of_an_image_that_is_gone(cloud: Cloud) -> None:
    """It was there when it was looked up."""
    mine = make_image("mine", "snapshot", Role.DISK, project=cloud.project())
    images.delete(mine, "")
    cloud.settle()
    with pytest.raises(Conflict, match="deleted at the same time"):
        row_of(cloud, mine)
    assert not Server.objects.exists()


def row_of(cloud: Cloud, image: Image) -> Server:
    kind = ServerType.objects.get(name="nano")
    row = Server(
        project=cloud.project(), name="web-1", server_type=kind, cores=kind.cores, memory_mib=kind.memory_mib,
        disk_gib=kind.disk_gib, image=image,
    )  # fmt: skip
    server.create(row)
    return row
