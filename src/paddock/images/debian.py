"""The image `debian-12`: made by mmdebstrap."""

from pathlib import Path

from paddock.base.errors import Refused
from paddock.images.progress import Say
from paddock.images.store import ImageStore
from paddock.machine.image import ImageManifest


def build(store: ImageStore, work: Path, say: Say) -> ImageManifest:
    """Build and publish `debian-12`, with `work` for what is in between."""
    raise Refused("soon")
