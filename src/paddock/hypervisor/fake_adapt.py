"""What a running fake guest takes of a new definition at once, and what waits for its next start, as with QEMU."""

from collections.abc import Iterator

from paddock.machine.spec import Machine

_LATER = {
    "name": "its name changes with the next start",
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


ROOM_FROM_MIB = 256  # a machine that started with less has no room for more memory
BLOCK_MIB = 128  # in which memory is added


def brought(started: Machine, has: Machine, wanted: Machine) -> Machine:
    """What a guest that was started as `started` and has `has` by now can be brought to of `wanted`."""
    return has.model_copy(
        update={
            "volumes": wanted.volumes,
            "iso_first": wanted.iso_first,
            "iso": wanted.iso if _has_drive(started) else has.iso,
            "cpus": _cpus(started, has.cpus, wanted.cpus),
            "memory_mib": _memory(started, has.memory_mib, wanted.memory_mib),
        }
    )


def pending(started: Machine, has: Machine, wanted: Machine, agent: bool) -> Iterator[str]:
    """A sentence for each thing that the guest goes without. `agent`: its guest agent answers."""
    if has.iso != wanted.iso:
        yield "the ISO needs a new start: this machine was started without a CD drive"
    if has.cpus != wanted.cpus:
        yield f"it has {has.cpus} CPUs, and {wanted.cpus} from its next start on"
    if has.cpus > started.cpus and not agent:
        yield f"its guest has not switched on all of its {has.cpus} CPUs yet"
    if has.memory_mib != wanted.memory_mib:
        yield f"it has {has.memory_mib} MiB of memory, and {wanted.memory_mib} from its next start on"
    if has.memory_mib > started.memory_mib and not agent:
        yield f"its guest has not taken all of its {has.memory_mib} MiB of memory yet"
    for field, sentence in _LATER.items():
        if getattr(has, field) != getattr(wanted, field):
            yield sentence
    if bool(has.rescue) != bool(wanted.rescue):
        yield "the rescue system is booted at the next start" if wanted.rescue else "it is in its rescue system still"


def _cpus(started: Machine, has: int, wanted: int) -> int:
    most = started.max_cpus if started.layout == 2 and not started.dedicated_cpus else 0
    return max(has, min(wanted, most))


def _memory(started: Machine, has: int, wanted: int) -> int:
    """Whole blocks of what is missing, or nothing where there is no place for all of them."""
    has_room = started.layout == 2 and started.memory_mib >= ROOM_FROM_MIB and not started.huge_pages
    most = started.max_memory_mib if has_room else 0
    more = has + max(0, wanted - has) // BLOCK_MIB * BLOCK_MIB
    return more if more <= most else has


def _has_drive(started: Machine) -> bool:
    return started.layout == 2 or started.iso is not None
