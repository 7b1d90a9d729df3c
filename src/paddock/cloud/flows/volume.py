"""A volume's life, from the request to its last trace. Read it top to bottom: it is in the order things happen.

Nothing but `delete`, asked by its owner, ever removes one: what fails leaves the data where it is. A volume that has a
node has claimed room for `size_gib` there, no more and no less.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from django.db import IntegrityError, transaction
from django.db.models import F
from django.db.models.functions import Now

from paddock.base.errors import (
    AlreadyAttached,
    Conflict,
    InUse,
    Invalid,
    LimitExceeded,
    Locked,
    NameTaken,
    NoSpace,
    PaddockError,
    Protected,
    Refused,
    StaleEpoch,
    Unavailable,
    Unsupported,
)
from paddock.cloud.flows import actions, mounting, quota, volume_room
from paddock.cloud.flows.engine import Flow, register, wake
from paddock.cloud.flows.steps import Again, Done, Gone, Next, Then, step
from paddock.cloud.models import Action, Node, Server, Volume
from paddock.cloud.models.server import Status
from paddock.cloud.nodes import hypervisor
from paddock.hypervisor.base import Hypervisor

KIND = "volume"
PLACE_SECONDS = 600.0  # for a new server to get its place
TELL_SECONDS = 7200.0  # for a new server to be told: its image may have to be built
MAX_VOLUMES = 16  # of one server
DELETED = " (deleted {})"  # what a volume's name ends with once it was deleted: the name itself is free then


@register
class VolumeFlow(Flow[Volume]):
    """Steps of a volume."""

    kind = KIND
    lock_class = 4
    model = Volume
    related: ClassVar[tuple[str, ...]] = ("node",)

    # Birth and attachment

    @step(seconds=60, by_hand=False)
    def begin(self, volume: Volume) -> Next[Volume]:
        """It can be used. Where it lies is decided by its first attachment."""
        volume.set(status="available")
        return Then(self.rest, finishes=True)

    @step(seconds=PLACE_SECONDS, by_hand=False)
    def place(self, volume: Volume) -> Next[Volume]:
        """Claim its room on its server's node, unless it lies there already."""
        server = _its_server(volume)
        if server.node is None:
            volume_room.check_has_future(server)
            return Again(0.2, f"server {server.name} to get a place")
        volume_room.lie_on(volume, server.node, server)
        return Then(self.make)

    @step(seconds=600, by_hand=False)
    def make(self, volume: Volume) -> Next[Volume]:
        """Make it with its file system, or see that it is there."""
        host = _host(volume)
        try:
            if not volume.made_gib and not host.machines.capabilities().volumes:
                raise Unsupported(f"node {_node(volume).name} can't have volumes")
            host.volumes.ensure_volume(volume.spec(), volume.epoch)
        except (Unavailable, StaleEpoch):
            raise
        except PaddockError:
            volume_room.give_back(volume)
            raise
        volume.set(made_gib=volume.size_gib, problem="")
        return Then(self.plug)

    @step(seconds=60, by_hand=False)
    def plug(self, volume: Volume) -> Next[Volume]:
        """Have its server's machine told that it has it."""
        with transaction.atomic():
            volume_room.hold(volume)
            volume_room.tell(volume.server_id)
        return Then(self.await_plugged)

    @step(seconds=TELL_SECONDS, by_hand=False)
    def await_plugged(self, volume: Volume) -> Next[Volume]:
        """Wait until the node was told, and has plugged it in where the machine runs."""
        server = _its_server(volume)
        if server.told < server.revision:
            volume_room.check_has_future(server)
            volume_room.check_patience(volume, server)
            return Again(_pause(volume), f"server {server.name} to be given it")
        if not volume.automount:
            return Then(self.rest, finishes=True)
        return Then(self.mount)

    @step(seconds=mounting.BOOT_SECONDS + 60, by_hand=False)
    def mount(self, volume: Volume) -> Next[Volume]:
        """Mount it in the guest, now and at each boot."""
        server = _its_server(volume)
        mounting.check_can_mount(server, volume)
        try:
            if server.status != Status.RUNNING:
                raise Unavailable(f"server {server.name} is {server.status}")
            mounting.mount(_host(volume), server.uuid, volume)
        except Unavailable as e:
            mounting.check_agent_patience(volume, server, e)
            return Again(1, f"the guest agent: {e.message}")
        return Then(self.rest, finishes=True)

    # Growth

    @step(seconds=600, by_hand=False)
    def grow(self, volume: Volume) -> Next[Volume]:
        """Make it as large as it now is said to be; a running guest sees it at once."""
        if volume.node is not None and volume.made_gib:
            try:
                _host(volume).volumes.ensure_volume(volume.spec(), volume.epoch)
            except (Unavailable, StaleEpoch):
                raise
            except PaddockError:
                volume_room.take_growth_back(volume)
                raise
            volume.set(made_gib=volume.size_gib, problem="")
        return Then(self.rest, finishes=True)

    # Detachment

    @step(seconds=60, by_hand=False)
    def unmount(self, volume: Volume) -> Next[Volume]:
        """Unmount it in the guest, as well as that goes."""
        server = _server(volume)
        if server and server.status == Status.RUNNING and server.told >= server.revision:
            mounting.unmount(_host(volume), server.uuid, volume)
        return Then(self.unplug)

    @step(seconds=60, by_hand=False)
    def unplug(self, volume: Volume) -> Next[Volume]:
        """Have its server's machine told that it does not have it any more."""
        with transaction.atomic():
            volume_room.hold(volume)
            volume_room.tell(volume.server_id)
            volume.set(detaching=True, automount=False)
            Volume.objects.filter(pk=volume.pk).update(detaching=True, automount=False)
        return Then(self.await_unplugged)

    @step(seconds=TELL_SECONDS, by_hand=False)
    def await_unplugged(self, volume: Volume) -> Next[Volume]:
        """Wait until the node was told. Only then may others have it."""
        server = _server(volume)
        if server and server.told < server.revision and not volume_room.never_had_machine(server):
            volume_room.check_patience(volume, server)
            return Again(_pause(volume), f"server {server.name} to let go of it")
        return Then(self.let_go)

    @step(seconds=60, by_hand=False)
    def let_go(self, volume: Volume) -> Next[Volume]:
        """It is nobody's now."""
        volume.set(server=None, detaching=False, automount=False)
        return Then(self.rest, finishes=True)

    @step(seconds=60, by_hand=False)
    def keep(self, volume: Volume) -> Next[Volume]:
        """It could not be taken from its server: it stays there, and the machine shall have it."""
        with transaction.atomic():
            volume_room.hold(volume)
            volume.set(detaching=False)
            Volume.objects.filter(pk=volume.pk).update(detaching=False)
            volume_room.tell(volume.server_id)
        return Then(self.rest)

    # Rest

    @step(by_hand=False)
    def rest(self, volume: Volume) -> Next[Volume]:
        """Look at the wishes, oldest first."""
        if volume.action_id is not None:
            return Then(self.rest, finishes=True)
        if volume.server_id is None and (volume.detaching or volume.automount):
            volume.set(detaching=False, automount=False)  # its server is gone
        action = actions.running(KIND, volume.pk).exclude(command="delete_volume").order_by("id").first()
        if action is None:
            return Done()
        volume.set(action_id=action.pk, correlation_id=action.correlation_id)
        return Then(self._first_step(action.command))

    def _first_step(self, command: str) -> "Callable[[Volume], Next[Volume]]":
        return {
            "create_volume": self.begin,
            "attach_volume": self.place,
            "resize_volume": self.grow,
            "detach_volume": self.unmount,
        }[command]

    # Death

    def divert(self, volume: Volume) -> "Callable[[Volume], Next[Volume]] | None":
        """Delete comes first; a volume that a server has is never asked for it."""
        if not volume.delete_requested or volume.server_id is not None or volume.step in ("destroy", "forget"):
            return None
        action = actions.running(KIND, volume.pk).filter(command="delete_volume").first()
        if action is not None:
            volume.set(action_id=action.pk, correlation_id=action.correlation_id)
        return self.destroy

    @step(seconds=600, by_hand=False, destroys=True)
    def destroy(self, volume: Volume) -> Next[Volume]:
        """Remove it and its data."""
        if volume.node is not None:
            hypervisor(volume.node).volumes.remove_volume(volume.uuid, volume.epoch)
        return Then(self.forget)

    @step(by_hand=False)
    def forget(self, volume: Volume) -> Next[Volume]:
        """Give back its room, and delete the row."""
        with transaction.atomic():
            deleted, _ = Volume.objects.filter(pk=volume.pk, epoch=volume.epoch).delete()
            if deleted and volume.node is not None:
                volume.node.release(0, 0, volume.size_gib)
            actions.running(KIND, volume.pk).filter(command="delete_volume").update(
                status="success", progress=100, finished=Now()
            )
            _give_up_others(volume, "the volume was deleted before this was done")
        return Gone()

    def failed(self, volume: Volume, error: PaddockError) -> Next[Volume]:
        """The data stays. What a machine may have been told of is taken from it in the ordinary way."""
        volume.set(problem=error.message)
        match volume.step:
            case "begin":
                volume.set(status="available")
            case "place" | "make" if not volume.made_gib:  # no machine was told of what is not there
                return Then(self.let_go)
            case "place" | "make" | "plug" | "await_plugged":
                return Then(self.unplug)
            case "unplug" | "await_unplugged":
                return Then(self.keep)
            case "destroy" | "forget":
                volume.set(delete_requested=False, name=_name_again(volume))
                _give_up_others(volume, "the volume's removal failed half-way")
        return Then(self.rest)


# What the steps look at. A server is read anew each time: its own flow moves it on meanwhile.


def _server(volume: Volume) -> Server | None:
    """Its server; None when that is gone."""
    if volume.server_id is None:
        return None
    return Server.objects.select_related("node").filter(pk=volume.server_id).first()


def _its_server(volume: Volume) -> Server:
    server = _server(volume)
    if server is None or server.delete_requested:
        raise Refused("the server was deleted before it had the volume")
    return server


def _node(volume: Volume) -> Node:
    if volume.node is None:
        raise LookupError(f"BUG: volume {volume.pk} lies nowhere")
    return volume.node


def _host(volume: Volume) -> Hypervisor:
    return hypervisor(_node(volume))


def _pause(volume: Volume) -> float:
    """Seconds until the next look: short at first."""
    return min(max(volume.waited / 20, 0.05), 2.0)


def _give_up_others(volume: Volume, why: str) -> None:
    """End, as failed, all that was asked of a volume besides its deletion."""
    actions.running(KIND, volume.pk).exclude(command="delete_volume").update(
        status="error", progress=100, finished=Now(), error_code="volume_deleted", error_message=why
    )


def _name_again(volume: Volume) -> str:
    """The name that it had before it was deleted, if nobody has taken that meanwhile."""
    name = volume.name.removesuffix(DELETED.format(volume.pk))
    taken = Volume.objects.filter(project_id=volume.project_id, name__iexact=name).exclude(pk=volume.pk).exists()
    return volume.name if taken else name


# What is asked from outside: each writes row, action and wake-up in one transaction


def create(
    volume: Volume, server: Server | None, automount: bool, correlation_id: str = ""
) -> tuple[Action, list[Action]]:
    """Begin a volume's life, attached to a server if one is given: its creation, and what follows. Raises NameTaken,
    NoSpace, LimitExceeded, and what `attach` raises."""
    volume.step, volume.correlation_id = "rest", correlation_id
    try:
        with transaction.atomic():
            quota.check(volume.project_id, volumes=1, volume_gib=volume.size_gib)
            if server is None:
                _check_room_somewhere(volume)
            volume.save(force_insert=True)
            action = actions.begin(KIND, volume, "create_volume", correlation_id)
            following = [_attach(volume, server, automount, correlation_id)] if server else []
            wake(volume, KIND)
    except IntegrityError as e:
        if "volume_name" not in str(e):
            raise
        raise NameTaken("name is already used", field="name") from e
    return action, following


def attach(volume: Volume, server: Server, automount: bool, correlation_id: str = "") -> Action:
    """Give a volume to a server, and mount it in the guest with `automount`. Of two that ask at once one gets it.

    Raises AlreadyAttached, Locked, NoSpace, LimitExceeded, and Unsupported when it lies on another node."""
    with transaction.atomic():
        locked = Volume.objects.select_for_update().get(pk=volume.pk)
        _refuse_attached(locked)
        actions.refuse_busy(KIND, locked)
        action = _attach(locked, server, automount, correlation_id)
        wake(locked, KIND)
    return action


def lock(volumes: Sequence[Volume]) -> None:
    """Lock several in their order: two servers that are created with the same ones do not wait for each other."""
    if volumes:
        list(Volume.objects.select_for_update().filter(pk__in=[v.pk for v in volumes]).order_by("pk"))


def attach_to_new(volume: Volume, server: Server, automount: bool, correlation_id: str = "") -> Action:
    """Give a volume to a server that is being created: call it in that transaction. Raises what `attach` raises."""
    locked = Volume.objects.select_for_update().get(pk=volume.pk)
    _refuse_attached(locked)
    actions.refuse_busy(KIND, locked)
    action = _begin_attach(locked, server, automount, correlation_id)
    wake(locked, KIND)
    return action


def detach(volume: Volume, correlation_id: str = "") -> Action:
    """Take a volume from its server. Raises Invalid when it has none, Locked."""
    with actions.alone(KIND, volume) as locked:
        if locked.server_id is None:
            raise Invalid(f"volume {locked.name} is not attached to a server", field="volume")
        _refuse_asleep(locked)
        action = actions.begin(KIND, locked, "detach_volume", correlation_id, more=_about_server(locked.server_id))
        wake(locked, KIND, urgent=True)
    return action


def _refuse_asleep(volume: Volume) -> None:
    """The memory of a hibernated server knows the volume as it is."""
    if asleep := Server.objects.filter(pk=volume.server_id or 0, status=Status.HIBERNATED).first():
        raise Conflict(f"server {asleep.name} is hibernated and counts on volume {volume.name}", hint="wake it first")


def resize(volume: Volume, size_gib: int, correlation_id: str = "") -> Action:
    """Make a volume larger. Raises Invalid unless it is larger then, LimitExceeded, NoSpace, Locked."""
    with transaction.atomic():
        quota.check(volume.project_id, volume_gib=size_gib - volume.size_gib)
        locked = Volume.objects.select_for_update(of=("self",)).select_related("node").get(pk=volume.pk)
        actions.refuse_busy(KIND, locked)
        if locked.size_gib != volume.size_gib:
            raise Locked(f"volume {locked.name} was resized at the same time", hint="ask again")
        _check_growth(locked, size_gib)
        _refuse_asleep(locked)
        if locked.node is not None:
            volume_room.claim_growth(locked, locked.node, size_gib)
        Volume.objects.filter(pk=locked.pk).update(size_gib=size_gib)
        action = actions.begin(KIND, locked, "resize_volume", correlation_id, {"size_gib": size_gib})
        wake(locked, KIND)
    return action


def protect(volume: Volume, delete: bool, correlation_id: str = "") -> Action:
    """Protect a volume against deletion, or no longer."""
    with transaction.atomic():
        Volume.objects.filter(pk=volume.pk).update(protect_delete=delete)
        return actions.finished(KIND, volume, "change_protection", correlation_id)


def delete(volume: Volume, correlation_id: str = "") -> None:
    """Ask for its end: its data is gone then, and its name is free at once. Raises Protected, and InUse while a server
    has it. Asking again changes nothing."""
    with transaction.atomic():
        locked = Volume.objects.select_for_update(of=("self",)).select_related("server").get(pk=volume.pk)
        if locked.delete_requested:
            return
        if locked.protect_delete:
            raise Protected("volume deletion is protected", hint=f"take the protection of {locked.name} away")
        if locked.server is not None:
            raise InUse(
                f"volume {locked.name} is still attached to server {locked.server.name}", hint="detach it first"
            )
        name = locked.name + DELETED.format(locked.pk)
        Volume.objects.filter(pk=locked.pk).update(delete_requested=True, name=name)
        actions.begin(KIND, locked, "delete_volume", correlation_id)
        wake(locked, KIND, urgent=True)


def _attach(volume: Volume, wanted: Server, automount: bool, correlation_id: str) -> Action:
    """Give it to a server that is there already, within the caller's transaction. The server is locked, since it may
    just be asked to go: who deletes it sees this volume, or this sees that."""
    rows = Server.objects.select_for_update(no_key=True, of=("self",)).select_related("node")
    server = rows.filter(pk=wanted.pk, delete_requested=False).first()
    if server is None:
        raise Locked(f"server {wanted.name} is being deleted")
    actions.refuse_busy("server", server)
    if server.node is None:
        raise Unsupported(f"server {server.name} has no place: {server.problem or server.step}", field="server")
    return _begin_attach(volume, server, automount, correlation_id)


def _begin_attach(volume: Volume, server: Server, automount: bool, correlation_id: str) -> Action:
    """Make it the server's, where that has a place at once with room there; and begin the action."""
    if server.volumes.count() >= MAX_VOLUMES:
        raise LimitExceeded(f"server {server.name} has {MAX_VOLUMES} volumes, and can't have more", field="server")
    volume_room.check_same_node(volume, server)
    if volume.node_id is None and server.node is not None:
        volume_room.claim_room(volume, server.node)
    Volume.objects.filter(pk=volume.pk).update(server=server, automount=automount, detaching=False)
    return actions.begin(KIND, volume, "attach_volume", correlation_id, more=_about_server(server.pk))


def _about_server(server_id: int) -> list[dict[str, object]]:
    return [{"id": server_id, "type": "server"}]


def _refuse_attached(volume: Volume) -> None:
    """Raises AlreadyAttached, naming the server; Locked for one that is being deleted."""
    if volume.server is not None:
        raise AlreadyAttached(f"volume {volume.name} is attached to server {volume.server.name} already")
    if volume.delete_requested:
        raise Locked(f"volume {volume.name} is being deleted")


def _check_room_somewhere(volume: Volume) -> None:
    if not Node.objects.filter(claimed_disk_gib__lte=F("disk_gib") - volume.size_gib).exists():
        raise NoSpace(f"no node has room for a volume of {volume.size_gib} GiB", field="size")


def _check_growth(volume: Volume, size_gib: int) -> None:
    """A size that was asked for and never reached may be asked for again."""
    again = 0 < volume.made_gib < volume.size_gib == size_gib
    if size_gib <= volume.size_gib and not again:
        message = f"size must be more than the {volume.size_gib} GiB that the volume has: volumes never shrink"
        raise Invalid(message, field="size")
