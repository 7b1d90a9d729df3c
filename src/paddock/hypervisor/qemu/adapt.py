"""A running machine brought to its definition as far as that goes without a new start; and what has to wait for one."""

from paddock.hypervisor.qemu import capacity, media
from paddock.hypervisor.qemu.live import Live
from paddock.hypervisor.qemu.record import Given
from paddock.machine.spec import Machine
from paddock.machine.state import Adapted

_LATER = {
    "name": "its name in QEMU changes with the next start",
    "image": "it boots another image from its next start on",
    "machine_type": "the machine type changes with the next start",
    "layout": "its layout changes with the next start",
    "max_cpus": "how many CPUs can be added changes with the next start",
    "max_memory_mib": "how much memory can be added changes with the next start",
    "firmware": "it boots by another firmware from its next start on",
    "network": "its network changes with the next start",
    "kernel_args": "its kernel gets other arguments at the next start",
    "nested": "whether it may run virtual machines itself changes with the next start",
    "dedicated_cpus": "whether its CPUs are its alone changes with the next start",
    "huge_pages": "whether its memory is in huge pages changes with the next start",
    "seed": "its guest is told new data for cloud-init at the next start",
}


def adapt(live: Live, machine: Machine, given: Given | None) -> Adapted:
    """Raises Conflict when another machine has a volume, Unavailable when QEMU or its storage is too slow, Refused."""
    media.bring_volumes(live, machine.volumes)
    return Adapted(
        pending=(
            *media.bring_iso(live, machine),
            *capacity.bring_cpus(live, machine),
            *capacity.bring_memory(live, machine),
            *(later(given, machine) if given else ()),
        )
    )


def later(given: Given, machine: Machine) -> tuple[str, ...]:
    """What a start would make different that no QEMU can change while it runs."""
    wanted = Given.of(machine)
    changed = tuple(said for field, said in _LATER.items() if getattr(given, field) != getattr(wanted, field))
    if given.rescue == wanted.rescue:
        return changed
    rescue = "the rescue system is booted at the next start" if wanted.rescue else "it is in its rescue system still"
    return (*changed, rescue)
