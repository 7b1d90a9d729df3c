"""`paddock image list --available`, `update` and `prune` on the real API, with a publisher of the tests' own."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.conf import settings

from paddock.base import clock
from paddock.cloud.flows import server
from paddock.cloud.models import Image
from paddock.images.catalogue import Catalogue, Entry
from tests.api.caller import Caller
from tests.api.live import LiveApi
from tests.cli.conftest import Shell
from tests.cloud.harness import Cloud, make_image_ready
from tests.images.website import Website

OLD, NEW = b"an older disk", b"a newer disk"


@pytest.fixture
def paddock(live: LiveApi, cloud: Cloud, tmp_path: Path) -> Shell:
    return Shell(tmp_path, f"http://127.0.0.1:{live.port}", Caller("catalogue-boss", operator=True).token)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Website]:
    """The publisher of what our worker takes for Arch, which is here in an older version."""
    with Website() as site:
        site.serves("/SHA256SUMS", f"{hashlib.sha256(NEW).hexdigest()}  disk\n".encode())
        entry = Entry(name="arch", title="Arch", folder=site.url(""), file="disk", checksums="SHA256SUMS", user="arch")
        monkeypatch.setattr(settings, "CATALOGUE", Catalogue(image=(entry,)))
        said = settings.PADDOCK.images.model_copy(update={"allow_private_addresses": True})
        monkeypatch.setattr(settings, "PADDOCK", settings.PADDOCK.model_copy(update={"images": said}))
        version = f"sha256:{hashlib.sha256(OLD).hexdigest()[:32]}"
        Image.objects.filter(name="arch").update(state="ready", version=version, step="rest", verified="by hand")
        yield site
        gone = {"state": "absent", "version": "", "newer": "", "verified": "", "sha256": "", "manifest": {}}
        Image.objects.filter(name="arch").update(**gone, step="rest", next_at=None)


def while_it_works(cloud: Cloud, ask: Callable[[], str]) -> str:
    """What a command says that waits for a worker, which we are."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        while not asked.done():
            cloud.settle()
            clock.sleep(0.05)
        return asked.result()


def test_all_that_is_available(paddock: Shell) -> None:
    said = paddock.ok("image", "list", "--available")
    assert "ubuntu-24.04" in said
    assert "refused: its OpenSSH 5.3 knows neither" in said
    names = paddock.ok("image", "list", "--available", "-q").split()
    assert {"debian-13", "freebsd-15.1", "centos-7"} <= set(names)
    assert "centos-6" not in names
    assert "ubuntu-24.04" not in paddock.ok("image", "list", "-q").split(), "it is not here"


def test_what_is_newer_is_shown(paddock: Shell, cloud: Cloud, site: Website) -> None:
    assert "arch" in paddock.ok("image", "list", "-q").split()
    said = while_it_works(cloud, lambda: paddock.ok("image", "update"))
    assert f"sha256:{hashlib.sha256(NEW).hexdigest()[:32]}" in said
    assert "`paddock image update --fetch` fetches what is newer" in said
    assert "was fetched from its publisher" in paddock.fails("image", "update", "tiny")


def test_what_can_not_be_fetched_is_said(paddock: Shell, cloud: Cloud, site: Website) -> None:
    site.serves("/disk", b"another disk")
    said = while_it_works(cloud, lambda: paddock.fails("image", "update", "arch", "--fetch"))
    assert f"not {hashlib.sha256(NEW).hexdigest()}" in said


def test_pruning(paddock: Shell, cloud: Cloud) -> None:
    host = cloud.running_server()
    assert "tiny" not in paddock.ok("image", "prune", "--all", "--dry-run")
    server.delete(host, "")
    cloud.settle()
    said = paddock.ok("image", "prune", "--all", "--dry-run")
    assert "could go; what is linked counts more than once" in said
    assert Image.objects.get(project=None, name="tiny").state == "ready"
    said = while_it_works(cloud, lambda: paddock.ok("image", "prune", "--all"))
    assert "no server there uses it" in said
    assert "are removed" in said
    assert Image.objects.get(project=None, name="tiny").state == "absent"
    make_image_ready()
