"""What an image's life works on: the files that it is made of, what it is told of them, and its content in the store.

Uploads lie in the state directory by the number of their row: image-17, with a kernel of its own image-17-kernel and
image-17-initrd beside it.
"""

from pathlib import Path
from typing import Any

from django.conf import settings

from paddock.cloud.flows import actions, origin
from paddock.cloud.models import Image, Server
from paddock.images import fetch
from paddock.images.kernel import Boot
from paddock.images.store import ImageStore
from paddock.machine.image import Role
from paddock.machine.spec import GIB

IMAGE = "image"  # the kind of its flow


def upload_of(image: Image) -> Path:
    """The file that it is made of, as it was uploaded, fetched or copied."""
    return settings.STATE.uploads / f"image-{image.pk}"


def fetch_job(image: Image) -> Path:
    """The directory of its download."""
    return settings.STATE.uploads / f"fetch-{image.pk}"


def look_job(image: Image) -> Path:
    """The directory of a look at what its publisher has."""
    return settings.STATE.uploads / f"look-{image.pk}"


def manifest_name(image: Image) -> str:
    """Its name in the store. Snapshots have none of their own."""
    return image.name or f"{image.type}-{image.pk}"


def boot_file(image: Image, role: Role) -> Path:
    """The kernel or initrd that was sent for it, once that is whole; what its server's UEFI remembered."""
    return settings.STATE.uploads / f"image-{image.pk}-{role.value}"


def boot_of(image: Image) -> Boot | None:
    """The kernel of its own that was announced with it, or what its server's UEFI remembered."""
    if image.announced is None:
        variables = boot_file(image, Role.VARIABLES)
        return Boot({Role.VARIABLES: variables}) if image.uuid and variables.exists() else None
    files = {role: boot_file(image, role) for role in image.announced.files}
    return Boot(files, image.announced.cmdline, image.announced.files)


def fetch_request(image: Image) -> fetch.Request:
    """What its fetcher is told."""
    allowed = settings.PADDOCK.images
    asked = actions.running(IMAGE, image.pk).filter(pk=image.action_id or 0).first()
    return fetch.Request(
        url=image.url,
        target=upload_of(image),
        sha256=image.expected_sha256,
        anywhere=allowed.allow_private_addresses or bool(asked and asked.arguments.get("anywhere")),
        trust=settings.STATE.root / allowed.ca_file if allowed.ca_file else None,
        max_size=allowed.max_gib * GIB,
    )


def promised(image: Image) -> str:
    """The sha256 that the file must have; a fetched one was looked at before it was unpacked."""
    return "" if image.url else image.expected_sha256


def about_of(image: Image) -> dict[str, Any]:
    """What its manifest says of it besides its files."""
    about: dict[str, Any] = {
        "description": image.description,
        "os_flavor": image.os_flavor,
        "os_version": image.os_version,
    }
    if image.type == "iso":
        return about
    if entry := origin.entry_of(image):
        only = {"firmware": entry.firmware[0]} if len(entry.firmware) == 1 else {}  # else its disk says it
        facts = {"guest_agent": bool(entry.guest_agent), **only}
        return about | {"default_user": image.default_user, "cloud_init": image.cloud_init, **facts}
    server = its_server(image)
    has_agent = bool(server and server.image.manifest.get("guest_agent"))
    if image.firmware:
        about["firmware"] = image.firmware
    return about | {"default_user": image.default_user, "cloud_init": image.cloud_init, "guest_agent": has_agent}


def its_server(image: Image) -> Server | None:
    """The server that a snapshot is of, if that is still there."""
    if image.uuid is None or image.created_from_id is None:
        return None
    return Server.objects.filter(pk=image.created_from_id).select_related("node", "image").first()


def remove_files(image: Image) -> bool:
    """Remove what it was made of, and end its download. False: that has not ended yet."""
    ended = fetch.cancel(fetch_job(image)) and fetch.cancel(look_job(image))
    if ended:
        for path in (upload_of(image), *settings.STATE.uploads.glob(f"image-{image.pk}-*")):
            path.unlink(missing_ok=True)
    return ended


def remove_content(image: Image) -> None:
    """Remove it from the store, unless another row has the same content."""
    store = ImageStore(settings.STATE.images)
    others = Image.objects.exclude(pk=image.pk)
    for sha256 in [image.sha256] if image.sha256 else _strays(image, store):
        if not others.filter(sha256=sha256).exists():
            store.remove(sha256)


def _strays(image: Image, store: ImageStore) -> list[str]:
    """What a worker that died may have put into the store before it could write that down."""
    name = manifest_name(image)
    if Image.objects.filter(name=name, state="building").exclude(pk=image.pk).exists():
        return []  # another project's of that name is just being made
    return [m.sha256 for m in store.list() if m.name == name]
