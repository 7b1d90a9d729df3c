"""Machines and images for the tests of the QEMU driver."""

import hashlib
import socket
from pathlib import Path
from uuid import UUID, uuid4

from paddock.base import clock, run
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.machine.image import ImageFile, ImageManifest, Role
from paddock.machine.spec import MIB, Disk, Machine, Seed, UserNetwork
from paddock.machine.state import Progress

UUID_1 = UUID("11111111-2222-4333-8444-555555555555")
DISK_SIZE = 16 * MIB


def make_machine(image: ImageManifest, port: int = 2200, uuid: UUID | None = None) -> Machine:
    """A small machine over that image."""
    uuid = uuid or uuid4()
    return Machine(
        uuid=uuid,
        name="web-1",
        cpus=2,
        memory_mib=64,
        image=image.sha256,
        system_disk=Disk(size=image.disk_size, image=image.sha256),
        network=UserNetwork(mac="52:54:00:12:34:56", ssh_port=port),
        seed=Seed(instance_id=str(uuid), hostname="web-1"),
    )


def make_image(source: Path) -> ImageManifest:
    """A real qcow2 image without a system in it, in `source`."""
    source.mkdir(exist_ok=True)
    run.run(["qemu-img", "create", "-q", "-f", "qcow2", source / "disk", str(DISK_SIZE)])
    return ImageManifest(name="empty", disk_size=DISK_SIZE, files=(described(source, Role.DISK),))


def described(source: Path, role: Role) -> ImageFile:
    data = (source / role).read_bytes()
    return ImageFile(role=role, sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def bring(host: QemuHypervisor, image: ImageManifest, source: Path) -> Progress:
    """Ask for an image until it is there or failed."""
    deadline = clock.monotonic() + 30
    while True:
        progress = host.disks.ensure_image(image, str(source))
        if progress.done or progress.error or clock.monotonic() > deadline:
            return progress
        clock.sleep(0.01)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
