"""What is kept for a while and then forgotten: answers to repeated writes, console addresses, uploads given up."""

import logging
import re
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.db.models.functions import Now

from paddock.base import clock
from paddock.cloud.models import ConsoleSession, IdempotencyKey, Image

log = logging.getLogger(__name__)

KEYS_KEPT = timedelta(days=1)
UPLOADS_KEPT = 24 * 3600.0  # seconds since something last came of it
UPLOAD = re.compile(r"image-(\d{1,16})(-(kernel|initrd|efivars)(\.part)?)?")


def tidy() -> None:
    """Forget what is too old."""
    IdempotencyKey.objects.filter(created__lt=Now() - KEYS_KEPT).delete()
    ConsoleSession.objects.filter(expires__lt=Now()).delete()
    for path in settings.STATE.uploads.glob("image-*"):
        if _given_up(path):
            log.info("%s: nothing came of this upload for a day, or its image is gone; removed", path.name)
            path.unlink(missing_ok=True)


def _given_up(path: Path) -> bool:
    """Whether it is an upload that nobody goes on with, and that no flow reads or writes. A kernel is kept as long as
    something of its disk comes."""
    name = UPLOAD.fullmatch(path.name)
    if name is None:
        return False
    try:
        disk = path.with_name(f"image-{name[1]}")
        last = max(p.stat().st_mtime for p in (path, disk) if p == path or p.exists())
    except FileNotFoundError:
        return False
    idle = clock.now().timestamp() - last
    return idle > UPLOADS_KEPT and not Image.objects.filter(pk=int(name[1]), state="building").exists()
