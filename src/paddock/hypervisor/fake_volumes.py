"""The fake's volumes: a size and a format, counted against the host's disk."""

from uuid import UUID

from paddock.base.errors import Conflict, Invalid
from paddock.hypervisor.fake_host import FakeHost
from paddock.machine.spec import Volume
from paddock.machine.state import VolumeState


class FakeVolumes:
    """See `paddock.hypervisor.base.Volumes`."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    def ensure_volume(self, volume: Volume, epoch: int) -> None:  # noqa: ARG002 - the fence keeps epochs
        host = self._host
        with host.faults.around("ensure_volume", volume.uuid), host.changed:
            old = host.made_volumes.get(volume.uuid)
            if old and volume.size < old.size:
                text = f"volume {volume.uuid} has {old.size} bytes and can't be {volume.size}"
                raise Invalid(text, hint="volumes only grow", field="size")
            if old and volume.size == old.size:
                return
            host.claim(volume.size - (old.size if old else 0))
            kept = old.model_copy(update={"size": volume.size}) if old else volume
            host.store.save_volume(kept)
            host.made_volumes[volume.uuid] = kept

    def remove_volume(self, volume: UUID, epoch: int) -> None:  # noqa: ARG002 - the fence keeps epochs
        host = self._host
        with host.faults.around("remove_volume", volume), host.changed:
            if (user := host.user_of(volume)) is not None:
                raise Conflict(f"volume {volume} is in use by machine {user}", hint="detach it first")
            host.forget_volume(volume)

    def volumes(self) -> tuple[VolumeState, ...]:
        host = self._host
        with host.faults.around("volumes"), host.changed:
            return tuple(VolumeState(uuid=v.uuid, size=v.size, used=v.size) for v in host.made_volumes.values())
