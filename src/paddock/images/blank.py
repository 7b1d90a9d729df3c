"""The image `blank`: an empty disk, which grows to the server's. What is to be on it, an ISO's installation writes."""

from pathlib import Path

from paddock.base.run import run
from paddock.images.progress import Say
from paddock.images.store import ImageStore
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import MIB


def build(store: ImageStore, work: Path, say: Say) -> ImageManifest:
    """Make and publish `blank`, with `work` for what is in between."""
    say(50, "making an empty disk")
    disk = work / "disk"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=1.1", disk, str(MIB)])
    return store.publish({Role.DISK: disk}, name="blank", description="An empty disk", disk_size=MIB)
