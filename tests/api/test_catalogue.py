"""The catalogue by HTTP: what is known of each image, what is refused with its reason, and pruning."""

from collections.abc import Iterator

import pytest
from django.conf import settings

from paddock.cloud.models import Image
from tests.api.caller import Caller
from tests.cloud.harness import Cloud


@pytest.fixture
def boss(cloud: Cloud) -> Iterator[Caller]:
    yield Caller("catalogue-operators", operator=True)
    cloud.reset()


@pytest.fixture
def ask(cloud: Cloud) -> Caller:
    return Caller("catalogue-users")


def test_every_image_that_is_known(ask: Caller) -> None:
    found = {e["name"]: e for e in ask.ok("GET", "/x/v1/catalogue")["catalogue"]}
    assert "rescue" not in found
    assert found["tiny"]["comes_from"] == "built here"
    debian = found["debian-13"]
    assert debian["comes_from"].startswith("https://cloud.debian.org/")
    assert debian["checksum_from"].endswith("/SHA512SUMS")
    assert (debian["state"], debian["cloud_init"], debian["default_user"]) == ("absent", True, "debian")
    assert (found["centos-6"]["state"], found["centos-6"]["id"]) == ("refused", None)
    assert "OpenSSH 5.3" in found["centos-6"]["refused"]
    assert found["centos-7"]["ended"] == "2024-06-30"


def test_whose_signature_can_be_checked(ask: Caller) -> None:
    before = {e["name"]: e for e in ask.ok("GET", "/x/v1/catalogue")["catalogue"]}
    assert (before["debian-13"]["signed_by"], before["debian-13"]["signature_checked"]) == (None, None)
    assert (before["arch"]["signed_by"], before["arch"]["signature_checked"]) == ("arch", False)
    assert before["fedora-44"]["keys_in"] == "distribution-gpg-keys"
    ring = settings.STATE.keys / "arch.gpg"
    ring.parent.mkdir(exist_ok=True)
    ring.touch()
    try:
        after = {e["name"]: e for e in ask.ok("GET", "/x/v1/catalogue")["catalogue"]}
    finally:
        ring.unlink()
    assert after["arch"]["signature_checked"] is True


def test_old_releases_are_deprecated(ask: Caller) -> None:
    listed = {i["name"]: i for i in ask.ok("GET", "/v1/images?per_page=50")["images"]}
    assert "ubuntu-24.04" in listed
    assert "centos-7" not in listed
    with_old = {i["name"]: i for i in ask.ok("GET", "/v1/images?per_page=50&include_deprecated=true")["images"]}
    assert with_old["centos-7"]["deprecated"].startswith("2024-06-30T00:00:00")
    assert with_old["ubuntu-24.04"]["deprecated"] is None
    assert [i["name"] for i in ask.ok("GET", "/v1/images?name=centos-7")["images"]] == ["centos-7"]


def test_a_refused_one_says_why(ask: Caller) -> None:
    said = ask.refused(
        "POST", "/v1/servers", {"name": "web", "server_type": "nano", "image": "freebsd-11"}, 422, "invalid_input"
    )
    assert "'freebsd-11' is refused: its images have nothing that reads cloud-init's data" in str(said)


def test_what_is_built_here_has_no_publisher(boss: Caller) -> None:
    tiny = Image.objects.get(project=None, name="tiny")
    said = boss.refused("POST", f"/admin/v1/images/{tiny.pk}/look", {}, 409, "conflict")
    assert "none that is fetched from its publisher" in str(said)
    boss.refused("POST", f"/admin/v1/images/{2**41}/look", {}, 404, "not_found")


def test_a_look_begins(boss: Caller) -> None:
    image = Image.objects.get(project=None, name="arch")
    action = boss.ok("POST", f"/admin/v1/images/{image.pk}/look", {})["action"]
    assert (action["command"], action["status"]) == ("look_image", "running")
    boss.refused("POST", f"/admin/v1/images/{image.pk}/look", {}, 409, "conflict")
    assert boss.ok("GET", f"/v1/actions/{action['id']}")["action"]["command"] == "look_image"


def test_pruning_says_what_it_would_do(boss: Caller, cloud: Cloud) -> None:
    row = Image.objects.get(project=None, name="tiny")
    found = boss.ok("POST", "/admin/v1/images/prune", {"everything": True, "dry_run": True})
    tiny = [i for i in found["items"] if i["image"] == row.pk]
    assert [(i["kind"], i["name"], i["bytes"] > 0) for i in tiny] == [("content", "tiny", True)]
    assert found["actions"] == []
    assert Image.objects.get(pk=row.pk).state == "ready"
    assert all(i["kind"] != "content" for i in boss.ok("POST", "/admin/v1/images/prune", {"dry_run": True})["items"])
