"""The catalogue: every image that this cloud knows, whether it is here already, and why some are refused."""

from datetime import date

from django.conf import settings
from django.http import HttpRequest
from ninja import Router

from paddock.api.v1.common import Reply, Time
from paddock.cloud.models import Image
from paddock.images.catalogue import Catalogue, Entry

router = Router(tags=["x: catalogue"])


class EntryReply(Reply):
    """An image of the catalogue. `state` is that of the image here: absent until it is first used, or refused.

    `version` is what was fetched, `newer` what its publisher had when it was last asked, `verified` what proves it.
    `signature_checked`: whether the signature of its publisher would be, for which there must be a key ring here;
    `keys_in` is the package of Debian that has one, where that is known. Both are null for what nobody signs.
    """

    name: str
    description: str
    os_flavor: str
    os_version: str
    state: str
    refused: str | None
    id: int | None
    comes_from: str
    checksum_from: str | None
    signed_by: str | None
    signature_checked: bool | None
    keys_in: str | None
    default_user: str
    firmware: list[str]
    cloud_init: bool
    guest_agent: bool | None  # null: not known
    grows: bool
    ended: date | None
    note: str | None
    version: str | None = None
    newer: str | None = None
    verified: str | None = None
    fetched: Time | None = None
    looked: Time | None = None
    problem: str | None = None


class WholeCatalogue(Reply):
    catalogue: list[EntryReply]


def shown(entry: Entry, image: Image | None, known: Catalogue) -> EntryReply:
    """An entry, and what there is of it here."""
    return EntryReply(
        name=entry.name,
        description=entry.title,
        os_flavor=entry.system,
        os_version=entry.version,
        state="refused" if entry.refused else image.state if image else "absent",
        refused=entry.refused or None,
        id=image.pk if image else None,
        comes_from="built here" if entry.built else entry.url,
        checksum_from=f"{entry.folder}/{entry.checksums}" if entry.url else None,
        **_proved(entry, known),
        default_user=entry.user,
        firmware=list(entry.firmware),
        cloud_init=entry.cloud_init,
        guest_agent=entry.guest_agent,
        grows=entry.grows,
        ended=entry.ended,
        note=entry.note or None,
        **(_of(image) if image else {}),
    )


def _proved(entry: Entry, known: Catalogue) -> dict[str, object]:
    if not entry.publisher:
        return {"signed_by": None, "signature_checked": None, "keys_in": None}
    return {
        "signed_by": entry.publisher,
        "signature_checked": known.keyring(entry, settings.STATE.keys) is not None,
        "keys_in": known.publisher[entry.publisher].package or None,
    }


def _of(image: Image) -> dict[str, object]:
    return {
        "version": image.version or None,
        "newer": image.newer or None,
        "verified": image.verified or None,
        "fetched": image.fetched_at,
        "looked": image.looked_at,
        "problem": image.problem or None,
    }


@router.get("/catalogue", response=WholeCatalogue)
def show_catalogue(request: HttpRequest) -> WholeCatalogue:
    """Every image that can be had, and those of old releases that can not, with the reason."""
    known: Catalogue = settings.CATALOGUE
    here = {image.name: image for image in Image.objects.filter(catalogue=True, deleted=None)}
    listed = [entry for entry in known.image if entry.type == "system"]
    return WholeCatalogue(catalogue=[shown(entry, here.get(entry.name), known) for entry in listed])
