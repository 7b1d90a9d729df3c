"""The catalogue: what comes with Paddock is sound, and an operator's own is checked before anything is done with it."""

from pathlib import Path

import pytest

from paddock.base.errors import Invalid
from paddock.images.build import BUILDERS
from paddock.images.catalogue import CATALOGUE, Publisher, load
from paddock.images.signers import signers

MINE = """
[[image]]
name = "mine"
title = "Of mine"
folder = "https://images.example.org/mine"
file = "mine.qcow2"
checksums = "SHA256SUMS"
user = "me"
"""


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "catalogue.toml"
    path.write_text(text)
    return path


def test_all_that_is_promised_is_there() -> None:
    systems = {e.system for e in CATALOGUE.offered}
    assert systems == {"ubuntu", "centos", "debian", "fedora", "rocky", "alma", "opensuse", "unknown"}
    assert {"arch", "freebsd-15.1"} <= {e.name for e in CATALOGUE.offered}
    old = ("centos-6", "centos-7", "centos-8", "debian-9", "ubuntu-16.04", "ubuntu-18.04", "fedora-28", "freebsd-11")
    found = {name: CATALOGUE.find(name) for name in old}
    assert all(entry and entry.ended for entry in found.values())
    assert {name for name, e in found.items() if e and e.refused} == {"centos-6", "freebsd-11"}


def test_what_is_built_here_has_a_builder() -> None:
    assert {e.name for e in CATALOGUE.image if e.built} == set(BUILDERS)


def test_what_is_fetched_comes_by_https_with_a_checksum() -> None:
    for entry in CATALOGUE.image:
        if not (entry.built or entry.refused):
            assert entry.url.startswith("https://"), entry.name
            assert CATALOGUE.source(entry, Path("/nowhere")).url.startswith(f"{entry.folder}/")


def test_without_a_catalogue_of_their_own(tmp_path: Path) -> None:
    assert load(tmp_path / "none.toml") == CATALOGUE


def test_an_operator_adds_and_replaces(tmp_path: Path) -> None:
    theirs = load(own(tmp_path, MINE + MINE.replace('"mine"', '"debian-13"', 1)))
    assert len(theirs.image) == len(CATALOGUE.image) + 1
    assert [e.title for e in theirs.image if e.name in ("mine", "debian-13")] == ["Of mine", "Of mine"]


def test_publishers_of_their_own_and_ours(tmp_path: Path) -> None:
    signed = MINE + 'signature = "SHA256SUMS.gpg"\npublisher = "{}"\n'
    theirs = load(own(tmp_path, signed.format("ubuntu")))
    assert theirs.publisher["ubuntu"] == CATALOGUE.publisher["ubuntu"]
    text = signed.format("me") + '[publisher.me]\nkeyrings = ["/etc/me.gpg"]\n'
    assert load(own(tmp_path, text)).publisher["me"].keyrings == (Path("/etc/me.gpg"),)


@pytest.mark.parametrize(("change", "words"), [
    (("[[image]]", "[[image]"), "is not TOML"),
    (('user = "me"', 'user = "me"\ncolour = "blue"'), "colour"),
    (('name = "mine"', 'name = "Mine!"'), "name"),
    (('user = "me"', ""), "user"),
    (('checksums = "SHA256SUMS"', ""), "folder goes with file and checksums"),
    (('user = "me"', 'user = "me"\nbuilt = true'), "exactly one of built, folder and refused"),
    (('user = "me"', 'user = "me"\nsignature = "S.gpg"'), "signature and publisher go together"),
    (('user = "me"', 'user = "me"\nsignature = "S.gpg"\npublisher = "nobody"'), "there is no"),
    (('file = "mine.qcow2"', 'file = "../mine.qcow2"'), "file"),
    (("https://images", "file:///images"), "folder"),
    (('user = "me"', 'user = "me"\nfirmware = []'), "firmware"),
    (('user = "me"', f'user = "me"\n{MINE}'), "mine is there twice"),
    (("[[image]]", "publisher = 5\n[[image]]"), "must be a table"),
])  # fmt: skip
def test_mistakes_are_told_with_their_place(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    path = own(tmp_path, MINE.replace(*change))
    with pytest.raises(Invalid, match=words) as error:
        load(path)
    assert str(path) in error.value.message


def test_where_key_rings_are_looked_for(tmp_path: Path) -> None:
    entry = CATALOGUE.find("rocky-9")
    assert entry
    none = CATALOGUE.source(entry, tmp_path)
    assert (none.keyring, none.wanted_keyring) == (None, tmp_path / "rocky.gpg")
    (tmp_path / "rocky.gpg").touch()
    assert CATALOGUE.source(entry, tmp_path).keyring == tmp_path / "rocky.gpg"


def test_a_key_ring_for_each_version(tmp_path: Path) -> None:
    """As packages of Debian bring them. The key of one release proves nothing of another."""
    ring = tmp_path / "RPM-GPG-KEY-fedora-44-primary"
    ring.touch()
    publisher = Publisher(
        keyrings=(tmp_path / "RPM-GPG-KEY-fedora-{version}-primary",), package="distribution-gpg-keys"
    )
    known = CATALOGUE.model_copy(update={"publisher": {**CATALOGUE.publisher, "fedora": publisher}})
    found = {entry.name: known.source(entry, tmp_path) for entry in known.image if entry.publisher == "fedora"}
    assert (found["fedora-44"].keyring, found["fedora-43"].keyring) == (ring, None)
    assert found["fedora-44"].fingerprints != found["fedora-43"].fingerprints
    assert found["fedora-43"].package == "distribution-gpg-keys"


def test_what_packages_have_is_pinned() -> None:
    """Whatever a package brings, only these keys are taken."""
    for entry in CATALOGUE.offered:
        if entry.publisher and CATALOGUE.publisher[entry.publisher].package:
            assert entry.fingerprints or CATALOGUE.publisher[entry.publisher].fingerprints, entry.name


def test_whose_signatures_can_be_checked(tmp_path: Path) -> None:
    ring = tmp_path / "44.gpg"
    publisher = Publisher(keyrings=(tmp_path / "{version}.gpg",), package="distribution-gpg-keys")
    known = CATALOGUE.model_copy(update={"publisher": {**CATALOGUE.publisher, "fedora": publisher}})
    ring.touch()
    (tmp_path / "arch.gpg").touch()
    found = {s.name: s for s in signers(known, tmp_path)}
    assert {"alma", "arch", "fedora", "opensuse", "rocky", "ubuntu"} == set(found)
    assert (found["arch"].checked, found["fedora"].checked) == (True, False), "43 and 28 have none"
    assert found["fedora"].package == "distribution-gpg-keys"
    assert (found["rocky"].package, found["rocky"].place) == ("", str(tmp_path / "rocky.gpg"))
    for version in ("43", "28"):
        (tmp_path / f"{version}.gpg").touch()
    assert {s.name: s.checked for s in signers(known, tmp_path)}["fedora"]


def test_what_nobody_knows_of_a_guest_agent_is_not_told() -> None:
    known = {entry.name: entry.guest_agent for entry in CATALOGUE.image}
    assert (known["fedora-44"], known["arch"], known["opensuse-tumbleweed"]) == (True, False, None)
