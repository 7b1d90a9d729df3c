"""What firmware a server boots by: as was said, else as its image says; anew with another image."""

import pytest
from django.conf import settings

from paddock.base.errors import InvalidServerType
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.models import Image, Server
from paddock.images.store import ImageStore
from paddock.machine.image import Role
from paddock.machine.spec import GIB
from tests.cloud.harness import Cloud, make_image


def uefi_image() -> Image:
    """An image that only UEFI boots."""
    image = make_image("efi-only", "snapshot", Role.DISK)
    disk = settings.STATE.uploads / "efi-only-disk"
    disk.write_bytes(b"only UEFI boots this" * 64)
    made = ImageStore(settings.STATE.images).publish({Role.DISK: disk}, name=image.name, disk_size=GIB, firmware="uefi")
    image.sha256, image.manifest = made.sha256, made.model_dump(mode="json")
    image.save()
    return image


def told(cloud: Cloud, server: Server) -> str:
    """What its node was told."""
    return cloud.machine(server).firmware


def test_as_the_image_says_unless_something_else_is_asked_for(cloud: Cloud) -> None:
    plain, asked = cloud.running_server("plain"), cloud.running_server("asked", plan="micro", firmware="uefi")
    assert [(s.firmware, told(cloud, s)) for s in (plain, asked)] == [("bios", "bios"), ("uefi", "uefi")]


def test_a_rebuild_takes_it_from_another_image_and_keeps_it_with_the_same(cloud: Cloud) -> None:
    server, tiny = cloud.running_server(plan="micro", firmware="uefi"), Image.objects.get(name="tiny")
    for image, expected in ((tiny, "uefi"), (uefi_image(), "uefi"), (tiny, "bios")):
        wishes.rebuild(server, image, None, "", "")
        cloud.settle()
        server.refresh_from_db()
        assert server.status == "running", server.problem
        assert (server.firmware, told(cloud, server)) == (expected, expected)


def test_a_snapshot_keeps_it(cloud: Cloud) -> None:
    image, _ = wishes.create_image(cloud.running_server(plan="micro", firmware="uefi"), "of mine", {}, "")
    assert image.firmware == "uefi"


def test_a_server_of_which_nothing_is_known_has_a_bios(cloud: Cloud) -> None:
    server = cloud.running_server("older")
    Server.objects.filter(pk=server.pk).update(firmware="")
    server.refresh_from_db()
    assert server.machine().firmware == "bios"


def test_a_small_server_has_no_room_for_it(cloud: Cloud) -> None:
    server = cloud.new_server(firmware="uefi")  # of type nano
    cloud.settle()
    server.refresh_from_db()
    assert server.status == "off"
    assert "to boot by UEFI takes 256 MiB of memory" in server.problem
    larger = cloud.running_server("larger", plan="micro", firmware="uefi")
    with pytest.raises(InvalidServerType, match="256 MiB"):
        wishes.change_type(larger, server.server_type, upgrade_disk=False, live=False, correlation_id="")
