"""Images of three files, disk, kernel and initrd: announced, sent in this order, checked, and kept together."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from paddock.cloud import housekeeping
from paddock.cloud.models import Image
from paddock.images.store import ImageStore
from paddock.machine.image import Role
from tests.api.caller import Caller, fields
from tests.api.live import LiveApi
from tests.api.shells import Person, anna  # noqa: F401  # a fixture
from tests.api.test_streams import Stream
from tests.api.test_uploads import _make_old as make_old
from tests.cloud.harness import Cloud
from tests.images.test_kernel import bzimage

KERNEL, INITRD, DISK = bzimage(), b"an initrd" * 1000, b"XFSB a file system".ljust(512) * 2000
ARGUMENTS = "root=/dev/sda console=ttyS0 quiet"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def stream(live: LiveApi, ask: Caller) -> Stream:
    return Stream(live, ask)


@pytest.fixture
def image(ask: Caller) -> Iterator[Image]:
    """One that waits for all three."""
    boot = {"kernel": {"sha256": sha256(KERNEL)}, "initrd": {}, "cmdline": ARGUMENTS}
    made = ask.ok("POST", "/x/v1/images", {"name": "three", "boot": boot})["image"]
    assert (made["x_cmdline"], made["x_firmware"]) == (ARGUMENTS, None)
    yield Image.objects.get(pk=made["id"])
    for left in settings.STATE.uploads.glob(f"image-{made['id']}*"):
        left.unlink()


def content(image: Image, file: str = "") -> str:
    return f"/x/v1/images/{image.pk}/content" + (f"?file={file}" if file else "")


def names(image: Image) -> list[str]:
    """What has come of it."""
    return sorted(p.name.removeprefix(f"image-{image.pk}") for p in settings.STATE.uploads.glob(f"image-{image.pk}*"))


def test_three_files_become_an_image(stream: Stream, image: Image, ask: Caller, cloud: Cloud) -> None:
    said = stream.refused("PUT", content(image), 409, "conflict", content=DISK)
    assert "the kernel of image three comes first" in said["message"]
    assert names(image) == []
    whole = {"received": len(KERNEL), "state": "ready", "sha256": sha256(KERNEL)}
    assert stream("PUT", content(image, "kernel"), content=KERNEL).json() == whole
    assert stream("GET", content(image, "kernel")).json() == whole
    half = {"Content-Range": "bytes 0-9/9000"}
    assert stream("PUT", content(image, "initrd"), content=INITRD[:10], headers=half).json()["state"] == "absent"
    assert stream("GET", content(image, "initrd")).json() == {"received": 10, "state": "absent", "sha256": None}
    stream.refused("PUT", content(image), 409, "conflict", content=DISK)
    stream("PUT", content(image, "initrd") + "&offset=10", content=INITRD[10:])
    assert names(image) == ["-initrd", "-kernel"]
    assert stream("PUT", content(image), content=DISK).status_code == 202
    stream.refused("PUT", content(image, "kernel"), 409, "conflict", content=KERNEL)

    cloud.settle()
    shown = ask.ok("GET", f"/v1/images/{image.pk}")["image"]
    assert (shown["x_state"], shown["x_cmdline"]) == ("ready", ARGUMENTS), shown["x_problem"]
    assert names(image) == []
    store = ImageStore(settings.STATE.images)
    manifest = store.verify(shown["x_sha256"])
    assert manifest.direct_boot
    assert store.file(manifest.sha256, Role.INITRD).read_bytes() == INITRD
    assert stream("GET", content(image, "initrd")).json()["received"] == len(INITRD)


def test_another_kernel_than_was_announced(stream: Stream, image: Image) -> None:
    said = stream.refused("PUT", content(image, "kernel"), 422, "invalid_input", content=KERNEL + b"!")
    assert "the kernel's sha256 is" in str(said)
    assert names(image) == []
    stream("PUT", content(image, "kernel"), content=KERNEL)
    stream.refused("PUT", content(image, "kernel"), 422, "invalid_input", content=b"another")
    assert names(image) == ["-kernel"], "what was there stays"


def test_what_is_not_announced_is_not_taken(stream: Stream, image: Image, ask: Caller) -> None:
    stream.refused("PUT", content(image, "iso"), 422, "invalid_input", content=b"x")
    stream.refused("GET", content(image, "../kernel"), 422, "invalid_input")
    plain = ask.ok("POST", "/x/v1/images", {"name": "plain", "boot": None})["image"]
    stream.refused("PUT", f"/x/v1/images/{plain['id']}/content?file=kernel", 422, "invalid_input", content=KERNEL)
    assert plain["x_cmdline"] is None


@pytest.mark.parametrize(("more", "field"), [
    ({"boot": {}}, "boot.kernel"), ({"boot": {"kernel": {"sha256": "0"}}}, "boot.kernel.sha256"),
    ({"boot": {"kernel": {}, "cmdline": "a\nb"}}, "boot.cmdline"),
    ({"boot": {"kernel": {}}, "url": "https://example.com/disk"}, "url"),
])  # fmt: skip
def test_what_can_not_be_announced(more: Any, field: str, ask: Caller) -> None:
    assert (
        next(iter(fields(ask.refused("POST", "/x/v1/images", {"name": "no", **more}, 422, "invalid_input")))) == field
    )


def test_a_kernel_is_kept_while_its_disk_comes(stream: Stream, image: Image) -> None:
    stream("PUT", content(image, "kernel"), content=KERNEL)
    stream("PUT", content(image, "initrd"), content=INITRD)
    stream("PUT", content(image), content=b"abc", headers={"Content-Range": "bytes 0-2/6"})
    files = {path.name: path for path in settings.STATE.uploads.glob(f"image-{image.pk}*")}
    for name, path in files.items():
        if name != f"image-{image.pk}":
            make_old(path)
    housekeeping.tidy()
    assert names(image) == ["", "-initrd", "-kernel"]
    make_old(files[f"image-{image.pk}"])
    housekeeping.tidy()
    assert names(image) == []


@pytest.fixture
def three(tmp_path: Path) -> tuple[str, ...]:
    """As the command line takes them."""
    for name, data in (("disk", DISK), ("kernel", KERNEL), ("initrd", INITRD)):
        (tmp_path / name).write_bytes(data)
    return tuple(word for name in ("disk", "kernel", "initrd") for word in (f"--{name}", str(tmp_path / name)))


def test_by_the_command_line(anna: Person, three: tuple[str, ...], tmp_path: Path) -> None:  # noqa: F811
    said = anna.ok("image", "import", "cirros", *three)
    assert said == "image cirros is imported; use it: paddock launch cirros\n"
    shown = anna.json("image", "show", "cirros")
    assert (shown["x_state"], shown["x_cmdline"]) == ("ready", "root=/dev/sda console=ttyS0")
    assert "is there already" in anna.fails("image", "import", "cirros", *three)
    anna.ok("image", "import", str(tmp_path / "disk"), "-n", "other", *three[2:4], "--kernel-args", "")
    assert anna.json("image", "show", "other")["x_cmdline"] == ""
    assert "need --kernel" in anna.run("image", "import", "x", *three[:2], *three[4:]).stderr
    assert "must be a file" in anna.run("image", "import", "https://example.com/x", *three[2:4]).stderr


def test_the_command_line_goes_on(
    anna: Person,  # noqa: F811
    three: tuple[str, ...],
    ask: Caller,
    stream: Stream,
    tmp_path: Path,
) -> None:
    """An earlier try announced it and sent a part."""
    about = {"name": "begun", "description": "begun", "os_flavor": "unknown", "sha256": sha256(DISK)}
    boot = {"kernel": {"sha256": sha256(KERNEL)}, "initrd": {"sha256": sha256(INITRD)}, "cmdline": ARGUMENTS}
    made = ask.ok("POST", "/x/v1/images", {**about, "boot": boot})["image"]
    assert stream("PUT", f"/x/v1/images/{made['id']}/content?file=kernel", content=KERNEL).status_code == 200
    three = (*three, "--kernel-args", ARGUMENTS)
    (tmp_path / "initrd").write_bytes(b"another")
    assert "begun with another initrd" in anna.fails("image", "import", "begun", *three)
    (tmp_path / "initrd").write_bytes(INITRD)
    assert "with another cmdline" in anna.fails("image", "import", "begun", *three[:-1], "quiet")
    assert "begun with a kernel" in anna.fails("image", "import", "begun", *three[:2])
    anna.ok("image", "import", "begun", *three)
    assert anna.json("image", "show", "begun")["id"] == made["id"]
