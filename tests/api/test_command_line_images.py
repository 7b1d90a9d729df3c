"""`paddock image import` and `paddock iso` on the real API: from files and addresses, cut off and gone on with."""

import contextlib
import hashlib
import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from paddock.base import clock
from paddock.cloud.models import Image
from tests.api.shells import Person, anna, reader  # noqa: F401  # fixtures
from tests.api.test_uploads import iso
from tests.cloud.harness import Cloud
from tests.images.website import Answer, Website

MIB = 1 << 20
BOOT_SECTOR = b"\0" * 510 + b"\x55\xaa"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw disk that takes a moment to send, in which no part is like another."""
    path = tmp_path / "Some_Disk.raw"
    path.write_bytes(BOOT_SECTOR + b"".join(n.to_bytes(4, "big") * 128 for n in range(24 * 2048)))
    return path


@pytest.fixture
def cd(tmp_path: Path) -> Path:
    path = tmp_path / "tools.iso"
    path.write_bytes(iso())
    return path


class Line:
    """A way to the API that ends after so many bytes, as often as it is told to."""

    def __init__(self, port: int) -> None:
        self.target, self.most, self.cuts = port, 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                here = self.listener.accept()[0]
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self._there, args=(here, there), daemon=True).start()
            threading.Thread(target=_pump, args=(there, here), daemon=True).start()

    def _there(self, here: socket.socket, there: socket.socket) -> None:
        count = 0
        while data := _read(here):
            count += len(data)
            if self.cuts and count > self.most:
                self.cuts -= 1
                break
            there.sendall(data)
        for end in (here, there):
            _end(end)


def _read(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except OSError:
        return b""


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := _read(source):
            target.sendall(data)
    _end(target)


def _end(line: socket.socket) -> None:
    """Closing alone ends nothing while another thread reads from it."""
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()


@contextmanager
def cut(person: Person, most: int, times: int) -> Iterator[tuple[Person, Line]]:
    """The person on a line that is cut `times` times after more than `most` bytes."""
    line = Line(int(person.endpoint.rsplit(":", 1)[1]))
    line.most, line.cuts = most, times
    try:
        yield Person(person.home, line.address, person.token), line
    finally:
        line.listener.close()


def here(name: str) -> int:
    """How many bytes of it have come."""
    row = Image.objects.get(name=name)
    path = Path(settings.STATE.uploads / f"image-{row.pk}")
    return path.stat().st_size if path.exists() else 0


def until(true: Callable[[], bool]) -> None:
    end = clock.monotonic() + 60
    while not true():
        assert clock.monotonic() < end, "it did not come to that"
        clock.sleep(0.01)


def test_a_server_of_an_iso_that_is_not_there_yet(anna: Person, cd: Path) -> None:  # noqa: F811
    said = anna.fails("launch", "--iso", str(cd), "--name", "new")
    assert f"there is no ISO '{cd}'\nhint: that is a file: `paddock iso import {cd}` brings it" in said
    anna.ok("iso", "import", str(cd), "--name", "tools")
    assert "did you mean tools?" in anna.fails("launch", "--iso", "tols", "--name", "new")
    assert "new (n1/1000) boots the CD" in anna.ok("launch", "--iso", "tools", "--name", "new")


def test_a_file_becomes_an_image(anna: Person, disk: Path) -> None:  # noqa: F811
    said = anna.ok("image", "import", disk, "--user", "debian", "--no-cloud-init", "--os-version", "12")
    assert said == "image some-disk is imported; use it: paddock launch some-disk\n"
    shown = anna.json("image", "show", "some-disk")
    assert (shown["x_state"], shown["x_default_user"], shown["x_cloud_init"]) == ("ready", "debian", False)
    assert (shown["os_version"], shown["disk_size"]) == ("12", disk.stat().st_size / 2**30)
    assert Image.objects.get(name="some-disk").expected_sha256 == hashlib.sha256(disk.read_bytes()).hexdigest()
    said = anna.fails("image", "import", disk)
    assert said.endswith("error: image some-disk is there already\nhint: choose another --name, or "
                         "`paddock image delete some-disk` first\n")  # fmt: skip
    assert json.loads(anna.ok("image", "import", disk, "-n", "other", "-o", "json"))["name"] == "other"
    assert [row[0] for row in anna.table("image", "list", "--type", "snapshot")] == ["NAME", "some-disk", "other"]


def test_a_line_that_is_cut_is_made_anew(anna: Person, disk: Path) -> None:  # noqa: F811
    with cut(anna, 5 * MIB, 3) as (person, line):
        said = person.run("image", "import", disk)
    assert (said.returncode, line.cuts) == (0, 0), said.stderr
    assert said.stdout.startswith("image some-disk is imported")
    assert " MB are there already\n" in said.stderr
    assert anna.json("image", "show", "some-disk")["x_state"] == "ready"


def test_a_line_that_stays_cut(anna: Person, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("paddock.cli.upload.TRIES", 1)
    with cut(anna, 50_000, 10**9) as (person, _):
        said = person.fails("image", "import", disk)
    assert "hint: the same command goes on where this ended, within a day" in said
    assert anna.table("image", "list", "--type", "snapshot")[1][2] == "incomplete"
    anna.ok("image", "import", disk)


@pytest.mark.slow
def test_ctrl_c_and_the_same_again(anna: Person, disk: Path) -> None:  # noqa: F811
    with disk.open("ab") as file:
        file.truncate(300 * MIB)
    process = anna.background("image", "import", disk)
    until(lambda: Image.objects.filter(name="some-disk").exists() and here("some-disk") > MIB)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert " of 314.6 MB of image some-disk is there and is kept for a day\n" in said
    assert "hint: the same command goes on; `paddock image delete some-disk` gives it up\n" in said
    came = here("some-disk")
    assert MIB < came < 300 * MIB
    again = ("image", "import", str(disk))
    assert "begun with another default user" in anna.fails(*again, "--user", "bob")
    other = disk.with_name("other.raw")
    other.write_bytes(BOOT_SECTOR)
    assert "was begun with another file" in anna.fails("image", "import", other, "--name", "some-disk")
    assert "waits for an upload" in anna.fails("image", "import", "--url", "http://127.0.0.1/", "-n", "some-disk")
    assert here("some-disk") >= came, "what came is still there"
    anna.ok("image", "delete", "some-disk")


@pytest.mark.slow
def test_two_at_once(anna: Person, disk: Path) -> None:  # noqa: F811
    """The second waits for a while, then goes on with, or finds, what the first has sent."""
    first = anna.background("image", "import", disk)
    second = anna.background("image", "import", disk)
    said = [process.communicate(timeout=60)[1] for process in (first, second)]
    codes = sorted((first.returncode, second.returncode))
    assert codes == [0, 0] or (codes == [0, 1] and any("is there already" in text for text in said)), said
    assert anna.json("image", "show", "some-disk")["x_state"] == "ready"


def test_what_is_no_disk_leaves_nothing(anna: Person, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "text.raw").write_bytes(b"nothing to boot from\n" * 1000)
    said = anna.fails("image", "import", tmp_path / "text.raw")
    assert "error: image text: the file is not a disk" in said
    assert "hint: an image is a disk" in said
    assert anna.json("image", "list", "--type", "snapshot") == []


def test_an_image_of_a_failed_try_is_replaced(anna: Person, disk: Path, cloud: Cloud) -> None:  # noqa: F811
    Image.objects.create(
        project=cloud.project(), name="some-disk", type="snapshot", state="failed", problem="no luck", next_at=None
    )
    done = anna.run("image", "import", disk)
    assert done.returncode == 0, done.stderr
    assert "image some-disk of an earlier try failed (no luck); trying anew" in done.stderr


def test_names_that_are_taken(anna: Person, reader: Person, disk: Path, cd: Path) -> None:  # noqa: F811
    said = anna.fails("image", "import", disk, "--name", "tiny")
    assert said == "error: there is an image tiny of the cloud's own\nhint: choose another name: --name\n"
    anna.ok("iso", "import", cd)
    assert "the name tools is taken\n" in anna.fails("image", "import", disk, "--name", "tools")
    assert "invalid input in field 'name'" in anna.fails("image", "import", disk, "--name", "A B")
    assert "may only read" in reader.fails("image", "import", disk)
    assert "'ftp://x/y' is no address" in anna.fails("image", "import", "ftp://x/y", code=2)


@contextmanager
def website(path: str, content: bytes) -> Iterator[str]:
    """The address of something that can be fetched."""

    def answer(asked: Answer) -> None:
        asked.begin(200, Content_Length=len(content))
        asked.wfile.write(content)

    with Website() as site:
        site.behaviours[path] = answer
        yield f"http://127.0.0.1:{site.server_address[1]}{path}"


@pytest.mark.slow
def test_what_an_address_has(anna: Person, disk: Path, cd: Path) -> None:  # noqa: F811
    digest = hashlib.sha256(disk.read_bytes()).hexdigest()
    with website("/some/Disk-1.RAW", disk.read_bytes()) as url:
        said = anna.fails("image", "import", url, "--sha256", "0" * 64)
        assert f"{digest}" in said
        assert anna.json("image", "list", "--type", "snapshot") == []
        assert anna.ok("image", "import", url, "--sha256", digest.upper()).startswith("image disk-1 is imported")
        assert "is there already" in anna.fails("image", "import", "--url", url)
        done = anna.run("image", "import", "--url", url, "--name", "later", "--no-wait")
        assert (done.stdout, done.returncode) == ("", 0)
        assert "image later is accepted; `paddock image show later` shows how far it is\n" in done.stderr
        until(lambda: bool(Image.objects.filter(name="later", state="ready")))
    with website("/tools.iso", cd.read_bytes()) as url:
        assert anna.ok("iso", "import", "--url", url).startswith("ISO tools is imported; put it into a drive: ")


def test_the_life_of_an_iso(anna: Person, cd: Path, cloud: Cloud, reader: Person) -> None:  # noqa: F811
    cloud.running_server("web")
    made: Any = anna.json("iso", "import", str(cd), "-d", "what we need")
    assert (made["name"], made["x_state"], made["description"]) == ("tools", "ready", "what we need")
    assert anna.table("iso", "ls")[1][:4] == ["tools", str(made["id"]), "ready", "private"]
    assert "Description:   what we need\n" in anna.ok("iso", "show", "tools")
    assert anna.ok("iso", "list", "-q") == "tools\n"
    assert "is there already" in anna.fails("iso", "import", cd)
    assert anna.ok("server", "attach-iso", "web", "tools") == "web has tools in its drive\n"
    assert "did you mean tools?" in anna.fails("iso", "show", "tool")
    assert "not an ISO 9660 image" in anna.fails("iso", "import", __file__)
    assert "Missing argument 'FILE'" in anna.fails("iso", "import", code=2)
    assert "may only read" in reader.fails("iso", "delete", "tools")
    anna.ok("server", "detach-iso", "web")
    assert anna.ok("iso", "rm", "tools") == "ISO tools is deleted\n"
    assert "hint: there is no ISO at all yet: `paddock iso import` brings one" in anna.fails("iso", "show", "tools")
