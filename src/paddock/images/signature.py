"""Checks OpenPGP signatures with gpgv, which knows only the key ring that it is given and asks nobody.

What it says on its status channel decides, not its words for people. Keys that are expired or revoked do not count.
"""

import base64
import binascii
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from paddock.base.errors import CommandFailed, Refused
from paddock.base.run import Completed, run
from paddock.machine.spec import GIB, MIB

_TIMEOUT = 600  # seconds; a signature of a whole disk is read to its end
_MAX_TEXT = MIB  # bytes of a signed text
_GOOD, _VALID = "GOODSIG", "VALIDSIG"
_ARMOUR = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"


def verify(file: Path, signature: Path, keyring: Path, fingerprints: Sequence[str] = ()) -> str:
    """See to it that `signature` is one of `file` by a key of the ring; of these `fingerprints`, if any are given.

    Returns the fingerprint of the key (the primary one). Raises Refused, saying what is wrong.
    """
    with _binary(keyring) as ring:
        done = _gpgv(ring, [str(signature), str(file)])
    return _signer(done, file.name, fingerprints)


def signed_text(file: Path, keyring: Path, fingerprints: Sequence[str] = ()) -> str:
    """The text of a file that is signed within, without what stands around it. Raises Refused."""
    with tempfile.TemporaryDirectory(dir=file.parent) as directory, _binary(keyring) as ring:
        text = Path(directory) / "text"
        done = _gpgv(ring, ["--output", str(text), str(file)])
        _signer(done, file.name, fingerprints)
        return text.read_text(encoding="utf-8", errors="replace")


def _gpgv(keyring: Path, words: list[str]) -> Completed:
    limits = ["--cpu=300", f"--as={GIB}", f"--fsize={_MAX_TEXT}", "--nofile=64", "--core=0"]
    fence = ["setpriv", "--no-new-privs", "prlimit", *limits, "env", "LC_ALL=C"]
    try:
        return run(
            [*fence, "gpgv", "--status-fd", "1", "--keyring", str(keyring), *words], timeout=_TIMEOUT, check=False
        )
    except CommandFailed as e:
        raise Refused(f"the signature can't be checked: {e.message}") from e


def _signer(done: Completed, name: str, fingerprints: Sequence[str]) -> str:
    """Whose signature is good. Raises Refused: none is, or it is of another key."""
    said = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("[GNUPG:] ")]
    good = any(words[:1] == [_GOOD] for words in said)
    signers = [words[-1] for words in said if words[:1] == [_VALID] and len(words) > 1]
    if done.code or not good or not signers:
        lines = [line.removeprefix("gpgv:").strip() for line in done.stderr.splitlines()]
        why = "; ".join(filter(None, lines))[-500:] or f"gpgv ended with {done.code}"
        raise Refused(f"the signature of {name} is not good: {why}", hint="do not use it; is the key ring up to date?")
    for signer in signers:
        if not fingerprints or signer in fingerprints:
            return signer
    raise Refused(
        f"{name} is signed by {', '.join(signers)}, not by {' or '.join(fingerprints)}",
        hint="if its publisher has a new key, the catalogue must name it",
    )


@contextmanager
def _binary(keyring: Path) -> Iterator[Path]:
    """The key ring as gpgv reads it: keys in armour are taken out of it."""
    try:
        content = keyring.read_bytes()
    except OSError as e:
        raise Refused(f"the key ring {keyring} can't be read: {e.strerror}") from e
    if not content.lstrip().startswith(_ARMOUR):
        yield keyring.absolute()
        return
    with tempfile.NamedTemporaryFile(prefix="paddock-keys-") as file:
        file.write(_without_armour(content, keyring))
        file.flush()
        yield Path(file.name)


def _without_armour(content: bytes, keyring: Path) -> bytes:
    """RFC 9580, 6.2: blocks of base64 after a blank line, before a checksum that begins with `=`."""
    keys = b""
    for block in content.split(_ARMOUR)[1:]:
        body = block.partition(b"-----END")[0].replace(b"\r", b"").partition(b"\n\n")[2]
        lines = [line for line in body.splitlines() if line and not line.startswith(b"=")]
        try:
            keys += base64.b64decode(b"".join(lines), validate=True)
        except binascii.Error as e:
            raise Refused(f"the key ring {keyring} is damaged: {e}") from e
    return keys
