"""The images that every cloud has from its first minute: built here from Debian's packages at first use."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """What is known of an image before it is built."""

    name: str
    description: str
    os_flavor: str
    os_version: str
    default_user: str
    cloud_init: bool
    type: str = "system"  # `rescue`: nobody's to choose, but booted where a server is to be rescued


CATALOGUE = (
    Entry("debian-12", "Debian 12 with cloud-init", "debian", "12", "root", True),
    Entry(
        "tiny", "A minimal Linux for trying things out: busybox, dropbear, a guest agent", "unknown", "1", "root", False
    ),
    Entry("rescue", "A system in memory to repair a server's disks with", "debian", "12", "root", False, type="rescue"),
)
