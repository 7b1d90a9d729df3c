"""What is asked of a server besides its power: each writes row, action and wake-up in one transaction.

Refused at once is what the rows already forbid; what only the node or the guest can say fails the action.
"""

from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models import F

from paddock.base.errors import (
    AlreadyInGroup,
    Conflict,
    Invalid,
    InvalidServerType,
    NoRoom,
    NotStopped,
    PlacementFailed,
    Protected,
    Unsupported,
)
from paddock.base.ids import new_uuid
from paddock.cloud.flows import actions, claim, engine, quota
from paddock.cloud.models import Action, Image, Node, PlacementGroup, Server, ServerType
from paddock.cloud.models.server import Status
from paddock.machine.cleaning import Trace
from paddock.machine.spec import GIB, UEFI_FROM_MIB

KIND = "server"
UP = (Status.RUNNING, Status.PAUSED)


def _wish(server: Server, command: str, correlation_id: str, **arguments: Any) -> Action:
    """The action, and a wake-up for it."""
    action = actions.begin(KIND, server, command, correlation_id, arguments)
    engine.wake(server, KIND, urgent=True)
    return action


def rebuild(server: Server, image: Image, user_data: str | None, password_hash: str, correlation_id: str) -> Action:
    """Give the server a new disk of this image; it runs afterwards. `user_data` None: the same as before."""
    with actions.alone(KIND, server) as row:
        if row.protect_rebuild:
            raise Protected("server rebuild is protected", hint=f"change the protection of {row.name} first")
        _fits_on_disk(image, row)
        if row.kernel_args and not image.manifest.get("direct_boot", True):
            raise Invalid(
                f"image {image.name} boots a kernel of its own: the server's kernel arguments can't be given to it",
                field="image",
                hint="take them away first",
            )
        said: dict[str, object] = {} if user_data is None else {"user_data": user_data}
        Server.objects.filter(pk=row.pk).update(password_hash=password_hash, **said)
        return _wish(row, "rebuild_server", correlation_id, image=image.pk)


def _fits_on_disk(image: Image, server: Server) -> None:
    needs = image.manifest.get("disk_size", 0)
    if needs > server.disk_gib * GIB:
        gib = -(-needs // GIB)
        raise Invalid(f"image {image.name} needs {gib} GB of disk, the server has {server.disk_gib}", field="image")


# Standing still


def pause(server: Server, correlation_id: str) -> Action:
    """Have its CPUs stand still. One that does so already is left alone. Raises Conflict when it is off."""
    return _hold(server, "pause_server", Status.PAUSED, correlation_id)


def resume(server: Server, correlation_id: str) -> Action:
    """Have its CPUs go on. Raises Conflict when it is off."""
    return _hold(server, "resume_server", Status.RUNNING, correlation_id)


def hibernate(server: Server, correlation_id: str) -> Action:
    """Write its memory to a file, and end it. One that is there already is left alone. Raises Conflict when it is
    off."""
    return _hold(server, "hibernate_server", Status.HIBERNATED, correlation_id)


def wake(server: Server, correlation_id: str) -> Action:
    """Have a hibernated server go on. One that runs is left alone. Raises Conflict when it is off."""
    with actions.alone(KIND, server) as row:
        if row.status == Status.RUNNING:
            return actions.finished(KIND, row, "wake_server", correlation_id)
        if row.status != Status.HIBERNATED:
            raise Conflict(f"server {row.name} is {row.status}, not hibernated", hint="start or resume it")
        return _wish(row, "wake_server", correlation_id)


def _hold(server: Server, command: str, wanted: Status, correlation_id: str) -> Action:
    with actions.alone(KIND, server) as row:
        if row.status == wanted:
            return actions.finished(KIND, row, command, correlation_id)
        if row.status not in UP:
            raise Conflict(f"server {row.name} is {row.status}", hint="power it on first")
        return _wish(row, command, correlation_id)


# Its type


def change_type(server: Server, plan: ServerType, upgrade_disk: bool, live: bool, correlation_id: str) -> Action:
    """Make it a server of another type; what it needs more of its node is claimed here, what it needs less, given back.

    The server must be off, unless `live`: then it may only get more CPUs and memory. Raises InvalidServerType,
    NotStopped, Unsupported, LimitExceeded, NoRoom.
    """
    with quota.held(server.project_id), actions.alone(KIND, server) as row:
        _check_type(row, plan)
        disk = plan.disk_gib if upgrade_disk else row.disk_gib
        running = row.status != Status.OFF
        if running:
            _check_live(row, plan, disk, live=live)
        if row.node is not None and (missing := list(claim.lacks(row.node, row, plan))):
            raise NoRoom(f"node {row.node.name} {' and '.join(missing)}", hint="choose another server type")
        more = claim.Shape(plan.cores - row.cores, plan.memory_mib - row.memory_mib, disk - row.disk_gib)
        quota.check(row.project_id, cores=more.cores, memory_mib=more.memory_mib, disk_gib=more.disk_gib)
        if row.node is not None and not claim.more(row.node, more):
            raise NoRoom(f"node {row.node.name} has no room for it: {claim.short_of(row.node, more)}")
        before = {"server_type": row.server_type_id, "cores": row.cores, "memory_mib": row.memory_mib}
        before |= {"disk_gib": row.disk_gib, "max_cores": row.max_cores, "max_memory_mib": row.max_memory_mib}
        Server.objects.filter(pk=row.pk).update(
            server_type=plan,
            cores=plan.cores,
            memory_mib=plan.memory_mib,
            disk_gib=disk,
            revision=F("revision") + 1,
            **({} if running else claim.room_to_grow(row.node, row.layout, plan.cores, plan.memory_mib)),
        )
        return _wish(row, "change_server_type", correlation_id, before=before, to=plan.pk, live=running)


def _check_type(server: Server, plan: ServerType) -> None:
    if plan.pk == server.server_type_id:
        raise InvalidServerType(f"server {server.name} is of type {plan.name} already", field="server_type")
    if plan.deprecated is not None:
        raise InvalidServerType(f"server type {plan.name} is deprecated", field="server_type")
    if server.firmware == "uefi" and plan.memory_mib < UEFI_FROM_MIB:
        raise InvalidServerType(
            f"server {server.name} boots by UEFI, which takes {UEFI_FROM_MIB} MiB of memory", field="server_type"
        )
    if plan.disk_gib < server.disk_gib:
        raise InvalidServerType(
            f"server type {plan.name} has {plan.disk_gib} GB of disk, server {server.name} has {server.disk_gib} GB",
            hint="disks never shrink",
            field="server_type",
        )


def _check_live(server: Server, plan: ServerType, disk_gib: int, *, live: bool) -> None:
    if not live:
        raise NotStopped(f"server {server.name} is {server.status}", hint="power it off first")
    if plan.cores < server.cores or plan.memory_mib < server.memory_mib or disk_gib != server.disk_gib:
        raise NotStopped(
            f"server {server.name} is {server.status}: it can only be given more CPUs and memory",
            hint="power it off for anything else, a larger disk included",
        )
    most_cores, most_memory = server.max_cores or server.cores, server.max_memory_mib or server.memory_mib
    if server.layout < 2 or plan.cores > most_cores or plan.memory_mib > most_memory:
        raise Unsupported(
            f"server {server.name} can be given at most {most_cores} CPUs and {most_memory} MiB while it runs",
            hint="power it off first",
        )


# In its guest


def reset_password(server: Server, password_hash: str, correlation_id: str, *, offline: bool = False) -> Action:
    """Give root in the guest another password, by the guest agent; `offline`: on the disk of a server that is off.
    Raises NotStopped."""
    with actions.alone(KIND, server) as row:
        if offline and row.status != Status.OFF:
            raise NotStopped(f"server {row.name} is {row.status}", hint="power it off first, or ask its guest agent")
        more = {"offline": True} if offline else {}
        return _wish(row, "reset_password", correlation_id, password_hash=password_hash, **more)


def enable_rescue(server: Server, keys: list[str], password_hash: str, correlation_id: str) -> Action:
    """Boot the rescue system with its next start, reboot or reset, if that comes within an hour. Asking again: others
    may log in, and the hour begins anew."""
    with actions.alone(KIND, server) as row:
        if not Image.objects.filter(type="rescue", project=None).exists():
            raise Unsupported("this cloud has no rescue system")
        Server.objects.filter(pk=row.pk).update(rescue_keys=keys, rescue_password_hash=password_hash)
        return _wish(row, "enable_rescue", correlation_id)


def disable_rescue(server: Server, correlation_id: str) -> Action:
    """Boot from its disk with the next start. What runs is not touched."""
    with actions.alone(KIND, server) as row:
        Server.objects.filter(pk=row.pk).update(rescue_until=None)
        return actions.finished(KIND, row, "disable_rescue", correlation_id)


def attach_iso(server: Server, iso: Image, correlation_id: str) -> Action:
    """Put a CD into its drive, in place of the one that is in it."""
    with actions.alone(KIND, server) as row:
        if iso.state != "ready":
            raise Conflict(f"ISO {iso.name} can't be used yet: {iso.problem or iso.doing or 'nothing was uploaded'}")
        return _wish(row, "attach_iso", correlation_id, image=iso.pk)


def detach_iso(server: Server, correlation_id: str) -> Action:
    """Take the CD out of its drive. With none in it that is done at once."""
    with actions.alone(KIND, server) as row:
        if row.iso_id is None:
            return actions.finished(KIND, row, "detach_iso", correlation_id)
        return _wish(row, "detach_iso", correlation_id)


# Its image


@dataclass(frozen=True)
class Template:
    """An image to make other servers of: what it is called, and what they shall share after all."""

    name: str
    keep: tuple[Trace, ...] = ()


def create_image(
    server: Server, description: str, labels: dict[str, str], correlation_id: str, template: Template | None = None
) -> tuple[Image, Action]:
    """Take a snapshot of its disk; with `template`, one under a name that is cleaned of what two servers must not
    share. Raises Conflict when it has none, LimitExceeded, IntegrityError for a name that is taken."""
    with quota.held(server.project_id), actions.alone(KIND, server) as row:
        if row.node_id is None or not row.image_sha256:
            raise Conflict(f"server {row.name} has no disk yet")
        quota.check(row.project_id, snapshots=1)
        image = _snapshot_row(row, description, labels, template.name if template else "")
        wanted: dict[str, Any] = {"image": image.pk}
        if template:
            wanted["keep"] = [trace.value for trace in template.keep]
        action = actions.begin(KIND, row, "create_image", correlation_id, wanted, [actions.about("image", image)])
        engine.wake(row, KIND, urgent=True)
    return image, action


def _snapshot_row(server: Server, description: str, labels: dict[str, str], name: str) -> Image:
    base = server.image
    return Image.objects.create(
        name=name,
        project_id=server.project_id,
        type="snapshot",
        state="building",
        doing=f"taken of server {server.name}",
        step="rest",
        next_at=None,
        uuid=new_uuid(),
        description=description,
        labels=labels,
        os_flavor=base.os_flavor,
        os_version=base.os_version,
        default_user=base.default_user,
        cloud_init=base.cloud_init,
        created_from_id=server.pk,
        created_from_name=server.name,
        firmware=server.firmware,
        kernel_of=server.image_sha256 if base.manifest.get("direct_boot") else "",
    )


# Rows alone


def protect(server: Server, delete: bool | None, rebuild: bool | None, correlation_id: str) -> Action:
    """Protect it against deletion, rebuild, or both, or no longer; None: as it is."""
    said = {"protect_delete": delete, "protect_rebuild": rebuild}
    with transaction.atomic():
        changes = {name: value for name, value in said.items() if value is not None}
        if changes:
            Server.objects.filter(pk=server.pk).update(**changes)
        return actions.finished(KIND, server, "change_protection", correlation_id)


def join_group(server: Server, group: PlacementGroup, correlation_id: str) -> Action:
    """Put a server that is off into a placement group. Raises NotStopped, AlreadyInGroup, PlacementFailed."""
    with actions.alone(KIND, server) as row:
        if row.placement_group_id is not None:
            raise AlreadyInGroup(f"server {row.name} is in a placement group already", hint="take it out of that first")
        if row.status != Status.OFF:
            raise NotStopped(f"server {row.name} is {row.status}", hint="power it off first")
        if row.node_id is not None:
            Node.objects.select_for_update().get(pk=row.node_id)  # whoever claims a place here waits for this lock
            if other := Server.objects.filter(placement_group=group, node=row.node_id).first():
                raise PlacementFailed(
                    f"server {row.name} is on the same node as server {other.name} of placement group {group.name}",
                    hint="a server stays on its node: make a new one in the group",
                )
        Server.objects.filter(pk=row.pk).update(placement_group=group)
        return actions.finished(KIND, row, "add_to_placement_group", correlation_id)


def leave_group(server: Server, correlation_id: str) -> Action:
    """Take it out of its placement group, if it is in one."""
    with actions.alone(KIND, server) as row:
        Server.objects.filter(pk=row.pk).update(placement_group=None)
        return actions.finished(KIND, row, "remove_from_placement_group", correlation_id)


def console(server: Server, correlation_id: str) -> Action:
    """Say that its screen was asked for. Raises Conflict when it is off."""
    if server.status not in UP:
        raise Conflict(f"server {server.name} is {server.status}: it has no screen", hint="power it on first")
    return actions.finished(KIND, server, "request_console", correlation_id)
