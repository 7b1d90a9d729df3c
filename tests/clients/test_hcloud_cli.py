"""The `hcloud` command as Debian has it, unmodified, through the life of everything, with real guests behind it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from paddock.base import clock
from paddock.base.errors import CommandFailed
from paddock.base.run import run
from tests.clients.cloud import Place
from tests.guests.stack import until

pytestmark = [pytest.mark.guest, pytest.mark.slow]

FAMILIES = (
    "certificate", "datacenter", "firewall", "floating-ip", "image", "iso", "load-balancer", "load-balancer-type",
    "location", "network", "placement-group", "primary-ip", "server", "server-type", "ssh-key", "volume",
)  # fmt: skip


@dataclass
class Hcloud:
    """The command, in a home of its own."""

    place: Place
    home: Path

    def __call__(self, *words: str | Path, seconds: float = 150) -> str:
        """What it prints."""
        env = {**self.place.env, "HOME": str(self.home), "HCLOUD_CONTEXT": ""}
        return run(["hcloud", "--poll-interval", "200ms", *words], env=env, timeout=seconds).stdout

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "-o", "json"))

    def refused(self, *words: str) -> str:
        """What it says when it fails."""
        with pytest.raises(CommandFailed) as failed:
            self(*words)
        return str(failed.value)


@pytest.fixture(scope="module")
def hcloud(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Hcloud:
    return Hcloud(place, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def web(hcloud: Hcloud) -> str:
    """A server that runs, for most of these tests; each leaves it so."""
    said = hcloud("server", "create", "--name", "web", "--type", "nano", "--image", "tiny", "--ssh-key", "tester",
                  "--label", "tier=front")  # fmt: skip
    assert re.search(r"Server \d+ created", said)
    assert "Root password" not in said
    hcloud.place.ready("web")
    return "web"


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_can_be_listed(hcloud: Hcloud, family: str) -> None:
    hcloud(family, "list")
    shown = hcloud.json(family, "list")
    assert isinstance(shown, list | None)


@pytest.mark.parametrize("family", ["datacenter", "image", "location", "server-type"])
def test_the_catalogue_by_id_and_name(hcloud: Hcloud, family: str) -> None:
    first = hcloud.json(family, "list")[0]
    assert first["name"] in hcloud(family, "describe", str(first["id"]))
    assert hcloud.json(family, "describe", first["name"])["id"] == first["id"]


def test_a_key(hcloud: Hcloud, tmp_path: Path) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "k"])
    hcloud("ssh-key", "create", "--name", "mine", "--public-key-from-file", tmp_path / "k.pub")
    again = ("ssh-key", "create", "--name", "mine", "--public-key-from-file", str(tmp_path / "k.pub"))
    assert "uniqueness_error" in hcloud.refused(*again)
    hcloud("ssh-key", "add-label", "mine", "who=me")
    assert [k["name"] for k in hcloud.json("ssh-key", "list", "-l", "who=me")] == ["mine"]
    hcloud("ssh-key", "update", "mine", "--name", "ours")
    assert hcloud.json("ssh-key", "describe", "ours")["labels"] == {"who": "me"}
    hcloud("ssh-key", "remove-label", "ours", "who")
    hcloud("ssh-key", "delete", "ours")
    assert "not found" in hcloud.refused("ssh-key", "describe", "ours")


def test_it_is_there(hcloud: Hcloud, web: str) -> None:
    shown = hcloud("server", "list")
    assert re.search(r"^\d+ +web +running", shown, re.MULTILINE)
    assert [s["name"] for s in hcloud.json("server", "list", "-l", "tier in (front, back)")] == ["web"]
    assert hcloud.json("server", "list", "-l", "tier=back") in ([], None)
    described = hcloud("server", "describe", web)
    assert re.search(r"Status:\s+running", described)
    assert re.search(r"Server Type:\s+nano", described)
    assert hcloud.place.inside(web, "hostname") == "web"


def test_labels_and_name(hcloud: Hcloud, web: str) -> None:
    hcloud("server", "add-label", web, "env=test")
    assert hcloud.json("server", "describe", web)["labels"] == {"tier": "front", "env": "test"}
    hcloud("server", "add-label", "--overwrite", web, "env=live")
    hcloud("server", "remove-label", web, "env")
    hcloud("server", "update", web, "--name", "www")
    hcloud("server", "update", "www", "--name", web)
    assert hcloud.json("server", "describe", web)["labels"] == {"tier": "front"}
    assert "uniqueness_error" in hcloud.refused(
        "server", "create", "--name", web, "--type", "nano", "--image", "tiny", "--ssh-key", "tester")  # fmt: skip
    assert "not found" in hcloud.refused("server", "describe", "nobody")


def test_power(hcloud: Hcloud, web: str) -> None:
    first = hcloud.place.boot(web)
    hcloud("server", "reboot", web)
    second = hcloud.place.another_boot(web, first)
    hcloud("server", "shutdown", web)
    until(lambda: hcloud.json("server", "describe", web)["status"] == "off", 60, "it to be off", every=0.5)
    hcloud("server", "poweron", web)
    third = hcloud.place.another_boot(web, second)
    hcloud("server", "reset", web)
    hcloud.place.another_boot(web, third)
    hcloud("server", "poweroff", web)
    assert hcloud.json("server", "describe", web)["status"] == "off"
    hcloud("server", "poweron", web)
    hcloud.place.ready(web)


def test_protection(hcloud: Hcloud, web: str) -> None:
    hcloud("server", "enable-protection", web, "delete", "rebuild")
    assert "protected" in hcloud.refused("server", "delete", web)
    assert "protected" in hcloud.refused("server", "rebuild", "--image", "tiny", web)
    hcloud("server", "disable-protection", web, "delete", "rebuild")
    assert hcloud.json("server", "describe", web)["protection"] == {"delete": False, "rebuild": False}


def test_a_password(hcloud: Hcloud, web: str) -> None:
    said = hcloud("server", "reset-password", web)
    assert re.search(r"reset to: \S{8,}", said)


def test_console_and_metrics(hcloud: Hcloud, web: str) -> None:
    console = hcloud.json("server", "request-console", web)
    assert re.match(r"wss?://", console["WSSURL"])  # as this version writes it
    assert console["Password"]
    start, end = (clock.now().replace(microsecond=0).isoformat().replace("+00:00", "Z") for _ in range(2))
    for kind in ("cpu", "disk", "network"):
        shown = hcloud.json("server", "metrics", web, "--type", kind, "--start", start, "--end", end)
        assert isinstance(shown["metrics"]["time_series"], dict), shown


def test_another_type(hcloud: Hcloud, web: str) -> None:
    assert "not_stopped" in hcloud.refused("server", "change-type", web, "micro")
    hcloud("server", "poweroff", web)
    hcloud("server", "change-type", "--keep-disk", web, "micro")
    shown = hcloud.json("server", "describe", web)
    assert (shown["server_type"]["name"], shown["primary_disk_size"]) == ("micro", 2)
    hcloud("server", "poweron", web)
    hcloud.place.ready(web)
    assert int(hcloud.place.inside(web, "awk '/MemTotal/ {print $2}' /proc/meminfo")) > 700_000
    hcloud("server", "poweroff", web)
    hcloud("server", "change-type", "--keep-disk", web, "nano")
    hcloud("server", "poweron", web)
    hcloud.place.ready(web)


def test_rescue(hcloud: Hcloud, web: str) -> None:
    said = hcloud("server", "enable-rescue", "--ssh-key", "tester", web)
    assert "Rescue enabled" in said
    assert hcloud.json("server", "describe", web)["rescue_enabled"] is True
    hcloud("server", "reboot", web)
    until(lambda: not hcloud.json("server", "describe", web)["rescue_enabled"], 60, "it to boot", every=0.5)
    hcloud.place.ready(web)
    hcloud("server", "enable-rescue", "--ssh-key", "tester", web)
    hcloud("server", "disable-rescue", web)
    hcloud("server", "reset", web)
    hcloud.place.ready(web)
    assert hcloud.place.inside(web, "hostname") == web


def test_an_iso(hcloud: Hcloud, web: str, iso_file: Path) -> None:
    hcloud.place.upload_iso("hello", iso_file)
    assert "hello" in hcloud("iso", "list")
    hcloud("server", "attach-iso", web, "hello")
    assert hcloud.json("server", "describe", web)["iso"]["name"] == "hello"
    hcloud.place.shows(web, "head -c 32774 /dev/sr0 | tail -c 5", "CD001")
    hcloud("server", "detach-iso", web)
    assert hcloud.json("server", "describe", web)["iso"] is None


def test_a_snapshot_and_what_comes_of_it(hcloud: Hcloud, web: str) -> None:
    hcloud.place.inside(web, "echo kept > /etc/mark && sync")
    said = hcloud("server", "create-image", "--type", "snapshot", "--description", "first", "--label", "n=1", web)
    image = re.search(r"Image (\d+) created", said)
    assert image
    id = image[1]
    shown = hcloud.json("image", "describe", id)
    assert (shown["status"], shown["created_from"]["name"], shown["labels"]) == ("available", web, {"n": "1"})
    assert id in hcloud("image", "list", "-t", "snapshot")
    hcloud("image", "update", id, "--description", "second")
    hcloud("image", "add-label", id, "m=2")
    hcloud("image", "enable-protection", id, "delete")
    assert "protected" in hcloud.refused("image", "delete", id)
    hcloud("image", "disable-protection", id, "delete")
    hcloud("server", "create", "--name", "copy", "--type", "nano", "--image", id, "--ssh-key", "tester")
    hcloud.place.ready("copy")
    assert hcloud.place.inside("copy", "cat /etc/mark; hostname").split() == ["kept", "copy"]
    hcloud("server", "delete", "copy")
    hcloud.place.inside(web, "rm /etc/mark && sync")
    hcloud("server", "rebuild", "--image", id, web)
    hcloud.place.ready(web)
    assert hcloud.place.inside(web, "cat /etc/mark") == "kept"
    hcloud("server", "rebuild", "--image", "tiny", web)
    hcloud.place.ready(web)
    assert hcloud.place.inside(web, "cat /etc/mark 2>&1 || true") != "kept"
    hcloud("image", "delete", id)
    assert "not found" in hcloud.refused("image", "describe", id)


def test_a_volume(hcloud: Hcloud, web: str) -> None:
    hcloud("volume", "create", "--name", "data", "--size", "10", "--server", web, "--format", "ext4", "--automount")
    shown = hcloud.json("volume", "describe", "data")
    device, id = shown["linux_device"], shown["id"]
    assert (device, shown["format"]) == (f"/dev/disk/by-id/scsi-0HC_Volume_{id}", "ext4")
    hcloud.place.shows(web, "cat /proc/mounts", f"/mnt/HC_Volume_{id} ext4")
    hcloud.place.inside(web, f"echo precious > /mnt/HC_Volume_{id}/f && sync")
    hcloud("volume", "add-label", "data", "a=b")
    assert [v["name"] for v in hcloud.json("volume", "list", "-l", "a")] == ["data"]
    hcloud("volume", "resize", "--size", "12", "data")
    hcloud.place.shows(web, f"blockdev --getsize64 {device}", str(12 * 2**30))
    hcloud("volume", "enable-protection", "data", "delete")
    hcloud.place.inside(web, f"umount /mnt/HC_Volume_{id}")
    hcloud("volume", "detach", "data")
    assert hcloud.json("volume", "describe", "data")["server"] is None
    assert "protected" in hcloud.refused("volume", "delete", "data")
    hcloud("volume", "attach", "data", "--server", web)
    hcloud.place.shows(web, f"mount {device} /mnt && cat /mnt/f; umount /mnt", "precious")
    hcloud("volume", "detach", "data")
    hcloud("volume", "disable-protection", "data", "delete")
    hcloud("volume", "update", "data", "--name", "old-data")
    hcloud("volume", "delete", "old-data")


def test_a_server_with_a_volume_from_the_start(hcloud: Hcloud) -> None:
    hcloud(
        "volume", "create", "--name", "early", "--size", "10", "--location", hcloud.json("location", "list")[0]["name"]
    )
    hcloud("server", "create", "--name", "db", "--type", "nano", "--image", "tiny", "--ssh-key", "tester", "--volume",
           "early", "--start-after-create=false")  # fmt: skip
    shown = hcloud.json("server", "describe", "db")
    assert shown["status"] == "off"
    assert shown["volumes"] == [hcloud.json("volume", "describe", "early")["id"]]
    hcloud("server", "delete", "db")  # which this version does not wait for
    until(lambda: hcloud.json("volume", "describe", "early")["server"] is None, 20, "the volume to be free", every=0.2)
    hcloud("volume", "delete", "early")


def test_a_placement_group(hcloud: Hcloud, web: str) -> None:
    hcloud("placement-group", "create", "--name", "apart", "--type", "spread")
    assert "not_stopped" in hcloud.refused("server", "add-to-placement-group", "--placement-group", "apart", web)
    hcloud("server", "poweroff", web)
    hcloud("server", "add-to-placement-group", "--placement-group", "apart", web)
    assert hcloud.json("server", "describe", web)["placement_group"]["name"] == "apart"
    assert len(hcloud.json("placement-group", "list")[0]["servers"]) == 1
    shown = hcloud("placement-group", "describe", "apart")  # as JSON this version can't show any single one
    assert re.search(r"Type:\s+spread", shown)
    assert web in shown
    hcloud("server", "remove-from-placement-group", web)
    hcloud("server", "poweron", web)
    hcloud.place.ready(web)
    hcloud("placement-group", "add-label", "apart", "a=b")
    hcloud("placement-group", "update", "apart", "--name", "spread-out")
    hcloud("placement-group", "delete", "spread-out")


def test_what_there_is_not_is_refused(hcloud: Hcloud, web: str) -> None:
    """Never a pretended success."""
    assert "network" in hcloud.refused("network", "create", "--name", "n", "--ip-range", "10.0.0.0/16")
    assert "firewall" in hcloud.refused("firewall", "create", "--name", "f").lower()
    assert "backup" in hcloud.refused("server", "enable-backup", web)


def test_the_end(hcloud: Hcloud, web: str) -> None:
    hcloud("server", "delete", web)
    until(lambda: not hcloud.json("server", "list"), 10, "it to be gone", every=0.2)
    assert "not found" in hcloud.refused("server", "describe", web)
