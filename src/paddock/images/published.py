"""What a publisher says that its image is: a checksum out of a file, and who signed that.

The file is asked for each time, since it says what is newest. Where a signature is published and we have the
publisher's key ring, it must be good; where we have none, that is said and never passed over in silence.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from paddock.base.errors import Invalid, Refused
from paddock.images import signature
from paddock.machine.spec import Frozen

Algorithm = Literal["sha256", "sha512"]
Get = Callable[[str, Path], None]  # bring what is at a URL to a file

_DIGITS = {"sha256": 64, "sha512": 128}
_GNU = re.compile(r"\\?([0-9a-fA-F]+) [ *](.+)")  # as sha256sum writes: digest, blank, kind, name
_BSD = re.compile(r"([A-Za-z0-9]+) ?\((.+)\) = ([0-9a-fA-F]+)")
_BARE = re.compile(r"[0-9a-fA-F]{64,128}")
_HINT = "its publisher may be changing it just now: try again later"


class Source(Frozen):
    """Where a publisher says what `file` is."""

    url: str  # of the file of checksums
    file: str
    algorithm: Algorithm = "sha256"
    any_name: bool = False  # one checksum alone is that of our file, whatever name it has there
    publisher: str = ""  # who signs; empty: nobody does
    inline: bool = False  # the file of checksums is signed within
    signature: str = ""  # the URL of a signature of its own
    signature_of: Literal["checksums", "image"] = "checksums"
    keyring: Path | None = None  # with the publisher's keys; None: there is none here
    wanted_keyring: Path | None = None  # where it would be
    package: str = ""  # Debian's, that has the publisher's keys
    fingerprints: tuple[str, ...] = ()  # the keys that may sign; empty: any of the key ring
    required: bool = False  # what is not signed, or can't be checked, is refused


def mirrored(url: str, mirror: str) -> str:
    """Where a mirror has what is published at `url`: below its address by host and path. Without a mirror: there."""
    return f"{mirror.rstrip('/')}/{url.partition('://')[2]}" if mirror and url else url


@dataclass(frozen=True)
class Published:
    """What its publisher says of an image."""

    algorithm: Algorithm
    digest: str
    verified: str  # for people: what proves that the publisher says so

    @property
    def version(self) -> str:
        """What tells this publication from the next."""
        return f"{self.algorithm}:{self.digest[:32]}"


def ask(source: Source, place: Path, get: Get) -> Published:
    """What the publisher says now, with files in the directory `place`. Raises Refused when it can't be had or is not
    signed as it must be, Invalid when it does not name the image."""
    checksums = place / "checksums"
    get(source.url, checksums)
    text = _proved(source, checksums, place, get)
    digest = find(text, source.file, source.algorithm, any_name=source.any_name)
    return Published(source.algorithm, digest, _said(source))


def check_image(source: Source, image: Path, place: Path, get: Get) -> None:
    """See to it that the image itself is signed, where that is what its publisher signs. Raises Refused."""
    if source.signature_of != "image" or source.keyring is None or not source.signature:
        return
    signed = place / "signature"
    get(source.signature, signed)
    signature.verify(image, signed, source.keyring, source.fingerprints)


def find(text: str, file: str, algorithm: Algorithm, *, any_name: bool = False) -> str:
    """The checksum of `file` in a list as sha256sum, BSD's sha256 or a single line have it. Raises Invalid."""
    entries = [e for e in (_entry(line.strip(), algorithm) for line in text.splitlines()) if e]
    named = {digest for name, digest in entries if name.rpartition("/")[2] == file}
    if not named and (any_name or all(not name for name, _ in entries)):
        named = {digest for _, digest in entries}
    if len(named) == 1:
        return named.pop()
    what = f"no {algorithm} checksum" if not named else f"{len(named)} different {algorithm} checksums"
    raise Invalid(f"the publisher's list has {what} of {file}", hint=_HINT, field="checksum")


def _entry(line: str, algorithm: Algorithm) -> tuple[str, str] | None:
    """A name and its checksum; the name is empty where the line has none."""
    digits = _DIGITS[algorithm]
    if match := _BSD.fullmatch(line):
        right = match[1].lower() == algorithm and len(match[3]) == digits
        return (match[2], match[3].lower()) if right else None
    if match := _GNU.fullmatch(line):
        return (match[2], match[1].lower()) if len(match[1]) == digits else None
    return ("", line.lower()) if _BARE.fullmatch(line) and len(line) == digits else None


def _proved(source: Source, checksums: Path, place: Path, get: Get) -> str:
    """The list's text: only what is signed, where it is signed within."""
    if source.keyring is None or source.signature_of == "image":
        if source.required and source.keyring is None:
            raise Refused(f"{source.file} is not to be used: {_said(source)}", hint=_help(source))
        return _text(checksums)
    if source.inline:
        return signature.signed_text(checksums, source.keyring, source.fingerprints)
    signed = place / "signature"
    get(source.signature, signed)
    signature.verify(checksums, signed, source.keyring, source.fingerprints)
    return _text(checksums)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _said(source: Source) -> str:
    """What proves it, for people."""
    by_https = "checksum by https" if source.url.startswith("https://") else "checksum by plain http"
    if not source.publisher:
        return f"{by_https}; not signed by its publisher"
    if source.keyring is None:
        return f"{by_https}; signature not checked: there is no key ring {source.wanted_keyring}"
    return f"signed by {source.publisher}, checked with {source.keyring}"


def _help(source: Source) -> str:
    if source.package:
        return f"install Debian's package {source.package}, or put the keys of {source.publisher} there"
    if source.publisher:
        return f"put the keys of {source.publisher} there (docs/images.md says how)"
    return "`require_signatures` under `[images]` in paddock.toml forbids it"
