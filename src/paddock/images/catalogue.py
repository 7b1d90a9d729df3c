"""The images that every cloud knows from its first minute: what they are, where they come from, what proves them.

They are data: `catalogue.toml` beside this file, and one of the operator's own that adds to it. Both are checked as a
whole when they are read, so that a mistake is told with its place and never met at a download.
"""

import tomllib
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from paddock.base.errors import Invalid
from paddock.images.published import Algorithm, Source

System = Literal["ubuntu", "centos", "debian", "fedora", "rocky", "alma", "opensuse", "unknown"]
Firmware = Literal["bios", "uefi"]
_FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,199}$")]
_Text = Annotated[str, Field(max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_Fingerprint = Annotated[str, Field(pattern=r"^([0-9A-F]{40}|[0-9A-F]{64})$")]


class Publisher(_Strict):
    """Whose signatures are checked: where its key ring may lie on this host, and which of its keys is the one."""

    # Besides keys/<publisher>.gpg in the state directory, which comes first. {version} is that of the image.
    keyrings: tuple[Path, ...] = ()
    package: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]{0,63}$")] | Literal[""] = ""  # Debian's, that has them
    fingerprints: tuple[_Fingerprint, ...] = ()  # empty: any of it


class Entry(_Strict):
    """What is known of an image before it is here. It is `built` here, is fetched from `folder`/`file`, or `refused`
    for a reason."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
    title: Annotated[str, Field(min_length=1, max_length=200)]
    # Nobody chooses these: rescue is booted where a server is repaired, blank is what an ISO is installed on.
    type: Literal["system", "rescue", "blank"] = "system"
    system: System = "unknown"
    version: Annotated[str, Field(max_length=20)] = ""
    built: bool = False
    folder: Annotated[str, Field(pattern=r"^(https?://[A-Za-z0-9.:-]+(/[A-Za-z0-9._+~-]+)*)?$")] = ""
    file: _FileName | Literal[""] = ""
    checksums: _FileName | Literal[""] = ""  # a file of the folder: where the checksum comes from
    algorithm: Algorithm = "sha256"
    any_name: bool = False  # the checksum's file may call the image by another name, if it has one checksum only
    signature: _FileName | Literal["", "inline"] = ""  # a file of the folder; inline: the checksums' file is signed
    signature_of: Literal["checksums", "image"] = "checksums"
    publisher: str = ""
    fingerprints: tuple[_Fingerprint, ...] = ()  # the keys that may sign this one; empty: those of its publisher
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
    firmware: Annotated[tuple[Firmware, ...], Field(min_length=1)] = ("bios", "uefi")
    cloud_init: bool = True
    guest_agent: bool | None = None  # None: nobody here knows, and nobody waits for it
    grows: bool = True  # its root file system to the size of its disk, when it first boots
    ended: date | None = None  # its publisher's support
    refused: _Text = ""
    note: _Text = ""

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> "Entry":
        ways = (self.built, bool(self.folder), bool(self.refused))
        if sum(ways) != 1:
            raise ValueError(f"{self.name}: exactly one of built, folder and refused")
        if self.folder and not (self.file and self.checksums):
            raise ValueError(f"{self.name}: folder goes with file and checksums")
        if bool(self.signature) != bool(self.publisher):
            raise ValueError(f"{self.name}: signature and publisher go together")
        if self.signature == "inline" and self.signature_of != "checksums":
            raise ValueError(f"{self.name}: an inline signature is one of the checksums")
        return self

    @property
    def url(self) -> str:
        """Where it is fetched from; empty for one that is not."""
        return f"{self.folder}/{self.file}" if self.folder else ""


class Catalogue(_Strict):
    """All images that a cloud knows, and who signs them."""

    image: tuple[Entry, ...] = ()
    publisher: dict[Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")], Publisher] = {}

    @model_validator(mode="after")
    def _each_name_once(self) -> "Catalogue":
        names = [entry.name for entry in self.image]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{min(twice)} is there twice")
        if strangers := {e.publisher for e in self.image if e.publisher} - self.publisher.keys():
            raise ValueError(f"there is no [publisher.{min(strangers)}]")
        return self

    def find(self, name: str) -> Entry | None:
        """The entry of that name."""
        return next((entry for entry in self.image if entry.name == name), None)

    @property
    def offered(self) -> tuple[Entry, ...]:
        """Those that can be had."""
        return tuple(entry for entry in self.image if not entry.refused)

    def source(self, entry: Entry, keys: Path) -> Source:
        """Where the checksum of an image that is fetched comes from. `keys`: the operator's key rings."""
        if not entry.publisher:
            return Source(**_checksum_of(entry))
        publisher = self.publisher[entry.publisher]
        inline = entry.signature == "inline"
        return Source(
            **_checksum_of(entry),
            publisher=entry.publisher,
            inline=inline,
            signature="" if inline else f"{entry.folder}/{entry.signature}",
            signature_of=entry.signature_of,
            keyring=self.keyring(entry, keys),
            wanted_keyring=_own(entry, keys),
            package=publisher.package,
            fingerprints=entry.fingerprints or publisher.fingerprints,
        )

    def keyring(self, entry: Entry, keys: Path) -> Path | None:
        """The key ring that the signature of an image is checked with here; None: there is none."""
        if not entry.publisher:
            return None
        brought = (str(ring).replace("{version}", entry.version) for ring in self.publisher[entry.publisher].keyrings)
        return next((ring for ring in (_own(entry, keys), *map(Path, brought)) if ring.is_file()), None)


def _own(entry: Entry, keys: Path) -> Path:
    return keys / f"{entry.publisher}.gpg"


def _checksum_of(entry: Entry) -> dict[str, object]:
    return {
        "url": f"{entry.folder}/{entry.checksums}",
        "file": entry.file,
        "algorithm": entry.algorithm,
        "any_name": entry.any_name,
    }


def load(own: Path | None = None) -> Catalogue:
    """The catalogue that comes with Paddock, and `own` over it, if there is such a file. Raises Invalid naming the file
    and the place in it."""
    ours = files("paddock.images") / "catalogue.toml"
    found = tomllib.loads(ours.read_text(encoding="utf-8"))
    if own is None:
        return _checked(found, "the catalogue")
    try:
        text = own.read_text(encoding="utf-8")
    except FileNotFoundError:
        return _checked(found, "the catalogue")
    except (OSError, UnicodeDecodeError) as e:
        raise Invalid(f"{own} can't be read: {e}") from e
    try:
        theirs = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise Invalid(f"{own} is not TOML: {e}") from e
    more = _checked({**theirs, "publisher": {**found["publisher"], **_table(theirs, own)}}, str(own))
    replaced = {entry.name for entry in more.image}
    ours_left = tuple(e for e in _checked(found, "the catalogue").image if e.name not in replaced)
    return Catalogue(image=(*ours_left, *more.image), publisher=more.publisher)


def _table(theirs: dict[str, object], own: Path) -> dict[str, object]:
    table = theirs.get("publisher", {})
    if not isinstance(table, dict):
        raise Invalid(f"{own}: publisher: must be a table", field="publisher")
    return table


def _checked(data: dict[str, object], name: str) -> Catalogue:
    try:
        return Catalogue.model_validate(data)
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise Invalid(f"{name}: {key + ': ' if key else ''}{first['msg']}", field=key) from e


CATALOGUE = load()
