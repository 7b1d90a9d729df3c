"""`paddock image`: building and importing, and what is left over when that goes wrong: nothing."""

import hashlib
from pathlib import Path

from tests.cli.conftest import Shell
from tests.cli.server import Cloud


def test_build(paddock: Shell, cloud: Cloud) -> None:
    done = paddock.run("image", "build", "debian-12")
    assert done.stdout == "image debian-12 is built; use it: paddock launch debian-12\n"
    assert "debian-12: image: unpacking packages, " in done.stderr
    assert cloud.images[2]["x_state"] == "ready"


def test_the_catalogue_says_whose_signatures_can_be_checked(paddock: Shell, cloud: Cloud) -> None:
    told = paddock.ok("image", "list", "--available")
    rows = {line.split()[0]: line for line in told.splitlines() if line}
    assert " ubuntu " in rows["ubuntu-24.04"]
    assert " (fedora) " in rows["fedora-44"]
    words = " ".join(told.split())
    assert "(alma, fedora): signatures are checked once Debian's package distribution-gpg-keys is installed" in words
    assert "(arch): signatures are checked once a key ring is in `keys` of the state directory" in words
    assert "package" not in paddock.ok("image", "list", "--available", "-q")


def test_import_sends_every_byte(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    data = bytes(range(256)) * 9000  # more than two chunks
    disk.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    assert "image old is imported" in paddock.ok("image", "import", disk, "--name", "old", "--sha256", digest.upper())
    assert cloud.uploads[3] == data
    assert "old" in paddock.ok("image", "list", "-q").split()


def test_a_wrong_checksum_leaves_nothing(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"x" * 5_000_000)
    said = paddock.fails("image", "import", disk, "--name", "old", "--sha256", "1" * 64)
    assert f"has SHA-256 {hashlib.sha256(b'x' * 5_000_000).hexdigest()}, not {'1' * 64}" in said
    assert set(cloud.images) == {1, 2}
    assert not cloud.uploads


def test_a_disk_that_the_cloud_refuses_leaves_nothing(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"x")
    cloud.damaged = "the disk is damaged"
    said = paddock.fails("image", "import", disk, "--name", "old")
    assert "error: image old: the disk is damaged\n" in said
    assert set(cloud.images) == {1, 2}


def test_bad_files_are_refused_before_anything_is_announced(paddock: Shell, cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for file, expected in (
        ("/nowhere", "/nowhere can't be read: No such file or directory"),
        (tmp_path, "is not a regular file"),
        (tmp_path / "empty", "is empty"),
        ("/dev/zero", "is not a regular file"),
    ):
        assert expected in paddock.fails("image", "import", file, "--name", "x")
    assert "is no SHA-256" in paddock.fails("image", "import", __file__, "--name", "x", "--sha256", "abc")
    assert "there is no name to be made of this" in paddock.fails("image", "import", "--url", "http://x/")
    for words in ((), (__file__, "--url", "http://x/y"), ("--url", "ftp://x/y"), ("--url", "x")):
        paddock.fails("image", "import", *words, code=2)
    assert not cloud.requests


def test_one_that_is_refused_says_why(paddock: Shell, cloud: Cloud) -> None:
    assert "'centos-6' is refused: nobody could log in" in paddock.fails("image", "show", "centos-6")
    assert "there is no image 'centos-5'" in paddock.fails("image", "show", "centos-5")


def test_delete(paddock: Shell, cloud: Cloud) -> None:
    assert paddock.ok("image", "delete", "tiny") == "image tiny is deleted\n"
    assert set(cloud.images) == {2}
