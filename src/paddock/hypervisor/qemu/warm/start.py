"""Starting a machine from a warm image: its memory is the image's until it is written to, and it is given an identity
of its own before it can be reached. Whatever fails on the way, the machine boots instead."""

import logging
from datetime import datetime
from uuid import uuid4

from paddock.base import clock
from paddock.hypervisor.qemu import cmdline, media
from paddock.hypervisor.qemu.cmdline import Binary
from paddock.hypervisor.qemu.live import Live
from paddock.hypervisor.qemu.warm import guest, host_key
from paddock.hypervisor.qemu.warm.ways import way_of
from paddock.machine.image import ImageManifest
from paddock.machine.spec import Machine, Seed, UserNetwork
from paddock.machine.state import Accelerator

TELL_WAIT = 20.0  # seconds until the guest has taken its identity's first part

log = logging.getLogger(__name__)


def words(machine: Machine, manifest: ImageManifest, binary: Binary, accelerator: Accelerator, id: str) -> list[str]:
    """What to start QEMU with: without what its guest has not seen yet."""
    bare = machine.model_copy(update={"volumes": (), "iso": None})
    line = cmdline.command_line(bare, manifest, binary, accelerator, paused=True, warm=way_of(binary).heir(id))
    return [*line, "-incoming", "defer"]


def nobody(machine: Machine, name: str) -> Machine:
    """A machine like this one that belongs to nobody."""
    return machine.model_copy(update={
        "uuid": uuid4(), "name": name, "volumes": (), "iso": None,
        "network": UserNetwork(mac="52:54:00:00:00:01", ssh_port=1), "seed": Seed(instance_id=name, hostname=name),
    })  # fmt: skip


def wake(live: Live, machine: Machine, manifest: ImageManifest) -> datetime:
    """Let it go on: first with new randomness, then with a network card, and with what else it has. Says when its guest
    agent answered. Raises Refused, Unavailable."""
    begun = clock.monotonic()
    live.execute("cont")
    answered = guest.tell(live.agent, lambda: _identity(machine, manifest), TELL_WAIT)
    plug_card(live, machine.network)
    media.bring_volumes(live, machine.volumes)
    media.bring_iso(live, machine)
    log.info("machine %s took its identity in %.0f ms", machine.uuid, (clock.monotonic() - begun) * 1000)
    return answered


def _identity(machine: Machine, manifest: ImageManifest) -> str:
    """Small systems of ours have Dropbear, all others OpenSSH."""
    keys = host_key.openssh(machine.seed.hostname) if manifest.cloud_init else host_key.dropbear()
    return guest.identity(machine, manifest.default_user, keys)


def plug_card(live: Live, network: UserNetwork) -> None:
    """Its network card, on a port that the guest watches."""
    forwarded = [{"str": cmdline.forwarded(network)}]
    live.execute("netdev_add", {"type": "user", "id": "net0", "hostfwd": forwarded})
    card = {"driver": "virtio-net-pci", "id": "net0", "netdev": "net0", "mac": network.mac.lower(), "romfile": ""}
    live.execute("device_add", {**card, "bus": cmdline.WARM_PORT})
