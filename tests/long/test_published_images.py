"""What distributions publish for clouds, fetched by the catalogue's own addresses and booted: FreeBSD and the rest.

The addresses must be reached, or a mirror of them (PADDOCK_LONG_MIRROR, laid out as docs/images.md says), or a file
is named for FreeBSD (PADDOCK_LONG_FREEBSD). What can't be reached is skipped, with what the network said.
PADDOCK_LONG_IMAGES, names with commas between them, chooses some.
"""

import os
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from paddock.images.catalogue import Entry, load
from tests.guests.person import console, paddock
from tests.guests.stack import Stack

pytestmark = [pytest.mark.long, pytest.mark.timeout(3 * 3600)]

BOOT = 2400.0  # seconds under TCG, on a busy host, of a distribution's whole image
MIRROR = os.environ.get("PADDOCK_LONG_MIRROR", "").rstrip("/")
FREEBSD = os.environ.get("PADDOCK_LONG_FREEBSD", "")
CHOSEN = [name for name in os.environ.get("PADDOCK_LONG_IMAGES", "").split(",") if name]
ALL = [entry for entry in load().offered if entry.folder and entry.type == "system"]
WANTED = [entry for entry in ALL if (entry.name in CHOSEN if CHOSEN else entry.ended is None)]

Note = Callable[[str, object], None]


def test_the_names_chosen_are_known() -> None:
    assert set(CHOSEN) <= {entry.name for entry in ALL}, "PADDOCK_LONG_IMAGES names what the catalogue has not"


@pytest.mark.parametrize("entry", WANTED, ids=lambda entry: entry.name)
def test_an_image_of_the_catalogue(entry: Entry, request: pytest.FixtureRequest, record_property: Note) -> None:
    if why := _unreachable(entry):
        pytest.skip(why)
    cloud: Stack = request.getfixturevalue("cloud")
    if MIRROR:
        cloud.down()
        with cloud.state.config.open("a") as settings:
            settings.write(f'[images]\nmirror = "{MIRROR}"\n')
        cloud.up()
    built = cloud.paddock("image", "build", entry.name)
    print(built.stdout)
    _it_lives(cloud, entry.name, entry.user, record_property)


@pytest.mark.skipif(not FREEBSD, reason="PADDOCK_LONG_FREEBSD names no file of a FreeBSD BASIC-CLOUDINIT image")
def test_freebsd_from_a_file(cloud: Stack, tmp_path: Path, record_property: Note) -> None:
    words = ("image", "import", FREEBSD, "--name", "freebsd", "--user", "freebsd")
    imported = paddock(cloud, tmp_path, *words)
    assert imported.code == 0, imported
    assert "FreeBSD" in _it_lives(cloud, "freebsd", "freebsd", record_property)


def _unreachable(entry: Entry) -> str:
    """Why its list of checksums can't be had here, without Paddock having a part in it; empty when it can."""
    address = f"{entry.folder}/{entry.checksums}"
    if MIRROR:
        address = f"{MIRROR}/{address.partition('://')[2]}"
    try:
        answer = httpx.get(address, timeout=20, follow_redirects=True)
    except httpx.HTTPError as e:
        return f"{address} can't be reached: {type(e).__name__}: {e}"
    return "" if answer.is_success else f"{address} answers {answer.status_code} {answer.reason_phrase}"


def _it_lives(cloud: Stack, image: str, user: str, note: Note) -> str:
    """It boots, lets its user in, has its name, its disk has grown, it hears its power button and comes again. What
    it says it is."""
    created, action = cloud.create("alpha", image=image, server_type="small")
    cloud.done(action, 1800)
    server = cloud.ready(created, BOOT)
    assert server["x_ssh"]["user"] == user
    print(console(cloud, created)[-2000:])
    system = cloud.ssh(server, "uname -sr", 300)
    note("note", f"{image}: {system}")
    assert cloud.ssh(server, "hostname", 120).partition(".")[0] == "alpha"
    assert int(cloud.ssh(server, "df -k / | awk 'END { print $2 }'", 120)) > 30 * 1024**2, "it did not grow"
    cloud.ssh(server, "echo kept > kept && sync", 120)
    cloud.done(cloud.power(created, "shutdown"), 600)
    cloud.done(cloud.power(created, "poweron"), 120)
    assert cloud.ssh(cloud.ready(created, BOOT), "cat kept", 300) == "kept"
    cloud.remove(created)
    cloud.nothing_left()
    return system
