"""The Volumes protocol: volumes as files of this node, grown where they are in use by the QEMU that has them."""

import contextlib
from uuid import UUID

from paddock.base.errors import Conflict
from paddock.hypervisor.qemu import media, volume_store
from paddock.hypervisor.qemu.live import Live
from paddock.hypervisor.qemu.machines import QemuMachines
from paddock.machine.spec import Volume
from paddock.machine.state import VolumeState


class QemuVolumes:
    """See `paddock.hypervisor.base.Volumes`."""

    def __init__(self, machines: QemuMachines) -> None:
        self._machines = machines
        self._store = machines.volume_store
        self._epochs: dict[UUID, int] = {}  # shown in the state; the fence keeps the ones that count

    def ensure_volume(self, volume: Volume, epoch: int) -> None:
        volume_store.check_size(volume, self._store.size(volume.uuid))
        self._store.make(volume)
        if (self._store.size(volume.uuid) or 0) < volume.size:
            self._grow(volume)
        self._epochs[volume.uuid] = epoch

    def remove_volume(self, volume: UUID, epoch: int) -> None:  # noqa: ARG002 - the fence keeps epochs
        with self._store.lock:
            if user := self._machines.user_of(volume):
                raise Conflict(f"volume {volume} is attached to machine {user}", hint="detach it first")
            if self._store.is_open(volume):
                raise Conflict(f"volume {volume} is still in use by a running machine", hint="detach it first")
            self._store.remove(volume)
            self._epochs.pop(volume, None)

    def volumes(self) -> tuple[VolumeState, ...]:
        return tuple(
            state.model_copy(update={"epoch": self._epochs.get(state.uuid, 0)}) for state in self._store.states()
        )

    def _grow(self, volume: Volume) -> None:
        """The machine that has it neither starts nor ends meanwhile."""
        user = self._machines.user_of(volume.uuid)
        with self._machines.held(user) if user else contextlib.nullcontext():
            if not self._store.is_open(volume.uuid):
                self._store.grow(volume.uuid, volume.size)
            elif holder := self._holder(volume.uuid):
                media.resize_volume(holder, volume.uuid, volume.size)
            else:
                raise Conflict(
                    f"volume {volume.uuid} is in use by a process that is no machine of this node",
                    hint=f"see `fuser -v {self._store.file(volume.uuid)}`",
                )

    def _holder(self, volume: UUID) -> Live | None:
        """The running machine whose QEMU has it open, which may still be one that shall not have it any more."""
        return next((live for live in self._machines.all_running() if media.has_volume(live, volume)), None)
