"""The SSH key of the person at the keyboard: theirs if they have one, else one that we make.

It is registered once per cloud.
"""

import fcntl
import getpass
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from paddock.base.errors import Conflict, Invalid
from paddock.base.run import run
from paddock.cli import lookup
from paddock.cli.client import Api, Json
from paddock.cli.session import config_dir

THEIRS = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")
MADE = "id_ed25519"


def chosen(api: Api, refs: Sequence[str]) -> list[int]:
    """The ids of the keys meant by `--ssh-key`: names, ids or public key files; without any, this user's own."""
    if not refs:
        return [int(register(api, own_public_key())["id"])]
    return [int(_chosen(api, ref)["id"]) for ref in refs]


def own_public_key() -> str:
    """The text of this user's public key; made now if there is none."""
    for name in THEIRS:
        path = Path.home() / ".ssh" / name
        if path.is_file():
            return read(path)
    return read(made_key(create=True).with_suffix(".pub"))


def made_key(*, create: bool = False) -> Path:
    """Where the private key is that we make for those who have none."""
    path = config_dir() / MADE
    if create:
        with _alone():
            if not path.with_suffix(".pub").exists():
                path.unlink(missing_ok=True)
                run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", _who(), "-f", path])
    return path


def known_keys() -> list[Path]:
    """The private keys to offer besides those that ssh finds itself; empty when we made none."""
    path = made_key()
    if not path.exists():
        return []
    theirs = [Path.home() / ".ssh" / name.removesuffix(".pub") for name in THEIRS]
    return [p for p in theirs if p.is_file()] + [path]


def register(api: Api, public_key: str) -> Json:
    """The key as the cloud knows it, uploaded as `<user>@<host>` if it did not."""
    name = _who()
    for attempt in range(2, 12):
        keys = api.list("/v1/ssh_keys")
        for key in keys:
            if _material(str(key["public_key"])) == _material(public_key):
                return key
        try:
            uploaded: Json = api.post("/v1/ssh_keys", {"name": name, "public_key": public_key})["ssh_key"]
        except Conflict:
            name = f"{_who()}-{attempt}"
        else:
            return uploaded
    raise Conflict(f"the names {_who()} to {name} are taken by other keys", hint="`paddock ssh-key list` shows them")


def read(path: Path) -> str:
    """A public key file's one line. Raises Invalid naming the file."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise Invalid(f"the public key {path} can't be read: {e}", field="public_key") from e
    if "PRIVATE KEY" in text:
        raise Invalid(f"{path} is a private key: give the file that ends in .pub", field="public_key")
    return text


def _chosen(api: Api, ref: str) -> Json:
    path = Path(ref).expanduser()
    if ref.endswith(".pub") or path.is_file():
        return register(api, read(path))
    return lookup.find(api, "ssh_keys", ref)


def _material(public_key: str) -> tuple[str, ...]:
    return tuple(public_key.split()[:2])


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname().split('.')[0]}"


@contextmanager
def _alone() -> Iterator[None]:
    """Two launches at once make one key."""
    fd = os.open(config_dir() / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
