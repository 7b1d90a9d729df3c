"""Images of the users': fetched, taken in, protected, deleted while they are made and while servers stand on them."""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings

from paddock.base import certificates
from paddock.base.errors import Conflict, InUse, Invalid, Protected
from paddock.base.run import run
from paddock.cloud.flows import engine, image, image_files, server, server_wishes
from paddock.cloud.flows.engine import Flow, advance
from paddock.cloud.models import Action, Image, ImageCopy, Server
from paddock.images import fetch
from paddock.images.store import ImageStore
from paddock.machine.image import Role
from tests.cloud.harness import Cloud, make_image
from tests.cloud.test_volume_survival import dies_at
from tests.images.website import Answer, Website

FLOW = Flow.registry["image"]


@pytest.fixture
def site() -> Iterator[Website]:
    with Website() as website:
        yield website


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("disk") / "disk.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", path, "8M"])
    return path.read_bytes()


def cd() -> bytes:
    """The least that is an ISO 9660: a primary volume descriptor and the end of the descriptors."""
    primary = bytearray(2048)
    primary[:7] = b"\x01CD001\x01"
    primary[80:88] = (19).to_bytes(4, "little") + (19).to_bytes(4, "big")
    primary[128:132] = (2048).to_bytes(2, "little") + (2048).to_bytes(2, "big")
    end = (b"\xffCD001\x01").ljust(2048, b"\0")
    return bytes(16 * 2048) + bytes(primary) + end + bytes(2048)


NUMBERS = itertools.count()


def new_name() -> str:
    """One that no other test has used: the store keeps what other tests leave."""
    return f"mine-{next(NUMBERS)}"


def new_image(cloud: Cloud, name: str = "", **fields: Any) -> Image:
    about = {"project": cloud.project(), "type": "snapshot", "step": "rest", "next_at": None, **fields}
    row = Image.objects.create(name=name or new_name(), **about)
    row.refresh_from_db()
    return row


def uploaded(cloud: Cloud, data: bytes, name: str = "", **fields: Any) -> Image:
    row = new_image(cloud, name, **fields)
    image_files.upload_of(row).write_bytes(data)
    image.ask_take_in(row, "")
    return row


def fresh(row: Image) -> Image:
    return Image.objects.get(pk=row.pk)


def asked(row: Image, command: str = "create_image") -> Action:
    return Action.objects.filter(kind="image", row_id=row.pk, command=command).latest("id")


def left(row: Image) -> list[Path]:
    """What lies around of an image that should not."""
    return [p for p in settings.STATE.uploads.iterdir() if p.name in (f"image-{row.pk}", f"fetch-{row.pk}")]


def in_store(row: Image) -> bool:
    return any(m.name == image_files.manifest_name(row) for m in ImageStore(settings.STATE.images).list())


# From a URL


def test_by_url(cloud: Cloud, site: Website, disk: bytes) -> None:
    url = site.serves("/disk", disk)
    row = new_image(cloud, url=url, expected_sha256=hashlib.sha256(disk).hexdigest(), description="of mine")
    image.ask_fetch(row, "", anywhere=True)
    with pytest.raises(Conflict):
        image.ask_fetch(row, "", anywhere=True)
    cloud.settle()
    row = fresh(row)
    assert (row.state, asked(row).status) == ("ready", "success"), row.problem
    assert row.made_of.disk_size == 8 * 2**20
    assert row.made_of.description == "of mine"
    assert left(row) == []


def test_a_project_may_not_ask_loopback(cloud: Cloud, site: Website, disk: bytes) -> None:
    row = new_image(cloud, url=site.serves("/disk", disk))
    image.ask_fetch(row, "")
    cloud.settle()
    assert "no address of the open internet" in asked(row).error_message
    assert (fresh(row).state, site.asked, left(row)) == ("failed", [], [])


def test_by_https_of_an_authority_that_the_operator_trusts(
    cloud: Cloud, disk: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not before."""
    pair = certificates.ensure(tmp_path / "tls", ["127.0.0.1"])
    with Website(tls=pair) as site:
        row = new_image(cloud, url=site.serves("/disk", disk))
        image.ask_fetch(row, "", anywhere=True)
        cloud.settle()
        assert "is not trusted: " in asked(row).error_message
        assert (fresh(row).state, site.asked, left(row)) == ("failed", [], [])
        images = settings.PADDOCK.images.model_copy(update={"ca_file": tmp_path / "tls/ca.crt"})
        monkeypatch.setattr(settings, "PADDOCK", settings.PADDOCK.model_copy(update={"images": images}))
        image.ask_fetch(fresh(row), "", anywhere=True)
        cloud.settle()
        assert (fresh(row).state, asked(row).status) == ("ready", "success")


def test_urls_that_are_none(cloud: Cloud) -> None:
    with pytest.raises(Invalid):
        image.ask_fetch(new_image(cloud, url="file:///etc/passwd"), "")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["missing", "wrong checksum", "rubbish"])
def test_what_can_not_be_had(cloud: Cloud, site: Website, disk: bytes, what: str) -> None:
    """It fails with the reason, leaves nothing, and may be asked for again."""
    url = site.serves("/disk", b"rubbish" if what == "rubbish" else disk)
    if what == "missing":
        site.behaviours["/disk"] = lambda answer: answer.begin(404, Content_Length=0)
    row = new_image(cloud, url=url, expected_sha256="0" * 64 if what == "wrong checksum" else "")
    image.ask_fetch(row, "", anywhere=True)
    cloud.settle()
    assert asked(row).status == "error"
    assert (fresh(row).state, left(row), in_store(row)) == ("failed", [], False)
    site.serves("/disk", disk)
    Image.objects.filter(pk=row.pk).update(expected_sha256="")
    image.ask_fetch(fresh(row), "", anywhere=True)
    cloud.settle()
    assert fresh(row).state == "ready"


def held(site: Website, disk: bytes) -> str:
    """A server that says nothing after the first bytes, until the test has ended."""

    def hold(answer: Answer) -> None:
        answer.begin(200, Content_Length=len(disk))
        answer.wfile.write(disk[:1000])
        answer.rfile.read(1)

    site.behaviours["/disk"] = hold
    return site.url("/disk")


def test_deleted_while_it_is_fetched(cloud: Cloud, site: Website, disk: bytes) -> None:
    row = new_image(cloud, url=held(site, disk))
    image.ask_fetch(row, "", anywhere=True)
    advance(FLOW, row.pk)
    assert fresh(row).step == "await_fetched"
    image.delete(row, "")
    assert fresh(row).deleted
    cloud.settle()
    assert not Image.objects.filter(pk=row.pk).exists()
    assert (left(row), in_store(row), asked(row).status) == ([], False, "error")


@pytest.mark.slow
def test_a_fetcher_that_is_gone_is_started_again(cloud: Cloud, site: Website, disk: bytes) -> None:
    row = new_image(cloud, url=held(site, disk))
    image.ask_fetch(row, "", anywhere=True)
    advance(FLOW, row.pk)
    fetch.cancel(image_files.fetch_job(row))  # as if the host had fallen, and taken its files with it
    site.serves("/disk", disk)
    cloud.settle()
    assert fresh(row).state == "ready"


# Each step three ways

POINTS = ["fetch", "await_fetched", "take_in", "tidy"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", [*POINTS, "stop", "destroy", "forget"])
def test_worker_killed(cloud: Cloud, site: Website, disk: bytes, step: str, moment: str) -> None:
    row = new_image(cloud, url=site.serves("/disk", disk))
    image.ask_fetch(row, "", anywhere=True)
    if step not in POINTS:
        cloud.settle()
        image.delete(row, "")
    assert dies_at(cloud, step, moment)
    cloud.settle()
    assert left(row) == []
    if step in POINTS:
        assert (fresh(row).state, asked(row).status) == ("ready", "success")
        image.delete(row, "")
        cloud.settle()
    assert not Image.objects.filter(pk=row.pk).exists()
    assert not in_store(row)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", POINTS)
def test_delete_arrives(cloud: Cloud, site: Website, disk: bytes, step: str, moment: str) -> None:
    """Also where a worker died before it could write down what it had put into the store."""
    row = new_image(cloud, url=site.serves("/disk", disk))
    image.ask_fetch(row, "", anywhere=True)
    assert dies_at(cloud, step, moment)
    image.delete(row, "")
    cloud.settle()
    assert not Image.objects.filter(pk=row.pk).exists()
    assert (left(row), in_store(row)) == ([], False)
    assert not Action.objects.filter(status="running").exists()


@pytest.mark.slow
@pytest.mark.parametrize("step", [*POINTS, "stop", "destroy"])
def test_step_runs_twice(cloud: Cloud, site: Website, disk: bytes, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = new_image(cloud, url=site.serves("/disk", disk))
    image.ask_fetch(row, "", anywhere=True)
    attempt = engine._attempt
    ran = []

    def twice(flow: Flow[Any], moved: Any) -> object:
        first = attempt(flow, moved)
        if flow is not FLOW or moved.step != step:
            return first
        ran.append(step)
        return attempt(flow, moved)

    monkeypatch.setattr(engine, "_attempt", twice)
    cloud.settle()
    assert (fresh(row).state, left(row)) == ("ready", [])
    image.delete(row, "")
    cloud.settle()
    assert ran
    assert not Image.objects.filter(pk=row.pk).exists()


# Uploads, CDs


def test_an_upload(cloud: Cloud, disk: bytes) -> None:
    row = uploaded(cloud, disk, cloud_init=True)
    cloud.settle()
    assert (fresh(row).state, fresh(row).cloud_init, left(row)) == ("ready", True, [])


def test_an_upload_that_is_wrong(cloud: Cloud, disk: bytes) -> None:
    row = uploaded(cloud, disk, expected_sha256="0" * 64)
    cloud.settle()
    assert (fresh(row).state, asked(row).status) == ("failed", "error")
    assert "sha256" in asked(row).error_message


def test_a_cd(cloud: Cloud) -> None:
    row = uploaded(cloud, cd(), type="iso")
    cloud.settle()
    row = fresh(row)
    assert row.state == "ready", row.problem
    assert [f.role for f in row.made_of.files] == [Role.ISO]
    image.delete(row, "")
    cloud.settle()
    assert not in_store(row)


# Deletion


def test_protection(cloud: Cloud, disk: bytes) -> None:
    row = uploaded(cloud, disk)
    cloud.settle()
    assert image.protect(row, True, "").status == "success"
    with pytest.raises(Protected):
        image.delete(row, "")
    image.protect(row, False, "")
    image.delete(row, "")
    image.delete(row, "")  # asking again changes nothing
    cloud.settle()
    assert not Image.objects.filter(pk=row.pk).exists()
    assert asked(row, "delete_image").status == "success"


def server_of(cloud: Cloud, row: Image, name: str = "web-1") -> Server:
    tiny = Image.objects.get(project=None, name="tiny")
    host = cloud.new_server(name, image=tiny.name)
    Server.objects.filter(pk=host.pk).update(image=row)
    cloud.settle()
    host.refresh_from_db()
    assert (host.status, host.image_sha256) == ("running", row.sha256), host.problem
    return host


def test_one_that_servers_stand_on(cloud: Cloud) -> None:
    """It is hidden, its name is free, and its content goes with the last server."""
    row = make_image(new_name(), "snapshot", Role.DISK, project=cloud.project())
    hosts = [server_of(cloud, row, f"web-{i}") for i in range(2)]
    image.delete(row, "")
    cloud.settle()
    assert (fresh(row).deleted is not None, in_store(row), ImageCopy.objects.count()) == (True, True, 1)
    new_image(cloud, row.name)
    server.ask(hosts[0], "reboot_server")  # they go on
    cloud.settle()
    for host in hosts:
        assert Image.objects.filter(pk=row.pk).exists()
        server.delete(host)
        cloud.settle()
    assert not Image.objects.filter(pk=row.pk).exists()
    assert not ImageCopy.objects.exists()
    assert row.sha256 not in cloud.host().disks.images()


def test_a_rebuild_leaves_it_too(cloud: Cloud) -> None:
    row = make_image(new_name(), "snapshot", Role.DISK, project=cloud.project())
    host = server_of(cloud, row)
    image.delete(row, "")
    cloud.settle()
    server_wishes.rebuild(host, Image.objects.get(project=None, name="tiny"), None, "", "")
    cloud.settle()
    assert not Image.objects.filter(pk=row.pk).exists()


def test_one_of_the_catalogue(cloud: Cloud) -> None:
    cloud.running_server()
    with pytest.raises(InUse, match="used by 1 servers"):
        image.delete(Image.objects.get(project=None, name="tiny"), "")


def test_a_node_that_is_down_keeps_nobody_waiting(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image is hidden; its copy goes when the node is back."""
    monkeypatch.setattr(image, "AGAIN_SECONDS", 0.1)
    row = make_image(new_name(), "snapshot", Role.DISK, project=cloud.project())
    server.delete(server_of(cloud, row))
    cloud.settle()
    cloud.agent_faults(fail=[{"operation": "remove_image", "times": 3}])
    image.delete(row, "")
    cloud.settle()
    assert not Image.objects.filter(pk=row.pk).exists()
    assert row.sha256 not in cloud.host().disks.images()


# Snapshots


def test_a_snapshot_and_a_server_of_it(cloud: Cloud) -> None:
    host = cloud.running_server()
    row, action = server_wishes.create_image(host, "before the upgrade", {"a": "b"}, "")
    cloud.settle()
    action.refresh_from_db()
    row = fresh(row)
    assert (action.status, row.state, row.frozen, left(row)) == ("success", "ready", True, []), action.error_message
    assert row.made_of.name == f"snapshot-{row.pk}"
    server.delete(host)
    cloud.settle()
    assert in_store(row)
    image.delete(row, "")
    cloud.settle()
    assert not in_store(row)


def test_a_snapshot_deleted_while_it_is_taken(cloud: Cloud) -> None:
    host = cloud.running_server()
    cloud.agent_faults(copy_seconds=60)
    row, action = server_wishes.create_image(host, "", {}, "")
    advance(Flow.registry["server"], host.pk)
    image.delete(row, "")
    cloud.settle()
    cloud.agent_faults(clear=True)
    action.refresh_from_db()
    assert action.status == "error"
    assert not Image.objects.filter(pk=row.pk).exists()
    assert left(row) == []
    host.refresh_from_db()
    assert host.status == "running"


def test_a_snapshot_that_failed_leaves_nothing(cloud: Cloud) -> None:
    host = cloud.running_server()
    cloud.agent_faults(copy_error="the disk is broken")
    row, action = server_wishes.create_image(host, "", {}, "")
    cloud.settle()
    cloud.agent_faults(clear=True)
    action.refresh_from_db()
    assert "the disk is broken" in action.error_message
    assert left(row) == []
    if Image.objects.filter(pk=row.pk).exists():
        image.delete(row, "")
        cloud.settle()
    assert not Image.objects.filter(pk=row.pk).exists()


# What a server's UEFI remembered


def test_variables_come_with_a_snapshot_only(cloud: Cloud, disk: bytes) -> None:
    """A node lays them beside its copy. A file of that name beside a user's upload is nobody's."""
    made = {}
    for uuid in (uuid4(), None):
        row = new_image(cloud, uuid=uuid)
        image_files.upload_of(row).write_bytes(disk)
        image_files.boot_file(row, Role.VARIABLES).write_bytes(disk)
        image.ask_take_in(row, "")
        cloud.settle()
        assert fresh(row).state == "ready", fresh(row).problem
        made[uuid] = {file.role for file in fresh(row).made_of.files}
        assert not list(settings.STATE.uploads.glob(f"image-{row.pk}*"))
    assert list(made.values()) == [{Role.DISK, Role.VARIABLES}, {Role.DISK}]
