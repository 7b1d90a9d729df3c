"""One machine in memory: its definition, its last run, and what we hold of its QEMU; and its state in words."""

import threading
from dataclasses import dataclass, field
from uuid import UUID

from paddock.base import clock
from paddock.hypervisor.qemu import process, start
from paddock.hypervisor.qemu.layout import MachineDir
from paddock.hypervisor.qemu.live import Live
from paddock.hypervisor.qemu.record import Run, Spec
from paddock.machine.state import MachineState, Phase
from paddock.machine.warm import Start


@dataclass
class Slot:
    """One machine. `run` and `live` change under the driver's condition, all else under `lock`; `saving` is held while
    the record of a run is changed and written, so that the file never falls behind."""

    uuid: UUID
    directory: MachineDir
    spec: Spec | None = None
    run: Run = field(default_factory=Run)
    live: Live | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)
    saving: threading.RLock = field(default_factory=threading.RLock)


def state_of(slot: Slot) -> MachineState:
    """A machine as callers see it, out of memory alone: nothing is asked."""
    run, live = slot.run, slot.live
    return MachineState(
        uuid=slot.uuid,
        phase=live.phase if live else run.phase,
        pid=run.pid if live else None,
        accelerator=run.accelerator if live else None,
        since=run.since,
        reason=live.trouble if live else run.reason,
        host_restarted=run.host_restarted and live is None,
        rebooting=run.rebooting and live is None,
        cold_start=run.cold_start if live else "",
        began=_began(run) if live else Start(),
        epoch=slot.spec.epoch if slot.spec else 0,
    )


def _began(run: Run) -> Start:
    return Start(fork=True) if run.fork else Start(warm=bool(run.warm), pool=run.pooled, why=run.not_warm)


def ending(run: Run, how: str, said: str, asked: str = "") -> Run:
    """The record of a run that is over."""
    if run.hibernated:
        since = clock.now()
        kept = {"serial_from": run.serial_from, "warm": run.warm, "fork": run.fork, "depth": run.depth}
        return Run(phase=Phase.HIBERNATED, since=since, reason=run.ending, **kept)
    if why := run.ending or asked:
        return Run(phase=Phase.OFF, since=clock.now(), reason=why, rebooting=run.rebooting)
    reason = f"{how}; its last words: {start.shortened(said)}" if said else how
    return Run(phase=Phase.CRASHED, since=clock.now(), reason=reason, host_restarted=host_restarted(run))


def host_restarted(run: Run) -> bool:
    """Whether it ran in an earlier boot of this host."""
    return bool(run.boot_id) and run.boot_id != process.boot_id()


def unseen(run: Run) -> str:
    """Why a process is gone whose end nobody saw."""
    if host_restarted(run):
        return "the host was restarted while it ran"
    return "QEMU ended while no node agent watched; its exit status is unknown"
