"""The changes of a server's life: another disk, another type, another password, CDs, the rescue system, snapshots.

Each is asked for in `server_wishes.py`, and begins and ends at rest (`server.py`).
"""

from contextlib import suppress
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from paddock.base.errors import Conflict, NotFound, PaddockError, Refused, StaleEpoch, Unavailable, Unsupported
from paddock.cloud import base_config
from paddock.cloud.flows import bring, claim
from paddock.cloud.flows.engine import from_now, wake
from paddock.cloud.flows.image import BUILD_SECONDS, ImageFlow
from paddock.cloud.flows.server_node import (
    action_of,
    armed,
    asked_image,
    check_can,
    host_of,
    is_off,
    node_of,
)
from paddock.cloud.flows.server_sleep import ServerSleep
from paddock.cloud.flows.steps import Again, Next, Then, step
from paddock.cloud.models import Image, Server
from paddock.cloud.models.server import Status
from paddock.cloud.nodes import hypervisor
from paddock.machine.cleaning import Cleaning, Trace
from paddock.machine.spec import Machine, Power
from paddock.machine.state import Phase, Snapshot

SNAPSHOT_SECONDS = 6 * 3600.0
PASSWORD_SECONDS = 60.0
RESCUE_SECONDS = 3600.0  # for which the rescue system waits for a start


class ServerChanges(ServerSleep):
    """Steps that change what it is."""

    # Another disk

    @step(by_hand=False, destroys=True)
    def rebuild(self, server: Server) -> Next[Server]:
        """Stop it, and have it begin anew with another disk."""
        image = asked_image(server)
        with suppress(NotFound):
            if server.node is not None:
                hypervisor(server.node).machines.power(server.uuid, Power.OFF, server.epoch)
        is_off(server, Phase.OFF)
        server.set(
            status=Status.REBUILDING,
            image=image,
            image_sha256="",
            firmware=server.firmware if image.pk == server.image_id else "",  # what the other one boots by
            vendor_data=base_config.for_server(server),
            generation=server.generation + 1,
            began="",
            fork=None,
            not_warm="",
            rescue_until=None,
            restarts=0,
            port_tries=0,
        )
        return Then(self.image if server.node is not None else self.place)

    # Another type

    @step(by_hand=False)
    def retype(self, server: Server) -> Next[Server]:
        """Give a server that is off the disk, CPUs and memory of its new type. What was never made gets them at
        once when it is."""
        _check_still_asked(server)
        if server.node is not None and server.image_sha256 and is_defined(server):
            try:
                host_of(server).disks.ensure_disk(server.uuid, server.system_disk(), server.epoch)
            except (StaleEpoch, Unavailable):
                raise
            except PaddockError:
                take_type_back(server)
                raise
            host_of(server).machines.ensure(server.machine(), server.epoch)
        server.set(told=server.revision)
        return Then(self.rest, finishes=True)

    @step(by_hand=False)
    def grow(self, server: Server) -> Next[Server]:
        """Give a running server more CPUs and memory. What its guest does not take comes with the next start, and is
        said."""
        _check_still_asked(server)
        try:
            check_can(server, "hot_add", "add CPUs or memory to a running server")
            before, wanted = action_of(server).arguments["before"], server.machine()
            was = wanted.model_copy(update={"cpus": before["cores"], "memory_mib": before["memory_mib"]})
            pending = tell_change(server, was, wanted)
        except (StaleEpoch, Unavailable):
            raise
        except PaddockError:
            take_type_back(server)
            raise
        server.set(told=server.revision)
        if pending:
            raise Conflict(
                f"the type is changed, but until its next start the server goes without: {'; '.join(pending)}"
            )
        return Then(self.rest, finishes=True)

    # In its guest

    @step(seconds=PASSWORD_SECONDS, needs="running", by_hand=False)
    def password(self, server: Server) -> Next[Server]:
        """Have its guest agent change root's password."""
        check_can(server, "passwords", "change passwords in guests")
        if server.status != Status.RUNNING:
            raise Conflict(f"server {server.name} is {server.status}", hint="power it on first")
        if server.in_rescue:
            raise Conflict(f"server {server.name} runs the rescue system", hint="reboot it first")
        password_hash = action_of(server).arguments["password_hash"]
        host_of(server).guest.set_password(server.uuid, "root", password_hash)
        server.set(password_hash=password_hash)
        return Then(self.rest, finishes=True)

    @step(seconds=BUILD_SECONDS, by_hand=False)
    def disk_password(self, server: Server) -> Next[Server]:
        """Have root's password changed on the disk of a server that is off, in a helper guest."""
        check_can(server, "offline_edits", "work on disks of servers that are off")
        if server.status != Status.OFF:
            raise Conflict(f"server {server.name} is {server.status}", hint="power it off first")
        if not is_defined(server):
            raise Conflict(f"server {server.name} has no disk yet", hint="start it once")
        if wait := bring.surely(node_of(server), helper := helper_image()):
            return wait
        password_hash = action_of(server).arguments["password_hash"]
        disks = host_of(server).disks
        progress = disks.set_password(server.uuid, "root", password_hash, helper.sha256, server.epoch)
        if progress.error:
            raise Refused(f"the password on the disk of server {server.name} is as it was: {progress.error}")
        if not progress.done:
            return Again(0.3, f"a helper guest: {progress.doing}")
        server.set(password_hash=password_hash)
        return Then(self.rest, finishes=True)

    # The rescue system

    @step(seconds=BUILD_SECONDS, by_hand=False)
    def rescue(self, server: Server) -> Next[Server]:
        """Bring the rescue system to the node; the next start within an hour boots it."""
        check_can(server, "rescue", "boot a rescue system")
        if wait := bring.surely(node_of(server), image := helper_image()):
            return wait
        server.set(rescue_sha256=image.sha256, rescue_until=from_now(RESCUE_SECONDS))
        return Then(self.rest, finishes=True)

    # CDs

    @step(seconds=BUILD_SECONDS, by_hand=False)
    def insert_iso(self, server: Server) -> Next[Server]:
        """Bring the ISO to the node, and put it into the drive."""
        check_can(server, "iso", "attach ISOs")
        iso = asked_image(server)
        if wait := bring.surely(node_of(server), iso):
            return wait
        return self._swap_iso(server, iso)

    @step(by_hand=False)
    def eject_iso(self, server: Server) -> Next[Server]:
        """Take the ISO out of the drive."""
        return self._swap_iso(server, None)

    def _swap_iso(self, server: Server, iso: Image | None) -> Next[Server]:
        if is_defined(server):
            was = server.machine()
            wanted = was.model_copy(update={"iso": iso.sha256 if iso else None})
            if pending := tell_change(server, was, wanted):
                raise Unsupported("; ".join(pending), hint="power the server off first")
            server.set(told=server.revision)
        with transaction.atomic():
            Server.objects.filter(pk=server.pk, epoch=server.epoch).update(iso=iso)
            bring.left(server.iso_id)
        server.set(iso=iso)
        return Then(self.rest, finishes=True)

    # Snapshots

    @step(seconds=SNAPSHOT_SECONDS, by_hand=False)
    def snapshot(self, server: Server) -> Next[Server]:
        """Have its disk copied as it is at one moment, cleaned if that was asked for, and hand the copy to the image's
        own life."""
        check_can(server, "snapshots", "take snapshots")
        image = asked_image(server)
        if image.step != "rest" or image.state != "building":
            return Then(self.await_image)
        cleaning = self._cleaning(server)
        if isinstance(cleaning, Again):
            return cleaning
        target = str(settings.STATE.uploads / f"image-{image.pk}")
        taken = host_of(server).disks.snapshot(server.uuid, _uuid(image), target, server.epoch, cleaning)
        if taken.error:
            raise Refused(f"no image could be made of the disk of server {server.name}: {taken.error}")
        if not taken.done:
            percent = taken.bytes_done * 100 // taken.bytes_total if taken.bytes_total else 0
            doing = taken.doing or "copying the disk"
            Image.objects.filter(pk=image.pk, step="rest").update(percent=percent, doing=doing[:200])
            mib = 2**20
            return Again(0.3, f"{doing}: {taken.bytes_done // mib} of {taken.bytes_total // mib} MiB copied")
        _hand_over(image, taken, cleaned=cleaning is not None)
        return Then(self.await_image)

    def _cleaning(self, server: Server) -> Cleaning | Again | None:
        """How its copy is to be cleaned, once its node has what does that; None: it stays as it is."""
        keep = action_of(server).arguments.get("keep")
        if keep is None:
            return None
        check_can(server, "offline_edits", "clean images")
        if wait := bring.surely(node_of(server), helper := helper_image()):
            return wait
        return Cleaning(helper=helper.sha256, keep=tuple(Trace(word) for word in keep))

    @step(seconds=SNAPSHOT_SECONDS, by_hand=False)
    def await_image(self, server: Server) -> Next[Server]:
        """Wait until an image was made of the copy."""
        image = asked_image(server)
        if image.state == "failed":
            raise Refused(f"no image could be made of the copy: {image.problem}")
        if image.state != "ready":
            return Again(0.2, f"the image: {image.doing or 'waiting'} ({image.percent} %)")
        host_of(server).disks.drop_snapshot(server.uuid, _uuid(image), server.epoch)
        return Then(self.rest, finishes=True)

    @step(by_hand=False)
    def drop_snapshot(self, server: Server) -> Next[Server]:
        """Remove what is left of a snapshot that came to nothing."""
        give_snapshots_up(server, "the snapshot failed")
        return Then(self.rest)


# What these steps share


def helper_image() -> Image:
    """What rescue systems and helper guests boot. Raises Unsupported."""
    image = Image.objects.filter(type="rescue", project=None).first()
    if image is None:
        raise Unsupported("this cloud has no rescue system, which works on disks")
    return image


def is_defined(server: Server) -> bool:
    """Whether its node has a machine of it."""
    try:
        host_of(server).machines.state(server.uuid)
    except NotFound:
        return False
    return True


def tell(server: Server, machine: Machine) -> tuple[str, ...]:
    """Tell its node what its machine shall be, and have a running one changed. Returns what that does not take yet."""
    machines = host_of(server).machines
    machines.ensure(machine, server.epoch)
    return machines.adapt(server.uuid, server.epoch).pending


def tell_change(server: Server, was: Machine, wanted: Machine) -> list[str]:
    """As `tell`, but what waits for the next start anyway (a new password, say) is no matter of this change."""
    anyway = tell(server, was)
    return [p for p in tell(server, wanted) if p not in anyway]


def choose_system(server: Server) -> None:
    """Decide what its next start boots: the rescue system while that waits for a start, else its disk."""
    if server.in_rescue or server.rescue_until:
        chosen = armed(server)
        server.set(in_rescue=chosen, rescue_until=server.rescue_until if chosen else None)


def take_type_back(server: Server) -> None:
    """Give the server back the type that it had, and its node what was claimed for the new one. Where others have
    meanwhile claimed what it had more before, it stays as it is, and its next start tries again."""
    before = action_of(server).arguments["before"]
    less = claim.Shape(
        before["cores"] - server.cores, before["memory_mib"] - server.memory_mib, before["disk_gib"] - server.disk_gib
    )
    plan = {**before, "server_type_id": before["server_type"]}
    del plan["server_type"]
    with transaction.atomic():
        ours = Server.objects.filter(pk=server.pk, epoch=server.epoch, server_type=server.server_type_id)
        if not ours.update(**plan, revision=F("revision") + 1) or not claim.more(node_of(server), less):
            transaction.set_rollback(True)


def _check_still_asked(server: Server) -> None:
    """Raises Refused when this step took the type back, and its worker died before it said so."""
    if server.server_type_id != action_of(server).arguments["to"]:
        raise Refused("its node could not give it the new type")


def _uuid(image: Image) -> UUID:
    if image.uuid is None:
        raise ValueError(f"BUG: image {image.pk} is no snapshot")
    return image.uuid


def _hand_over(image: Image, taken: Snapshot, *, cleaned: bool) -> None:
    with transaction.atomic():
        Image.objects.filter(pk=image.pk, step="rest", state="building").update(
            frozen=taken.frozen,
            not_frozen=taken.not_frozen[:200],
            cleaned=list(taken.cleaned) if cleaned else None,
            shared=list(taken.shared),
            doing="waiting for a worker",
            step="take_in",
            step_since=Now(),
            deadline=from_now(BUILD_SECONDS),
        )
        wake(image, ImageFlow.kind)


def begun_snapshots(server: Server) -> "QuerySet[Image]":
    """Its snapshots that are not yet, or will never be, images."""
    came_to_nothing = Q(state="building", step="rest") | Q(state="failed")
    return Image.objects.filter(came_to_nothing, type="snapshot", created_from_id=server.pk, delete_requested=False)


def give_snapshots_up(server: Server, why: str) -> None:
    """End the snapshots that are being taken of it, and remove what is there of them."""
    for image in begun_snapshots(server):
        if server.node is not None:
            with suppress(NotFound):
                hypervisor(server.node).disks.drop_snapshot(server.uuid, _uuid(image), server.epoch)
        _to_its_end(image, why)


def leave_snapshots(server: Server, why: str) -> None:
    """End those that its node did not give up: their own lives ask it until it has."""
    for image in begun_snapshots(server):
        _to_its_end(image, why)


def _to_its_end(image: Image, why: str) -> None:
    with transaction.atomic():
        Image.objects.filter(pk=image.pk).update(
            state="failed", problem=image.problem or why, doing="", delete_requested=True
        )
        wake(image, ImageFlow.kind, urgent=True)
