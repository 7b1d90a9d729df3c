"""hcloud-python, unmodified, through the life of everything, with real guests behind it."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hcloud import APIException, Client
from hcloud.actions import BoundAction
from hcloud.images import Image
from hcloud.isos import Iso
from hcloud.server_types import ServerType
from hcloud.ssh_keys import SSHKey

from paddock.base import clock
from paddock.base.run import run
from tests.clients.cloud import Place
from tests.guests.stack import until

pytestmark = [pytest.mark.guest, pytest.mark.slow]

NANO, MICRO = ServerType(name="nano"), ServerType(name="micro")
TINY, TESTER = Image(name="tiny"), SSHKey(name="tester")


@pytest.fixture(scope="module")
def client(place: Place) -> Any:
    """Typed by nobody: its own types allow each field to be None."""
    return Client(token=place.token, api_endpoint=place.endpoint, api_endpoint_hetzner=place.endpoint,
                  poll_interval=0.2, poll_max_retries=600)  # fmt: skip


@pytest.fixture(scope="module")
def web(client: Any, place: Place) -> Any:
    """A server that runs, for most of these tests; each leaves it so."""
    made = client.servers.create("py-web", NANO, TINY, ssh_keys=[TESTER], labels={"tier": "front"})
    assert made.root_password is None
    made.action.wait_until_finished()
    for action in made.next_actions:
        action.wait_until_finished()
    place.ready("py-web")
    made.server.reload()
    return made.server


def done(action: BoundAction) -> BoundAction:
    action.wait_until_finished()
    return action


def refused(error: pytest.ExceptionInfo[APIException]) -> str:
    return str(error.value.code)


def test_the_catalogue(client: Any) -> None:
    for family in (client.locations, client.server_types, client.images, client.datacenters):
        everything = family.get_all()
        assert everything
        assert family.get_by_id(everything[0].id).id == everything[0].id
    assert client.images.get_by_name_and_architecture("tiny", "x86").name == "tiny"
    assert client.server_types.get_by_name("nano").cores == 1
    assert client.isos.get_all() == []


def test_what_is_always_empty(client: Any) -> None:
    for family in (client.load_balancers, client.certificates, client.networks, client.firewalls, client.floating_ips,
                   client.primary_ips, client.zones, client.storage_boxes):  # fmt: skip
        assert family.get_all() == []


def test_a_key(client: Any, tmp_path: Path) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "k"])
    public = (tmp_path / "k.pub").read_text().strip()
    key = client.ssh_keys.create("py-key", public, labels={"a": "b"})
    with pytest.raises(APIException) as error:
        client.ssh_keys.create("py-key", public)
    assert refused(error) == "uniqueness_error"
    assert client.ssh_keys.get_by_fingerprint(key.fingerprint or "").id == key.id
    assert [k.id for k in client.ssh_keys.get_all(label_selector="a=b")] == [key.id]
    assert key.update(name="py-key-2", labels={}).name == "py-key-2"
    key.delete()
    assert client.ssh_keys.get_by_name("py-key-2") is None


def test_it_is_there(client: Any, web: Any) -> None:
    found = client.servers.get_by_name("py-web")
    assert found
    assert found.id == web.id
    assert (found.status, found.server_type.name, found.image.name) == ("running", "nano", "tiny")
    assert found.location.name == client.locations.get_all()[0].name
    assert [s.id for s in client.servers.get_all(label_selector="tier notin (back)")] == [web.id]
    page = client.servers.get_list(page=1, per_page=1)
    assert (len(page.servers), page.meta.pagination.total_entries) == (1, 1)
    with pytest.raises(APIException) as error:
        client.servers.get_by_id(2**40)
    assert refused(error) == "not_found"


def test_labels_and_name(web: Any) -> None:
    assert web.update(name="py-www", labels={"tier": "front", "n": "1"}).name == "py-www"
    assert web.update(name="py-web", labels={"tier": "front"}).labels == {"tier": "front"}
    assert {a.command for a in web.get_actions()} >= {"create_server"}


def test_power(web: Any, place: Place) -> None:
    first = place.boot("py-web")
    done(web.reboot())
    second = place.another_boot("py-web", first)
    done(web.shutdown())
    until(lambda: place.by_name("py-web")["status"] == "off", 60, "it to be off")
    done(web.power_on())
    third = place.another_boot("py-web", second)
    done(web.reset())
    place.another_boot("py-web", third)
    done(web.power_off())
    web.reload()
    assert web.status == "off"
    done(web.power_on())
    place.ready("py-web")


def test_protection(web: Any) -> None:
    done(web.change_protection(delete=True, rebuild=True))
    with pytest.raises(APIException) as error:
        web.delete()
    assert refused(error) == "protected"
    done(web.change_protection(delete=False, rebuild=False))
    web.reload()
    assert web.protection == {"delete": False, "rebuild": False}


def test_password_console_and_metrics(web: Any) -> None:
    asked = web.reset_password()
    done(asked.action)
    assert asked.root_password
    console = web.request_console()
    done(console.action)
    assert console.wss_url.startswith(("ws://", "wss://"))
    assert console.password
    end = clock.now()
    shown = web.get_metrics(["cpu", "disk", "network"], end - timedelta(minutes=5), end, step=10)
    assert shown.metrics.time_series is not None


def test_another_type(web: Any, place: Place) -> None:
    with pytest.raises(APIException) as error:
        web.change_type(ServerType(name="micro"), upgrade_disk=False)
    assert refused(error) == "server_not_stopped"
    done(web.power_off())
    done(web.change_type(ServerType(name="micro"), upgrade_disk=True))
    web.reload()
    assert (web.server_type.name, web.primary_disk_size) == ("micro", 20)
    with pytest.raises(APIException) as error:
        web.change_type(NANO, upgrade_disk=True)
    assert refused(error) == "invalid_server_type"
    done(web.power_on())
    place.ready("py-web")
    sectors = int(place.inside("py-web", "cat /sys/block/sda/size"))
    assert sectors * 512 == 20 * 2**30


def test_rescue(client: Any, web: Any, place: Place) -> None:
    key = client.ssh_keys.get_by_name("tester")
    asked = web.enable_rescue(type="linux64", ssh_keys=[str(key.id)])
    done(asked.action)
    web.reload()
    assert web.rescue_enabled
    first = place.boot("py-web")
    done(web.reset())
    place.another_boot("py-web", first)
    done(web.power_off())
    done(web.power_on())
    place.ready("py-web")
    assert place.inside("py-web", "hostname") == "py-web"


def test_an_iso(client: Any, web: Any, place: Place, iso_file: Path) -> None:
    place.upload_iso("py-hello", iso_file)
    assert [i.name for i in client.isos.get_all()] == ["py-hello"]
    done(web.attach_iso(Iso(name="py-hello")))
    web.reload()
    assert web.iso
    assert web.iso.name == "py-hello"
    place.shows("py-web", "head -c 32774 /dev/sr0 | tail -c 5", "CD001")
    done(web.detach_iso())


def test_a_snapshot_and_what_comes_of_it(client: Any, web: Any, place: Place) -> None:
    place.inside("py-web", "echo kept > /etc/mark && sync")
    made = web.create_image(description="first", type="snapshot", labels={"n": "1"})
    done(made.action)
    image = client.images.get_by_id(made.image.id)
    assert (image.status, image.type, image.bound_to) == ("available", "snapshot", None)
    assert image.created_from.id == web.id
    assert image.image_size > 0
    assert [i.id for i in client.images.get_all(type="snapshot", label_selector="n=1")] == [image.id]
    done(image.change_protection(delete=True))
    with pytest.raises(APIException) as error:
        image.delete()
    assert refused(error) == "protected"
    done(image.change_protection(delete=False))
    assert image.update(description="second").description == "second"
    _copy(client, image, place)
    place.inside("py-web", "rm /etc/mark && sync")
    done(web.rebuild(image).action)
    place.ready("py-web")
    assert place.inside("py-web", "cat /etc/mark") == "kept"
    image.delete()
    assert client.images.get_all(type="snapshot") == []


def _copy(client: Any, image: Any, place: Place) -> None:
    made = client.servers.create("py-copy", MICRO, image, ssh_keys=[TESTER])
    made.action.wait_until_finished()
    place.ready("py-copy")
    assert place.inside("py-copy", "cat /etc/mark; hostname").split() == ["kept", "py-copy"]
    done(made.server.delete())


def test_a_volume(client: Any, web: Any, place: Place) -> None:
    made = client.volumes.create(10, "py-data", labels={"a": "b"}, server=web, automount=True, format="ext4")
    for action in [made.action, *made.next_actions]:
        done(action)
    volume = client.volumes.get_by_id(made.volume.id)
    mounted = f"/mnt/HC_Volume_{volume.id}"
    assert (volume.linux_device, volume.status) == (f"/dev/disk/by-id/scsi-0HC_Volume_{volume.id}", "available")
    place.shows("py-web", "cat /proc/mounts", f"{mounted} ext4")
    place.inside("py-web", f"echo precious > {mounted}/f && sync && umount {mounted}")
    done(volume.resize(11))
    with pytest.raises(APIException) as error:
        volume.resize(10)
    assert refused(error) == "invalid_input"
    with pytest.raises(APIException) as error:
        volume.delete()
    done(volume.detach())
    done(volume.attach(web, automount=False))
    place.shows("py-web", f"mount {volume.linux_device} /mnt && cat /mnt/f; umount /mnt", "precious")
    done(volume.change_protection(delete=True))
    done(volume.detach())
    done(volume.change_protection(delete=False))
    assert volume.update(name="py-old").name == "py-old"
    volume.delete()
    assert client.volumes.get_by_name("py-old") is None


def test_a_placement_group(client: Any, place: Place) -> None:
    group = client.placement_groups.create("py-apart", "spread").placement_group
    made = client.servers.create("py-one", NANO, TINY, ssh_keys=[TESTER], placement_group=group,
                                 start_after_create=False)  # fmt: skip
    made.action.wait_until_finished()
    assert client.placement_groups.get_by_name("py-apart").servers == [made.server.id]
    with pytest.raises(APIException) as error:
        client.servers.create("py-two", NANO, TINY, ssh_keys=[TESTER], placement_group=group)
    assert refused(error) == "placement_error"  # there is but one node
    done(made.server.remove_from_placement_group())
    done(made.server.add_to_placement_group(group))
    done(made.server.delete())
    group.delete()


def test_what_there_is_not_is_refused(client: Any, web: Any) -> None:
    """Never a pretended success."""
    with pytest.raises(APIException) as error:
        client.networks.create("n", ip_range="10.0.0.0/16")
    assert refused(error) == "unsupported_error"
    with pytest.raises(APIException) as error:
        web.enable_backup()
    assert refused(error) == "unsupported_error"


def test_the_end(client: Any, web: Any) -> None:
    done(web.delete())
    until(lambda: client.servers.get_by_name("py-web") is None, 10, "it to be gone")
