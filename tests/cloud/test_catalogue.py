"""Images of the catalogue: fetched once at their first use, looked at for newer ones, refreshed, and pruned."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from paddock.base.errors import Conflict
from paddock.base.run import run
from paddock.cloud.flows import image, origin, prune, server
from paddock.cloud.models import Action, Image, ImageCopy, Node, Server
from paddock.images.catalogue import Catalogue, Entry
from paddock.images.store import ImageStore
from tests.cloud.harness import Cloud
from tests.images.website import Website

NAME = "catalogue-1"


@pytest.fixture
def site() -> Iterator[Website]:
    with Website() as website:
        yield website


def disk(path: Path, size: str) -> bytes:
    run(["qemu-img", "create", "-q", "-f", "qcow2", path / size, size])
    return (path / size).read_bytes()


class Publisher:
    """One image of the catalogue, and the website that it comes from."""

    def __init__(self, site: Website, path: Path) -> None:
        self.site, self.path = site, path
        self.publish("8M")
        self.entry = Entry(
            name=NAME, title="An image of the tests", folder=site.url("/images"), file="disk.qcow2",
            checksums="SHA256SUMS", user="admin", guest_agent=True, firmware=("bios",),
        )  # fmt: skip
        self.row = Image.objects.create(
            name=NAME, type="system", catalogue=True, url=self.entry.url, default_user="admin", cloud_init=True,
            step="rest", next_at=None,
        )  # fmt: skip

    def publish(self, size: str) -> None:
        data = disk(self.path, size)
        self.site.serves("/images/disk.qcow2", data, ETag=f'"{size}"')
        self.site.serves("/images/SHA256SUMS", f"{hashlib.sha256(data).hexdigest()}  disk.qcow2\n".encode())

    def fresh(self) -> Image:
        return Image.objects.get(pk=self.row.pk)

    def fetches(self) -> int:
        return [path for path, _ in self.site.asked].count("/images/disk.qcow2")


@pytest.fixture
def published(cloud: Cloud, site: Website, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    publisher = Publisher(site, tmp_path)
    monkeypatch.setattr(settings, "CATALOGUE", Catalogue(image=(publisher.entry,)))
    said = settings.PADDOCK.images.model_copy(update={"allow_private_addresses": True})
    monkeypatch.setattr(settings, "PADDOCK", settings.PADDOCK.model_copy(update={"images": said}))
    yield publisher
    cloud.reset()
    Image.objects.filter(name=NAME).delete()


def settled(cloud: Cloud, action: Action) -> Action:
    cloud.settle()
    action.refresh_from_db()
    return action


def set_images(monkeypatch: pytest.MonkeyPatch, **said: Any) -> None:
    images = settings.PADDOCK.images.model_copy(update=said)
    monkeypatch.setattr(settings, "PADDOCK", settings.PADDOCK.model_copy(update={"images": images}))


def refreshed(cloud: Cloud, published: Publisher, size: str) -> None:
    published.publish(size)
    action = settled(cloud, origin.ask_refresh(published.fresh(), "", cloud.project().pk))
    assert action.status == "success", action.error_message


def test_fetched_once_at_its_first_use(cloud: Cloud, published: Publisher) -> None:
    for number in range(3):
        cloud.new_server(f"web-{number}", image=NAME)
    cloud.settle()
    assert set(Server.objects.values_list("status", flat=True)) == {"running"}
    assert published.fetches() == 1
    row = published.fresh()
    assert (row.state, row.problem, row.newer) == ("ready", "", "")
    assert row.version.startswith("sha256:")
    assert row.verified == "checksum by plain http; not signed by its publisher"
    assert (row.made_of.firmware, row.made_of.guest_agent, row.made_of.default_user) == ("bios", True, "admin")
    assert row.fetched_at


@pytest.mark.slow
def test_one_that_can_not_be_had_says_why_and_is_tried_again(cloud: Cloud, published: Publisher) -> None:
    published.site.serves("/images/SHA256SUMS", f"{'0' * 64}  disk.qcow2\n".encode())
    first = cloud.new_server(image=NAME)
    cloud.settle()
    first.refresh_from_db()
    assert "not " + "0" * 64 in first.problem
    assert published.fresh().state == "failed"
    published.publish("8M")
    second = cloud.new_server("web-2", image=NAME)
    cloud.settle()
    second.refresh_from_db()
    assert second.status == "running", second.problem


def test_a_mirror_is_asked_instead(cloud: Cloud, published: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    site = published.site
    set_images(monkeypatch, mirror=site.url("/mirror"), allow_private_addresses=False)
    for name in ("disk.qcow2", "SHA256SUMS"):
        site.behaviours[f"/mirror/127.0.0.1:{site.server_port}/images/{name}"] = site.behaviours.pop(f"/images/{name}")
    action = settled(cloud, image.ask_build(published.row, "", cloud.project().pk))
    assert action.status == "success", action.error_message


@pytest.mark.slow
def test_unsigned_ones_can_be_forbidden(cloud: Cloud, published: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    set_images(monkeypatch, require_signatures=True)
    action = settled(cloud, image.ask_build(published.row, "", cloud.project().pk))
    assert "not signed by its publisher" in action.error_message
    assert published.fetches() == 0


def test_what_is_newer(cloud: Cloud, published: Publisher) -> None:
    cloud.running_server(image=NAME)
    assert settled(cloud, origin.ask_look(published.fresh(), "", cloud.project().pk)).status == "success"
    assert (published.fresh().newer, published.fresh().looked_at is not None) == ("", True)
    published.publish("9M")
    settled(cloud, origin.ask_look(published.fresh(), "", cloud.project().pk))
    row = published.fresh()
    assert row.newer not in ("", row.version)
    assert (row.state, published.fetches()) == ("ready", 1)


@pytest.mark.slow
def test_a_publisher_that_does_not_answer_spoils_nothing(cloud: Cloud, published: Publisher) -> None:
    cloud.running_server(image=NAME)
    published.site.behaviours["/images/SHA256SUMS"] = lambda answer: answer.begin(404, Content_Length=0)
    action = settled(cloud, origin.ask_look(published.fresh(), "", cloud.project().pk))
    assert "answered 404" in action.error_message
    row = published.fresh()
    assert (row.state, row.problem, row.step) == ("ready", "", "rest")
    action = settled(cloud, origin.ask_refresh(row, "", cloud.project().pk))
    assert action.status == "error"
    assert (published.fresh().state, published.fresh().sha256) == ("ready", row.sha256)


@pytest.mark.slow
def test_a_newer_one_is_for_new_servers(cloud: Cloud, published: Publisher) -> None:
    old = cloud.running_server("old", image=NAME)
    refreshed(cloud, published, "9M")
    new = cloud.running_server("new", image=NAME)
    old.refresh_from_db()
    assert (old.status, new.status) == ("running", "running")
    assert old.image_sha256 != new.image_sha256 == published.fresh().sha256
    assert {old.image_sha256, new.image_sha256} <= set(cloud.host().disks.images())


@pytest.mark.slow
def test_a_server_that_waits_for_its_node_gets_what_it_was_promised(cloud: Cloud, published: Publisher) -> None:
    """Its image has got a newer content meanwhile."""
    old = cloud.running_server("old", image=NAME)
    refreshed(cloud, published, "9M")
    server.ask(old, "stop_server", "")
    cloud.settle()
    ImageCopy.objects.filter(sha256=old.image_sha256).delete()
    Server.objects.filter(pk=old.pk).update(problem="something")  # its start begins with its image
    action = settled(cloud, server.ask(old, "start_server", ""))
    assert action.status == "success", action.error_message


def test_only_what_is_published_is_asked_for(cloud: Cloud, published: Publisher) -> None:
    with pytest.raises(Conflict, match="none that is fetched"):
        origin.ask_look(Image.objects.get(project=None, name="tiny"), "", cloud.project().pk)
    with pytest.raises(Conflict, match="is absent"):
        origin.ask_refresh(published.fresh(), "", cloud.project().pk)
    origin.ask_look(published.fresh(), "", cloud.project().pk)
    with pytest.raises(Conflict, match="is busy"):
        origin.ask_look(published.fresh(), "", cloud.project().pk)


# Pruning


def names(everything: bool = False) -> list[tuple[str, str]]:
    return [(i.kind, i.name) for i in prune.plan(everything) if i.name == NAME]


def pruned(cloud: Cloud, everything: bool = False) -> None:
    rows = [i.image for i in prune.plan(everything) if i.image and i.name == NAME]
    for action in origin.ask_shed(dict.fromkeys(rows), everything, "", cloud.project().pk):
        assert settled(cloud, action).status == "success", action.error_message


@pytest.mark.slow
def test_what_a_server_stands_on_is_kept(cloud: Cloud, published: Publisher) -> None:
    cloud.running_server("old", image=NAME)
    refreshed(cloud, published, "9M")
    cloud.running_server("new", image=NAME)
    before = cloud.host().disks.images()
    assert names(everything=True) == []
    for row in Image.objects.filter(name=NAME):
        prune.shed(row, everything=True)
    assert cloud.host().disks.images() == before
    assert published.fresh().state == "ready"


def test_what_was_replaced_goes_from_nodes_and_store(
    cloud: Cloud, published: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = cloud.running_server("old", image=NAME)
    refreshed(cloud, published, "9M")
    cloud.running_server("new", image=NAME)
    server.delete(old, "")
    cloud.settle()
    assert names() == [("copy", NAME)]
    pruned(cloud)
    assert old.image_sha256 not in cloud.host().disks.images()
    assert names() == []
    monkeypatch.setattr(prune, "STRAY_SECONDS", -60.0)
    assert ("stray", NAME) in names()
    prune.remove_strays()
    assert old.image_sha256 not in {m.sha256 for m in ImageStore(settings.STATE.images).list()}
    assert published.fresh().sha256 in {m.sha256 for m in ImageStore(settings.STATE.images).list()}


@pytest.mark.slow
def test_everything_unused_goes_and_comes_again(cloud: Cloud, published: Publisher) -> None:
    host = cloud.running_server(image=NAME)
    server.delete(host, "")
    cloud.settle()
    sha256 = published.fresh().sha256
    assert names() == []
    assert names(everything=True) == [("copy", NAME), ("content", NAME)]
    pruned(cloud, everything=True)
    assert sha256 not in cloud.host().disks.images()
    assert not ImageStore(settings.STATE.images).path(sha256).exists()
    assert (published.fresh().state, published.fresh().sha256) == ("absent", "")
    assert cloud.running_server("again", image=NAME).image_sha256 == sha256
    assert published.fetches() == 2


def test_what_a_project_imported_is_never_pruned(cloud: Cloud) -> None:
    Image.objects.create(
        project=cloud.project(), name="mine", state="ready", sha256="f" * 64, step="rest", next_at=None, type="snapshot"
    )
    assert [i for i in prune.plan(True) if i.name == "mine"] == []


def test_a_node_that_is_down_keeps_its_copies(cloud: Cloud, published: Publisher) -> None:
    host = cloud.running_server(image=NAME)
    server.delete(host, "")
    cloud.settle()
    Node.objects.update(state="down")
    assert names(everything=True) == [("content", NAME)]
