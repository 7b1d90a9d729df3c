"""CPUs and memory added to a running QEMU, and brought online in its guest by its guest agent.

What there is already, QEMU says; so each of these may be done again after a crash between any two commands.
"""

import contextlib
from collections.abc import Callable
from typing import Any

from paddock.base import clock
from paddock.base.errors import Refused, Unavailable
from paddock.hypervisor.qemu.live import Live
from paddock.machine.spec import MIB, Machine

BLOCK_MIB = 128  # Linux takes memory in blocks of this size
GUEST_WAIT = 6.0  # seconds that a guest has to see what was plugged in, and to switch it on
_RETRY = 0.05
_PLUGGED = "/machine/peripheral/"  # where QEMU has what was added after its start
_BACKEND = "ram"


def bring_cpus(live: Live, machine: Machine) -> tuple[str, ...]:
    """Add the CPUs that are missing. Returns what has to wait for a start."""
    there, free = _cpus(live)
    for cpu in free[: max(0, machine.cpus - len(there))]:
        props = cpu["props"]
        name = "cpu-" + "-".join(str(props[key]) for key in sorted(props))
        live.execute("device_add", {"driver": cpu["type"], "id": name, **props})
    there, _ = _cpus(live)
    added = any(cpu["qom-path"].startswith(_PLUGGED) for cpu in there)
    waiting = _online_cpus(live, len(there)) if added else ()
    if len(there) != machine.cpus:
        return (f"it has {len(there)} CPUs, and {machine.cpus} from its next start on", *waiting)
    return waiting


def bring_memory(live: Live, machine: Machine) -> tuple[str, ...]:
    """Add the memory that is missing, in whole blocks. Returns what has to wait for a start."""
    _drop_unused_backends(live)
    have = sum(_memory(live))
    blocks = max(0, machine.memory_mib - have) // BLOCK_MIB
    refused = _add_memory(live, blocks * BLOCK_MIB) if blocks else ""
    base, plugged = _memory(live)
    waiting = _online_memory(live, base + plugged) if plugged else ()
    if base + plugged == machine.memory_mib:
        return waiting
    why = f" ({refused})" if refused else ""
    return (f"it has {base + plugged} MiB of memory, and {machine.memory_mib} from its next start on{why}", *waiting)


def was_grown(live: Live) -> bool:
    """Whether it has CPUs or memory that it was not started with."""
    there, _ = _cpus(live)
    return any(cpu["qom-path"].startswith(_PLUGGED) for cpu in there) or bool(_memory(live)[1])


def _cpus(live: Live) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Those that are there, and the places that are free, in their order."""
    places = sorted(live.execute("query-hotpluggable-cpus"), key=lambda c: sorted(c["props"].items()))
    return [c for c in places if "qom-path" in c], [c for c in places if "qom-path" not in c]


def _memory(live: Live) -> tuple[int, int]:
    """MiB from its start on, and added later."""
    summary = live.execute("query-memory-size-summary")
    return summary["base-memory"] // MIB, summary.get("plugged-memory", 0) // MIB


def _add_memory(live: Live, mib: int) -> str:
    """Returns why QEMU has no place for it. Raises Refused when the host has not so much."""
    taken = {d["data"].get("memdev", "").rpartition("/")[2] for d in live.execute("query-memory-devices")}
    number = next(n for n in range(len(taken) + 1) if f"{_BACKEND}{n}" not in taken)
    backend = f"{_BACKEND}{number}"
    live.execute("object-add", {"qom-type": "memory-backend-ram", "id": backend, "size": mib * MIB})
    try:
        live.execute("device_add", {"driver": "pc-dimm", "id": f"dimm{number}", "memdev": backend})
    except Refused as e:
        live.execute("object-del", {"id": backend})
        return e.message
    return ""


def _drop_unused_backends(live: Live) -> None:
    """Memory of a crash of ours between its two commands: the guest does not have it yet."""
    used = {d["data"].get("memdev", "").rpartition("/")[2] for d in live.execute("query-memory-devices")}
    for backend in live.execute("query-memdev"):
        name = backend.get("id", "")
        if name.startswith(_BACKEND) and name not in used:
            live.execute("object-del", {"id": name})


def _online_cpus(live: Live, count: int) -> tuple[str, ...]:
    """The guest's kernel sees a new CPU; somebody in the guest has to switch it on."""

    def switch(timeout: float) -> bool:
        cpus = live.agent.call("guest-get-vcpus", timeout=timeout)
        off = [{"logical-id": c["logical-id"], "online": True} for c in cpus if not c["online"]]
        if off:
            live.agent.call("guest-set-vcpus", {"vcpus": off}, timeout)
        return len(cpus) >= count and not off

    return () if _by_agent(live, switch) else (f"its guest has not switched on all of its {count} CPUs yet",)


def _online_memory(live: Live, mib: int) -> tuple[str, ...]:
    def switch(timeout: float) -> bool:
        size = int(live.agent.call("guest-get-memory-block-info", timeout=timeout)["size"])
        blocks = live.agent.call("guest-get-memory-blocks", timeout=timeout)
        off = [{"phys-index": b["phys-index"], "online": True} for b in blocks if not b["online"]]
        if off:
            live.agent.call("guest-set-memory-blocks", {"mem-blks": off}, timeout)
        return len(blocks) * size >= mib * MIB and not off

    return () if _by_agent(live, switch) else (f"its guest has not taken all of its {mib} MiB of memory yet",)


def _by_agent(live: Live, switch: Callable[[float], bool]) -> bool:
    """Ask until the guest has all. Without a guest agent, or with strange answers of one, it may have: nobody knows."""
    if not live.agent_open():
        return False
    deadline = clock.monotonic() + GUEST_WAIT
    with contextlib.suppress(Unavailable, Refused, KeyError, TypeError, ValueError):
        while (left := deadline - clock.monotonic()) > 0:
            if switch(left):
                return True
            clock.sleep(_RETRY)
    return False
