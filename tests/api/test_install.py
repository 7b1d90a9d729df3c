"""Servers that begin with a CD and an empty disk."""

from typing import Any

from paddock.cloud.models import Server
from paddock.machine.image import Role
from tests.api.caller import Caller, fields
from tests.cloud.harness import Cloud, make_image

WANTED: dict[str, Any] = {"name": "template", "server_type": "nano", "x_iso": "installer"}


def furnished() -> None:
    """A CD for everybody, and the empty disk as if it had been built."""
    make_image("installer", "iso", Role.ISO)
    make_image("blank", "blank", Role.DISK)


def test_an_installation_from_a_cd(ask: Caller, cloud: Cloud) -> None:
    furnished()
    made = ask.ok("POST", "/v1/servers", WANTED)
    assert made["root_password"] is None, "nobody would ever be let in with it"
    cloud.settle()
    shown = ask.ok("GET", f"/v1/servers/{made['server']['id']}")["server"]
    assert (shown["status"], shown["image"], shown["iso"]["name"]) == ("running", None, "installer")
    row = Server.objects.get(pk=made["server"]["id"])
    assert row.step == "rest", "nobody waits for it to be ready"
    machine = cloud.machine(row)
    assert row.iso is not None
    assert (machine.iso, machine.iso_first) == (row.iso.sha256, False)
    ask.ok("POST", f"/v1/servers/{row.pk}/actions/detach_iso")
    cloud.settle()
    assert cloud.machine(row).iso is None
    assert "blank" not in [i["name"] for i in ask.ok("GET", "/v1/images?per_page=50")["images"]]


def test_a_cd_beside_an_image_is_booted_first(ask: Caller, cloud: Cloud) -> None:
    furnished()
    made = ask.ok("POST", "/v1/servers", {**WANTED, "image": "tiny"})
    cloud.settle()
    machine = cloud.machine(Server.objects.get(pk=made["server"]["id"]))
    assert (machine.iso is not None, machine.iso_first) == (True, True)


def test_what_is_refused(ask: Caller, cloud: Cloud) -> None:
    without = {k: v for k, v in WANTED.items() if k != "x_iso"}
    assert "x_iso" in fields(ask.refused("POST", "/v1/servers", without, 422, "invalid_input"))["image"][0]
    assert "iso" in fields(ask.refused("POST", "/v1/servers", {**WANTED, "x_iso": "none"}, 422, "invalid_input"))
    small = {**without, "image": "tiny", "x_firmware": "uefi"}
    assert "256 MiB" in fields(ask.refused("POST", "/v1/servers", small, 422, "invalid_input"))["server_type"][0]
    assert not Server.objects.exists()
