"""SSH keys of a project."""

import base64
import binascii
import hashlib
from typing import Annotated

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from ninja import Router, Status
from pydantic import AfterValidator, Field

from paddock.api.auth import project
from paddock.api.errors import invalid, uniqueness
from paddock.api.paging import Meta, as_id, described, get, page, query
from paddock.api.v1.common import Body, Labels, Reply, Time, Title
from paddock.cloud.models import SSHKey

router = Router(tags=["SSH keys"])
SORTABLE = {"id": "id", "name": "name"}
PARTS = {  # how many length-prefixed parts the base64 of a key type holds, its name among them
    "ssh-ed25519": 2,
    "ssh-rsa": 3,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "sk-ssh-ed25519@openssh.com": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}


def check_public_key(text: str) -> str:
    """The key on one line. Raises ValueError saying what is wrong with it."""
    if "PRIVATE KEY" in text:
        raise ValueError("this is a private key; give the public one, which is in the file that ends in .pub")
    if not text.strip().replace("\t", " ").isprintable():
        raise ValueError("must be one key on one line")
    words = text.split()
    if len(words) < 2 or words[0] not in PARTS:
        raise ValueError(f"must begin with a key type ({', '.join(PARTS)}), then the key in base64")
    try:
        parts = _parts(base64.b64decode(words[1], validate=True))
    except (binascii.Error, ValueError):
        raise ValueError("its second word is not whole base64; was it cut off?") from None
    if parts[0] != words[0].encode() or len(parts) != PARTS[words[0]]:
        raise ValueError(f"its content is not a whole {words[0]} key; was it cut off?")
    return " ".join(words)


def _parts(blob: bytes) -> list[bytes]:
    """The length-prefixed strings that a key is made of (RFC 4253, 6.6). Raises ValueError when one is cut off."""
    parts, at = [], 0
    while at < len(blob):
        end = at + 4 + int.from_bytes(blob[at : at + 4])
        if end > len(blob):
            raise ValueError("cut off")
        parts.append(blob[at + 4 : end])
        at = end
    return parts or [b""]


def fingerprint(public_key: str) -> str:
    """MD5 in colon-separated hex: the form that API clients compare."""
    digest = hashlib.md5(base64.b64decode(public_key.split()[1]), usedforsecurity=False).hexdigest()
    return ":".join(digest[i : i + 2] for i in range(0, 32, 2))


PublicKey = Annotated[str, Field(max_length=16384), AfterValidator(check_public_key)]


class SSHKeyReply(Reply):
    """An SSH key."""

    id: int
    name: str
    fingerprint: str
    public_key: str
    labels: dict[str, str]
    created: Time


class OneSSHKey(Reply):
    ssh_key: SSHKeyReply


class ManySSHKeys(Reply):
    ssh_keys: list[SSHKeyReply]
    meta: Meta


class CreateSSHKey(Body):
    name: Title
    public_key: PublicKey
    labels: Labels = {}


class ChangeSSHKey(Body):
    name: Title | None = None
    labels: Labels | None = None


def shown(key: SSHKey) -> SSHKeyReply:
    """A key as it goes out."""
    return SSHKeyReply(
        id=key.pk,
        name=key.name,
        fingerprint=key.fingerprint,
        public_key=key.public_key,
        labels=key.labels,
        created=key.created,
    )


QUERY = described(SORTABLE, "name", "label_selector", "fingerprint")


@router.get("/ssh_keys", response=ManySSHKeys, openapi_extra=QUERY)
def list_ssh_keys(request: HttpRequest) -> ManySSHKeys:
    """The project's SSH keys."""
    rows = SSHKey.objects.filter(project=project(request))
    if wanted := query(request, "fingerprint"):
        rows = rows.filter(fingerprint=wanted)
    found, meta = page(request, rows, SORTABLE)
    return ManySSHKeys(ssh_keys=[shown(k) for k in found], meta=meta)


@router.post("/ssh_keys", response={201: OneSSHKey})
def create_ssh_key(request: HttpRequest, body: CreateSSHKey) -> Status[OneSSHKey]:
    """Add a public key."""
    mark = fingerprint(body.public_key)
    key = SSHKey(
        project=project(request), name=body.name, public_key=body.public_key, labels=body.labels, fingerprint=mark
    )
    try:
        with transaction.atomic():
            key.save()
    except IntegrityError as e:
        raise uniqueness("fingerprint" if "fingerprint" in str(e) else "name") from e
    key.refresh_from_db()
    return Status(201, OneSSHKey(ssh_key=shown(key)))


@router.get("/ssh_keys/{int:id}", response=OneSSHKey)
def show_ssh_key(request: HttpRequest, id: int) -> OneSSHKey:
    """One SSH key."""
    return OneSSHKey(ssh_key=shown(_key(request, id)))


@router.put("/ssh_keys/{int:id}", response=OneSSHKey)
def change_ssh_key(request: HttpRequest, id: int, body: ChangeSSHKey) -> OneSSHKey:
    """Rename or relabel a key."""
    key = _key(request, id)
    key.name, key.labels = body.name or key.name, key.labels if body.labels is None else body.labels
    try:
        with transaction.atomic():
            key.save()
    except IntegrityError as e:
        raise uniqueness("name") from e
    return OneSSHKey(ssh_key=shown(key))


@router.delete("/ssh_keys/{int:id}", response={204: None})
def delete_ssh_key(request: HttpRequest, id: int) -> HttpResponse:
    """Remove a key. Servers keep it."""
    _key(request, id).delete()
    return HttpResponse(status=204)


def by_names(request: HttpRequest, wanted: list[int | str]) -> list[SSHKey]:
    """The keys of those ids or names, each once; an id wins. Raises ApiError naming the first that is not there."""
    ids = [number for w in wanted if (number := as_id(w))]
    keys = SSHKey.objects.filter(Q(name__in=[str(w) for w in wanted]) | Q(pk__in=ids), project=project(request))
    known = {key.name: key for key in keys} | {key.pk: key for key in keys}
    found = []
    for one in wanted:
        key = known.get(as_id(one) or 0) or known.get(str(one))
        if key is None:
            raise invalid("ssh_keys", f"there is no SSH key '{one}'")
        found.append(key)
    return list(dict.fromkeys(found))


def _key(request: HttpRequest, id: int) -> SSHKey:
    key: SSHKey = get(SSHKey.objects.filter(project=project(request)), "SSH key", id)
    return key
