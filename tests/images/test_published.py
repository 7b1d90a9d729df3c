"""What publishers say of their images: lists of checksums in every shape; signatures good, bad and missing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.base.errors import Invalid, Refused
from paddock.images import published
from paddock.images.published import Source
from tests.images.keys import Publisher

SUM, OTHER = "a" * 64, "b" * 64
LIST = f"{OTHER}  other.img\n{SUM} *disk.img\n".encode()
BASE = "https://example.org"


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publisher]:
    publisher = Publisher(tmp_path_factory.mktemp("keys") / "gpg", "publisher")
    yield publisher
    publisher.close()


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publisher]:
    stranger = Publisher(tmp_path_factory.mktemp("keys") / "gpg", "stranger")
    yield stranger
    stranger.close()


class Site:
    """Brings what it has."""

    def __init__(self, **files: bytes) -> None:
        self.files = {f"{BASE}/{name}": data for name, data in files.items()}
        self.asked: list[str] = []

    def get(self, url: str, path: Path) -> None:
        self.asked.append(url)
        path.write_bytes(self.files[url])


def source(**more: object) -> Source:
    return Source.model_validate({"url": f"{BASE}/sums", "file": "disk.img", **more})


def signed(ring: Path, **more: object) -> Source:
    return source(publisher="me", signature=f"{BASE}/sums.gpg", keyring=ring, **more)


@pytest.mark.parametrize("text", [
    f"{SUM}  disk.img",
    f"{SUM} *disk.img",
    f"{SUM.upper()}  ./images/disk.img\n",
    f"# a comment\nSHA256 (disk.img) = {SUM}\nSHA256 (other) = {OTHER}\nMD5 (disk.img) = {'c' * 32}",
    f"SHA256(disk.img) = {SUM}",
    f"{SUM}\n",
    f"{SUM}  disk.img\n{SUM}  disk.img",
    f"{'d' * 128}  disk.img\n{SUM}  disk.img",
    f"{OTHER}  disk.img.zsync\n{SUM}  disk.img",
])  # fmt: skip
def test_every_shape_of_a_list(text: str) -> None:
    assert published.find(text, "disk.img", "sha256") == SUM


@pytest.mark.parametrize("text", [
    "", "<html>not found</html>", f"{SUM}  other.img", f"{SUM}  disk.img\n{OTHER}  disk.img", f"{'a' * 63}  disk.img",
    f"SHA512 (disk.img) = {SUM}", f"{SUM}\n{OTHER}\n",
])  # fmt: skip
def test_lists_that_do_not_say(text: str) -> None:
    with pytest.raises(Invalid, match=r"checksum"):
        published.find(text, "disk.img", "sha256")


def test_a_checksum_by_another_name_where_that_is_expected() -> None:
    text = f"{SUM}  disk-Snapshot1.img"
    assert published.find(text, "disk.img", "sha256", any_name=True) == SUM
    with pytest.raises(Invalid):
        published.find(f"{text}\n{OTHER}  disk-Snapshot2.img", "disk.img", "sha256", any_name=True)


def test_what_nobody_signs_says_so(tmp_path: Path) -> None:
    found = published.ask(source(), tmp_path, Site(sums=LIST).get)
    assert (found.digest, found.verified) == (SUM, "checksum by https; not signed by its publisher")
    assert found.version == f"sha256:{'a' * 32}"


def test_without_a_key_ring_it_says_so(tmp_path: Path) -> None:
    site = Site(sums=LIST)
    wanted = source(publisher="me", signature=f"{BASE}/sums.gpg", wanted_keyring=tmp_path / "me.gpg")
    found = published.ask(wanted, tmp_path, site.get)
    assert "signature not checked: there is no key ring" in found.verified
    assert site.asked == [f"{BASE}/sums"]


def test_without_a_key_ring_it_can_be_forbidden(tmp_path: Path) -> None:
    for wanted in (source(required=True), source(required=True, publisher="me", signature=f"{BASE}/sums.gpg")):
        with pytest.raises(Refused, match="not to be used"):
            published.ask(wanted, tmp_path, Site(sums=LIST).get)


def test_what_is_forbidden_says_which_package_has_the_keys(tmp_path: Path) -> None:
    wanted = source(required=True, publisher="me", signature=f"{BASE}/sums.gpg", package="keys-of-me")
    with pytest.raises(Refused) as error:
        published.ask(wanted, tmp_path, Site(sums=LIST).get)
    assert error.value.hint == "install Debian's package keys-of-me, or put the keys of me there"


@pytest.mark.parametrize("armour", [False, True])
def test_a_good_signature(tmp_path: Path, publisher: Publisher, armour: bool) -> None:
    site = Site(sums=LIST, **{"sums.gpg": publisher.detached(LIST, armour=armour)})
    for ring in (publisher.keyring, publisher.armoured):
        found = published.ask(signed(ring, fingerprints=[publisher.fingerprint]), tmp_path, site.get)
        assert (found.digest, found.verified) == (SUM, f"signed by me, checked with {ring}")


def test_a_list_that_was_changed(tmp_path: Path, publisher: Publisher) -> None:
    site = Site(sums=LIST.replace(b"a", b"c"), **{"sums.gpg": publisher.detached(LIST)})
    with pytest.raises(Refused, match=r"signature of checksums is not good.*BAD signature"):
        published.ask(signed(publisher.keyring), tmp_path, site.get)


def test_somebody_else_s_signature(tmp_path: Path, publisher: Publisher, stranger: Publisher) -> None:
    site = Site(sums=LIST, **{"sums.gpg": stranger.detached(LIST)})
    with pytest.raises(Refused, match="No public key"):
        published.ask(signed(publisher.keyring), tmp_path, site.get)
    with pytest.raises(Refused, match=f"is signed by {stranger.fingerprint}, not by {publisher.fingerprint}"):
        published.ask(signed(stranger.keyring, fingerprints=[publisher.fingerprint]), tmp_path, site.get)


@pytest.mark.parametrize(
    "junk", [b"", b"<html>", b"-----BEGIN PGP SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----\n"]
)
def test_a_signature_that_is_none(tmp_path: Path, publisher: Publisher, junk: bytes) -> None:
    with pytest.raises(Refused, match="is not good"):
        published.ask(signed(publisher.keyring), tmp_path, Site(sums=LIST, **{"sums.gpg": junk}).get)


def test_signed_within_only_what_is_signed_counts(tmp_path: Path, publisher: Publisher) -> None:
    wanted = source(publisher="me", inline=True, keyring=publisher.keyring)
    clear = publisher.clear(LIST)
    assert published.ask(wanted, tmp_path, Site(sums=clear).get).digest == SUM
    with pytest.raises(Refused):
        published.ask(wanted, tmp_path, Site(sums=LIST).get)
    with pytest.raises(Refused):
        published.ask(wanted, tmp_path, Site(sums=clear.replace(b"aaa", b"ccc")).get)


@pytest.mark.parametrize("place", ["before", "after"])
def test_what_is_written_around_a_signed_text(tmp_path: Path, publisher: Publisher, place: str) -> None:
    """A list of a stranger's around one that is signed must not be believed."""
    clear, more = publisher.clear(f"{OTHER}  other.img\n".encode()), f"{SUM}  disk.img\n".encode()
    both = more + clear if place == "before" else clear + more
    with pytest.raises((Invalid, Refused)):
        published.ask(source(publisher="me", inline=True, keyring=publisher.keyring), tmp_path, Site(sums=both).get)


def test_an_image_that_is_signed_itself(tmp_path: Path, publisher: Publisher) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"a disk" * 1000)
    wanted = signed(publisher.keyring, signature_of="image")
    published.check_image(wanted, image, tmp_path, Site(**{"sums.gpg": publisher.detached(image.read_bytes())}).get)
    with pytest.raises(Refused):
        published.check_image(wanted, image, tmp_path, Site(**{"sums.gpg": publisher.detached(b"another")}).get)


def test_a_key_ring_that_is_none(tmp_path: Path, publisher: Publisher) -> None:
    site = Site(sums=LIST, **{"sums.gpg": publisher.detached(LIST)})
    ring = tmp_path / "ring.gpg"
    for content in (
        b"",
        b"rubbish",
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!!\n-----END PGP PUBLIC KEY BLOCK-----\n",
    ):
        ring.write_bytes(content)
        with pytest.raises(Refused):
            published.ask(signed(ring), tmp_path, site.get)
    with pytest.raises(Refused, match="can't be read"):
        published.ask(signed(tmp_path / "none"), tmp_path, site.get)
