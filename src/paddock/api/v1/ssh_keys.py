"""SSH keys of a project."""

import base64
import binascii
import hashlib
from typing import Annotated

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from ninja import Router, Schema
from pydantic import AfterValidator, Field

from paddock.api.auth import project
from paddock.api.paging import Meta, get, invalid, page, uniqueness
from paddock.api.v1.common import Labels, Time
from paddock.cloud.models import SSHKey

router = Router(tags=["SSH keys"])
SORTABLE = {"id": "id", "name": "name"}
KINDS = ("ssh-ed25519", "ssh-rsa", "ssh-dss", "ecdsa-sha2-", "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-")


def check_public_key(text: str) -> str:
    """The key on one line. Raises ValueError saying what is wrong with it."""
    if "PRIVATE KEY" in text:
        raise ValueError("this is a private key; give the public one, which ends in .pub")
    if "\n" in text.strip() or "\r" in text.strip() or "\0" in text:
        raise ValueError("must be one key on one line")
    words = text.split()
    if len(words) < 2 or not words[0].startswith(KINDS):
        raise ValueError("must begin with a key type such as ssh-ed25519, then the key in base64")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("its second word is not base64; was it cut off?") from None
    length = int.from_bytes(blob[:4])
    if blob[4 : 4 + length] != words[0].encode() or len(blob) < 4 + length + 4 + 32:
        raise ValueError(f"its content is not a whole {words[0]} key; was it cut off?")
    return " ".join(words)


def fingerprint(public_key: str) -> str:
    """MD5 in colon-separated hex: the form that API clients compare."""
    digest = hashlib.md5(base64.b64decode(public_key.split()[1]), usedforsecurity=False).hexdigest()
    return ":".join(digest[i : i + 2] for i in range(0, 32, 2))


PublicKey = Annotated[str, Field(max_length=16384), AfterValidator(check_public_key)]
KeyName = Annotated[str, Field(min_length=1, max_length=200)]


class SSHKeyReply(Schema):
    """An SSH key."""

    id: int
    name: str
    fingerprint: str
    public_key: str
    labels: dict[str, str]
    created: Time


class OneSSHKey(Schema):
    ssh_key: SSHKeyReply


class ManySSHKeys(Schema):
    ssh_keys: list[SSHKeyReply]
    meta: Meta


class CreateSSHKey(Schema):
    name: KeyName
    public_key: PublicKey
    labels: Labels = {}


class ChangeSSHKey(Schema):
    name: KeyName | None = None
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


@router.get("/ssh_keys", response=ManySSHKeys)
def list_ssh_keys(request: HttpRequest) -> ManySSHKeys:
    """The project's SSH keys."""
    rows = SSHKey.objects.filter(project=project(request))
    if wanted := request.GET.get("fingerprint"):
        rows = rows.filter(fingerprint=wanted)
    found, meta = page(request, rows, SORTABLE)
    return ManySSHKeys(ssh_keys=[shown(k) for k in found], meta=meta)


@router.post("/ssh_keys", response={201: OneSSHKey})
def create_ssh_key(request: HttpRequest, body: CreateSSHKey) -> tuple[int, OneSSHKey]:
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
    return 201, OneSSHKey(ssh_key=shown(key))


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
    """The keys of those ids or names. Raises ApiError naming the first that is not there."""
    keys = SSHKey.objects.filter(project=project(request))
    return [_named(keys.filter(Q(name=str(w)) | Q(pk=_id(w))).order_by("id").first(), w) for w in wanted]


def _named(key: SSHKey | None, wanted: int | str) -> SSHKey:
    if key is None:
        raise invalid("ssh_keys", f"there is no SSH key '{wanted}'")
    return key


def _id(wanted: int | str) -> int:
    return int(wanted) if str(wanted).isdecimal() and int(wanted) < 2**53 else 0


def _key(request: HttpRequest, id: int) -> SSHKey:
    key: SSHKey = get(SSHKey.objects.filter(project=project(request)), "SSH key", id)
    return key
