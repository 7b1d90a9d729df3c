"""An image that could not be built is tried again by whoever asks for it next."""

from datetime import timedelta

import pytest

from paddock.base.errors import Conflict
from paddock.cloud.flows import image as images
from paddock.cloud.models import Action, Image
from tests.cloud.harness import Cloud


def failed_image() -> Image:
    row = Image.objects.get(project=None, name="debian-12")
    Image.objects.filter(pk=row.pk).update(
        state="failed", problem="no package sources", sha256="", manifest={}, step="rest", next_at=None
    )
    row.refresh_from_db()
    return row


def test_a_new_server_has_it_built_again(cloud: Cloud) -> None:
    row = failed_image()
    cloud.new_server(image="debian-12")
    row.refresh_from_db()
    assert (row.state, row.step, row.problem) == ("building", "build", "")
    Image.objects.filter(pk=row.pk).update(state="absent", step="rest", next_at=None)
    cloud.reset()


def test_a_failed_build_fails_its_servers_with_the_reason(cloud: Cloud) -> None:
    row = failed_image()
    server = cloud.new_server(image="debian-12")
    Image.objects.filter(pk=row.pk).update(state="failed", problem="no package sources", step="rest", next_at=None)
    cloud.settle()
    action = Action.objects.get(row_id=server.pk, kind="server")
    assert action.status == "error"
    assert "no package sources" in action.error_message
    Image.objects.filter(pk=row.pk).update(state="absent", next_at=None)


def test_ready_images_are_left_alone(cloud: Cloud) -> None:
    row = Image.objects.get(project=None, name="tiny")
    images.want(row)
    row.refresh_from_db()
    assert row.state == "ready"


def test_its_last_use_is_known_to_the_minute(cloud: Cloud) -> None:
    tiny = Image.objects.get(project=None, name="tiny")
    Image.objects.filter(pk=tiny.pk).update(used_at=None)
    cloud.running_server()
    first = Image.objects.get(pk=tiny.pk).used_at
    assert first is not None
    cloud.running_server("web-2")
    assert Image.objects.get(pk=tiny.pk).used_at == first, "no write for every server"
    Image.objects.filter(pk=tiny.pk).update(used_at=first - timedelta(hours=1))
    cloud.running_server("web-3")
    again = Image.objects.get(pk=tiny.pk).used_at
    assert again is not None
    assert again >= first


def test_an_iso_is_called_one(cloud: Cloud) -> None:
    """Whatever goes wrong with it."""
    iso = Image.objects.create(
        project=cloud.project(), name="installer", type="iso", step="rest", next_at=None, url="http://127.0.0.1:1/i.iso"
    )
    action = images.ask_fetch(iso, "")  # of loopback, which a project may not ask
    cloud.settle()
    action.refresh_from_db()
    assert action.error_message.startswith("ISO installer could not be fetched: ")
    with pytest.raises(Conflict, match="ISO installer was imported"):
        images.ask_build(iso, "", cloud.project().pk)
    iso.delete()
