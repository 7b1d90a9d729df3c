"""What can be asked of a server besides its power: what its node has afterwards, and what is refused, with what."""

from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from paddock.base.errors import (
    Conflict,
    Invalid,
    InvalidServerType,
    Locked,
    NoRoom,
    NotStopped,
    PaddockError,
    Protected,
    Unsupported,
)
from paddock.cloud.flows import engine, server
from paddock.cloud.flows import image as images
from paddock.cloud.flows import node as watching
from paddock.cloud.flows import server_wishes as wishes
from paddock.cloud.flows import volume as volumes
from paddock.cloud.flows.engine import Flow, advance, wake
from paddock.cloud.models import Action, Event, Image, Node, Server, ServerType, Volume
from paddock.machine.image import Role
from paddock.machine.state import Phase
from tests.cloud.harness import Cloud, make_image

FLOW = Flow.registry["server"]


def plan(name: str) -> ServerType:
    return ServerType.objects.get(name=name)


def done(cloud: Cloud, action: Action) -> Action:
    """The action, once all rests."""
    cloud.settle()
    action.refresh_from_db()
    return action


def succeeded(cloud: Cloud, action: Action) -> None:
    ended = done(cloud, action)
    assert ended.status == "success", f"{ended.error_code}: {ended.error_message}"


def fresh(row: Server) -> Server:
    return Server.objects.get(pk=row.pk)


def change(row: Server, name: str, *, disk: bool = False, live: bool = False) -> Action:
    return wishes.change_type(row, plan(name), upgrade_disk=disk, live=live, correlation_id="")


def rescue_image() -> Image:
    return make_image("rescue", "rescue", Role.KERNEL, Role.INITRD)


# Rebuild


@pytest.mark.parametrize("stopped", [True, False])
def test_rebuild_gives_another_disk_and_runs(cloud: Cloud, stopped: bool) -> None:
    row = cloud.stopped_server() if stopped else cloud.running_server()
    other = make_image("other", "snapshot", Role.DISK, project=row.project)
    before = fresh(row)
    action = wishes.rebuild(row, other, "#cloud-config\n{}", "$6$x$y", "")
    assert fresh(row).user_data == "#cloud-config\n{}"
    succeeded(cloud, action)
    after, machine = fresh(row), cloud.machine(row)
    assert (after.status, after.image, after.generation, after.number) == ("running", other, 1, before.number)
    assert (machine.system_disk.generation, machine.image) == (1, other.sha256)
    assert cloud.saved(row)["disks"]["system"]["generation"] == 1
    assert (machine.seed.user_data, machine.seed.password_hash) == ("#cloud-config\n{}", "$6$x$y")
    assert machine.network.ssh_port == before.ssh_port


def test_rebuild_keeps_user_data_that_is_not_given(cloud: Cloud) -> None:
    row = cloud.running_server(user_data="#!/bin/sh\n")
    succeeded(cloud, wishes.rebuild(row, row.image, None, "", ""))
    assert cloud.machine(row).seed.user_data == "#!/bin/sh\n"


def test_rebuild_tells_that_it_rebuilds(cloud: Cloud) -> None:
    row = cloud.running_server()
    wishes.rebuild(row, row.image, None, "", "")
    engine_attempts(cloud, row, until="clone")
    assert fresh(row).status == "rebuilding"
    cloud.settle()


def engine_attempts(cloud: Cloud, row: Server, until: str) -> None:
    """Let its worker die where this step begins."""
    from_here = engine._attempt

    class Enough(engine.LeaseLost):
        pass

    def attempt(flow: Any, found: Any) -> Any:
        if found.step == until:
            raise Enough
        return from_here(flow, found)

    engine._attempt = attempt  # type: ignore[assignment]  # of one flow only
    try:
        advance(FLOW, row.pk)
    finally:
        engine._attempt = from_here


def test_rebuild_is_refused_where_it_is_protected_or_too_small(cloud: Cloud) -> None:
    row = cloud.running_server()
    large = make_image("large", "snapshot", Role.DISK, project=row.project)
    Image.objects.filter(pk=large.pk).update(manifest={**large.manifest, "disk_size": 3 * 2**30})
    large.refresh_from_db()
    with pytest.raises(Invalid, match="needs 3 GB of disk, the server has 2"):
        wishes.rebuild(row, large, None, "", "")
    wishes.protect(row, delete=None, rebuild=True, correlation_id="")
    with pytest.raises(Protected):
        wishes.rebuild(row, row.image, None, "", "")
    assert fresh(row).status == "running"


def test_a_deleted_image_goes_when_the_last_server_was_rebuilt(cloud: Cloud) -> None:
    base = make_image("base", "snapshot", Role.DISK, project=cloud.project())
    row = cloud.running_server()
    succeeded(cloud, wishes.rebuild(row, base, None, "", ""))
    images.delete(base, "")
    cloud.settle()
    assert Image.objects.get(pk=base.pk).deleted
    succeeded(cloud, wishes.rebuild(row, Image.objects.get(project=None, name="tiny"), None, "", ""))
    assert not Image.objects.filter(pk=base.pk).exists()
    assert base.sha256 not in cloud.host().disks.images()


# Another type


def test_change_of_type_claims_and_gives_back(cloud: Cloud) -> None:
    row = cloud.stopped_server()
    succeeded(cloud, change(row, "small", disk=True))
    node, machine = cloud.node, cloud.machine(row)
    assert (node.claimed_cpus, node.claimed_memory_mib, node.claimed_disk_gib) == (2, 2048, 40)
    assert (machine.cpus, machine.memory_mib, machine.system_disk.size) == (2, 2048, 40 * 2**30)
    assert fresh(row).server_type.name == "small"
    with pytest.raises(InvalidServerType, match="has 20 GB of disk, server web-1 has 40 GB"):
        change(row, "micro", disk=True)
    server.delete(row)
    cloud.settle()
    cloud.nothing_left()


def test_change_of_type_and_back_with_the_disk_kept(cloud: Cloud) -> None:
    row = cloud.stopped_server()
    succeeded(cloud, change(row, "small"))
    assert fresh(row).disk_gib == 2
    succeeded(cloud, change(row, "nano"))
    assert (cloud.node.claimed_memory_mib, cloud.node.claimed_disk_gib) == (128, 2)
    assert cloud.machine(row).memory_mib == 128


def test_change_of_type_is_refused(cloud: Cloud) -> None:
    row = cloud.running_server()
    with pytest.raises(NotStopped):
        change(row, "small")
    with pytest.raises(InvalidServerType):
        change(row, "nano")
    server.ask(row, "stop_server")
    with pytest.raises(Locked):
        change(row, "small")
    cloud.settle()
    Node.objects.update(memory_mib=1000)
    with pytest.raises(NoRoom, match="872 of 1000 MiB of memory free"):
        change(row, "small")
    assert cloud.node.claimed_cpus == 1
    assert fresh(row).server_type.name == "nano"


def test_more_while_it_runs(cloud: Cloud) -> None:
    row = cloud.running_server(plan="micro")
    assert (fresh(row).max_cores, fresh(row).max_memory_mib) == (8, 8192)
    with pytest.raises(NotStopped, match="larger disk"):
        change(row, "small", disk=True, live=True)
    succeeded(cloud, change(row, "small", live=True))
    machine = cloud.machine(row)
    assert (machine.cpus, machine.memory_mib) == (2, 2048)
    assert cloud.node.claimed_cpus == 2
    with pytest.raises(NotStopped, match="only be given more"):
        change(row, "micro", live=True)


def test_what_waits_for_the_next_start_anyway_is_no_matter_of_a_live_change(cloud: Cloud) -> None:
    row = cloud.running_server(plan="micro")
    succeeded(cloud, wishes.reset_password(row, "$6$salt$other", ""))
    Server.objects.filter(pk=row.pk).update(name="renamed")
    succeeded(cloud, change(row, "small", live=True))
    assert (cloud.machine(row).cpus, cloud.machine(row).memory_mib) == (2, 2048)


def test_the_smallest_get_no_memory_while_they_run(cloud: Cloud) -> None:
    row = cloud.running_server(plan="nano")
    assert (fresh(row).max_cores, fresh(row).max_memory_mib) == (8, 0)
    with pytest.raises(Unsupported, match="at most 8 CPUs and 128 MiB while it runs") as refused:
        change(row, "small", live=True)
    assert refused.value.hint == "power it off first"
    assert fresh(row).server_type.name == "nano"
    succeeded(cloud, server.ask(row, "stop_server"))
    succeeded(cloud, change(row, "small"))
    succeeded(cloud, server.ask(row, "start_server"))
    assert cloud.machine(row).memory_mib == 2048


def test_more_than_it_was_born_for_needs_a_stop(cloud: Cloud) -> None:
    row = cloud.running_server(plan="micro")
    Server.objects.filter(pk=row.pk).update(max_memory_mib=1024)
    with pytest.raises(Unsupported, match="at most 8 CPUs and 1024 MiB"):
        change(row, "small", live=True)
    Server.objects.filter(pk=row.pk).update(layout=1)
    with pytest.raises(Unsupported):
        change(row, "small", live=True)


@pytest.mark.parametrize(("operation", "live"), [("ensure_disk", False), ("adapt", True)])
def test_a_type_that_the_node_can_not_give_is_taken_back(cloud: Cloud, operation: str, live: bool) -> None:
    row = cloud.running_server(plan="micro") if live else cloud.stopped_server(plan="micro")
    cloud.agent_faults(fail=[{"operation": operation, "code": "disk_full"}])
    action = change(row, "small", disk=not live, live=live)
    assert cloud.node.claimed_cpus == 2
    ended = done(cloud, action)
    assert (ended.status, ended.error_code) == ("error", "disk_full")
    after, machine = fresh(row), cloud.machine(row)
    assert (after.server_type.name, after.disk_gib, machine.cpus, machine.memory_mib) == ("micro", 20, 1, 1024)
    assert (cloud.node.claimed_cpus, cloud.node.claimed_disk_gib) == (1, 20)
    assert after.told == after.revision
    assert after.status == ("running" if live else "off")


def test_a_larger_disk_comes_when_the_node_is_back(cloud: Cloud) -> None:
    """The type is changed while the node does not answer: the action gives up, and nobody forgets the disk."""
    row = cloud.stopped_server()
    cloud.agent_faults(fail=[{"operation": "ensure_disk", "times": 5}])
    action = change(row, "small", disk=True)
    advance(FLOW, row.pk)
    Server.objects.filter(pk=row.pk).update(deadline=Now(), next_at=Now())
    advance(FLOW, row.pk)
    action.refresh_from_db()
    assert action.error_code == "unavailable"
    cloud.agent_faults(clear=True)
    cloud.settle()
    assert cloud.saved(row)["disks"]["system"]["size"] == 40 * 2**30
    succeeded(cloud, server.ask(row, "start_server"))


# Its password


def test_password(cloud: Cloud) -> None:
    row = cloud.running_server()
    succeeded(cloud, wishes.reset_password(row, "$6$a$b", ""))
    assert fresh(row).password_hash == "$6$a$b"


def test_password_of_a_server_that_is_off(cloud: Cloud) -> None:
    row = cloud.stopped_server()
    ended = done(cloud, wishes.reset_password(row, "$6$a$b", ""))
    assert (ended.status, ended.error_message) == ("error", "server web-1 is off")
    assert fresh(row).status == "off"
    assert fresh(row).password_hash == ""


def test_password_without_a_guest_agent_ends_in_its_words(cloud: Cloud) -> None:
    row = cloud.running_server()
    cloud.agent_faults(guest_agent_absent=True)
    action = wishes.reset_password(row, "$6$a$b", "")
    advance(FLOW, row.pk)
    Server.objects.filter(pk=row.pk).update(deadline=Now(), next_at=Now())
    ended = done(cloud, action)
    assert ended.status == "error"
    assert "agent" in ended.error_message
    assert fresh(row).status == "running"


# The rescue system


@pytest.mark.parametrize("out", ["reboot_server", "reset_server"])
@pytest.mark.parametrize("by", ["reboot_server", "reset_server", "stop_server"])
def test_rescue_is_booted_once(cloud: Cloud, by: str, out: str) -> None:
    image, row = rescue_image(), cloud.running_server()
    succeeded(cloud, wishes.enable_rescue(row, ["ssh-ed25519 AAAA me"], "$6$r$r", ""))
    assert cloud.machine(row).rescue is None
    succeeded(cloud, server.ask(row, "start_server"))  # it is on: nothing changes
    assert (fresh(row).in_rescue, fresh(row).status) == (False, "running")
    succeeded(cloud, server.ask(row, by))
    if by == "stop_server":
        succeeded(cloud, server.ask(row, "start_server"))
    rescue = cloud.machine(row).rescue
    assert rescue is not None
    assert (rescue.image, rescue.ssh_keys, rescue.password_hash) == (image.sha256, ("ssh-ed25519 AAAA me",), "$6$r$r")
    assert (fresh(row).in_rescue, fresh(row).rescue_until) == (True, None)
    succeeded(cloud, server.ask(row, out))
    assert cloud.machine(row).rescue is None
    assert (fresh(row).in_rescue, fresh(row).status) == (False, "running")


def test_out_of_rescue_by_the_guests_own_reboot(cloud: Cloud) -> None:
    rescue_image()
    row = cloud.running_server()
    wishes.enable_rescue(row, [], "", "")
    cloud.settle()
    server.ask(row, "reset_server")
    cloud.settle()
    cloud.agent_faults(reboot=[str(row.uuid)])
    assert [m.rebooting for m in cloud.node_says()] == [True]
    watching.look(cloud.node, 1, 0)
    cloud.settle()
    assert (fresh(row).status, fresh(row).in_rescue) == ("running", False)
    assert cloud.machine(row).rescue is None
    assert [m.phase for m in cloud.node_says()] == [Phase.RUNNING]


def test_rescue_that_nobody_boots_is_over_after_its_hour(cloud: Cloud) -> None:
    rescue_image()
    row = cloud.stopped_server()
    succeeded(cloud, wishes.enable_rescue(row, [], "", ""))
    Server.objects.filter(pk=row.pk).update(rescue_until=Now())
    succeeded(cloud, server.ask(row, "start_server"))
    assert cloud.machine(row).rescue is None
    assert fresh(row).rescue_until is None


def test_rescue_taken_back(cloud: Cloud) -> None:
    rescue_image()
    row = cloud.running_server()
    assert wishes.disable_rescue(row, "").status == "success"  # it was not enabled
    wishes.enable_rescue(row, [], "", "")
    cloud.settle()
    succeeded(cloud, wishes.enable_rescue(row, ["k"], "", ""))  # twice: other keys
    assert wishes.disable_rescue(row, "").status == "success"
    succeeded(cloud, server.ask(row, "reboot_server"))
    assert cloud.machine(row).rescue is None


def test_rescue_survives_a_start_that_fails(cloud: Cloud) -> None:
    rescue_image()
    row = cloud.stopped_server()
    wishes.enable_rescue(row, [], "", "")
    cloud.settle()
    cloud.agent_faults(fail=[{"operation": "power", "code": "refused"}])
    assert done(cloud, server.ask(row, "start_server")).status == "error"
    succeeded(cloud, server.ask(row, "start_server"))
    assert cloud.machine(row).rescue is not None


def test_no_rescue_system_no_rescue(cloud: Cloud) -> None:
    row = cloud.running_server()
    Image.objects.filter(type="rescue").update(type="app")
    try:
        with pytest.raises(Unsupported):
            wishes.enable_rescue(row, [], "", "")
    finally:
        Image.objects.filter(type="app", name="rescue").update(type="rescue")


# CDs


def test_iso_in_and_out(cloud: Cloud) -> None:
    first, second = make_image("one", "iso", Role.ISO), make_image("two", "iso", Role.ISO)
    row = cloud.running_server()
    assert wishes.detach_iso(row, "").status == "success"  # there is none
    succeeded(cloud, wishes.attach_iso(row, first, ""))
    assert cloud.machine(row).iso == first.sha256
    succeeded(cloud, wishes.attach_iso(row, second, ""))
    assert (cloud.machine(row).iso, fresh(row).iso) == (second.sha256, second)
    succeeded(cloud, wishes.detach_iso(row, ""))
    assert (cloud.machine(row).iso, fresh(row).iso) == (None, None)


def test_an_iso_that_the_node_refuses_is_not_in_the_drive(cloud: Cloud) -> None:
    iso, row = make_image("one", "iso", Role.ISO), cloud.running_server()
    cloud.agent_faults(fail=[{"operation": "adapt", "code": "refused"}])
    assert done(cloud, wishes.attach_iso(row, iso, "")).status == "error"
    assert (fresh(row).iso, cloud.machine(row).iso, fresh(row).status) == (None, None, "running")


# Snapshots


def test_snapshot(cloud: Cloud) -> None:
    row = cloud.running_server()
    image, action = wishes.create_image(row, "before the change", {"a": "b"}, "")
    assert (image.state, image.created_from_id, image.labels) == ("building", row.pk, {"a": "b"})
    assert action.more == [{"id": image.pk, "type": "image"}]
    succeeded(cloud, action)
    image.refresh_from_db()
    assert (image.state, image.frozen, image.problem) == ("ready", True, "")
    cloud.new_server("web-2")
    again = cloud.running_server("web-3")
    succeeded(cloud, wishes.rebuild(again, image, None, "", ""))
    assert cloud.machine(again).image == image.sha256


def test_only_delete_comes_between_a_snapshot(cloud: Cloud) -> None:
    row = cloud.running_server()
    cloud.agent_faults(copy_seconds=60)
    image, action = wishes.create_image(row, "", {}, "")
    advance(FLOW, row.pk)
    for ask in (
        lambda: wishes.rebuild(row, row.image, None, "", ""),
        lambda: server.ask(row, "stop_server"),
        lambda: wishes.create_image(row, "", {}, ""),
        lambda: wishes.attach_iso(row, image, ""),
    ):
        with pytest.raises(Locked, match="busy with create_image"):
            ask()
    server.delete(row)
    action = done(cloud, action)
    assert action.error_code == "server_deleted"
    assert not Image.objects.filter(pk=image.pk).exists()
    cloud.nothing_left()


def test_a_snapshot_that_fails_leaves_nothing(cloud: Cloud) -> None:
    row = cloud.running_server()
    cloud.agent_faults(copy_error="the disk is broken")
    image, action = wishes.create_image(row, "", {}, "")
    ended = done(cloud, action)
    assert "the disk is broken" in ended.error_message
    assert not Image.objects.filter(pk=image.pk).exists()
    assert fresh(row).status == "running"


def test_a_failed_snapshot_that_its_node_does_not_give_up_at_once(cloud: Cloud) -> None:
    row = cloud.running_server()
    refused = [{"operation": "drop_snapshot", "code": "refused"}]
    cloud.agent_faults(copy_error="the disk is broken", fail=refused)
    image, action = wishes.create_image(row, "", {}, "")
    assert "the disk is broken" in done(cloud, action).error_message
    assert not Image.objects.filter(pk=image.pk).exists()
    assert fresh(row).status == "running"


def test_a_snapshot_that_is_deleted_while_it_is_made(cloud: Cloud) -> None:
    row = cloud.running_server()
    cloud.agent_faults(copy_seconds=60)
    image, action = wishes.create_image(row, "", {}, "")
    advance(FLOW, row.pk)
    images.delete(image, "")
    assert done(cloud, action).status == "error"
    assert not Image.objects.filter(pk=image.pk).exists()
    assert fresh(row).status == "running"


def test_no_snapshot_of_what_has_no_disk(cloud: Cloud) -> None:
    row = cloud.new_server()
    Server.objects.filter(pk=row.pk).update(step="rest", status="off", action_id=None)
    Action.objects.update(status="error")
    with pytest.raises(Conflict):
        wishes.create_image(row, "", {}, "")


# What its node was not told


def bump(row: Server) -> None:
    Server.objects.filter(pk=row.pk).update(revision=F("revision") + 1)
    wake(row, "server")


def test_what_changed_is_told_at_rest(cloud: Cloud) -> None:
    row = cloud.running_server()
    Server.objects.filter(pk=row.pk).update(name="db-1")
    bump(row)
    cloud.settle()
    assert fresh(row).told == fresh(row).revision == 1
    assert [m.phase for m in cloud.node_says()] == [Phase.RUNNING]


def test_what_can_not_be_told_waits_and_lets_wishes_through(cloud: Cloud) -> None:
    row = cloud.running_server()
    cloud.agent_faults(fail=[{"operation": "adapt", "code": "refused", "times": 50}])
    bump(row)
    advance(FLOW, row.pk)
    assert "its node to take the change" in fresh(row).waiting_for
    server.ask(row, "stop_server")
    advance(FLOW, row.pk)
    assert fresh(row).status == "off"
    cloud.agent_faults(clear=True)
    cloud.settle()
    assert fresh(row).told == 1


def test_what_was_never_made_is_not_told(cloud: Cloud) -> None:
    row = cloud.running_server()
    cloud.host().machines.remove(row.uuid, row.epoch)
    bump(row)
    cloud.settle()
    assert fresh(row).told == 1


def test_a_server_of_before_the_upgrade_goes_on(cloud: Cloud) -> None:
    """Layout 1, and nobody has counted its revisions: it is not told anything, and can be stopped and started."""
    row = cloud.running_server()
    Server.objects.filter(pk=row.pk).update(layout=1, max_cores=0, max_memory_mib=0, revision=0, told=0)
    wake(row, "server")
    cloud.settle()
    assert not Event.objects.filter(row_id=row.pk, step="adapt").exists()
    for command in ("stop_server", "start_server"):
        succeeded(cloud, server.ask(row, command))
    assert cloud.machine(row).layout == 1


# Volumes


def test_a_server_is_born_with_its_volumes(cloud: Cloud) -> None:
    data = Volume(project=cloud.project(), name="data", size_gib=10)
    volumes.create(data, None, False)
    cloud.settle()
    row = cloud.running_server(volumes=[data])
    assert [a.serial for a in cloud.machine(row).volumes] == [str(data.pk)]
    assert Action.objects.get(kind="volume", command="attach_volume").status == "success"
    server.delete(row)
    cloud.settle()
    data.refresh_from_db()
    assert (data.server, data.made_gib, data.node) == (None, 10, cloud.node)
    assert [v.uuid for v in cloud.host().volumes.volumes()] == [data.uuid]
    again = cloud.running_server("web-2", volumes=[data])
    assert again.node == data.node


def test_a_taken_volume_refuses_the_server(cloud: Cloud) -> None:
    data = Volume(project=cloud.project(), name="data", size_gib=10)
    volumes.create(data, None, False)
    cloud.settle()
    cloud.running_server(volumes=[data])
    data.refresh_from_db()
    with pytest.raises(PaddockError) as caught:
        cloud.new_server("web-2", volumes=[data])
    assert caught.value.code == "volume_already_attached"
    assert Server.objects.count() == 1


# Rows alone


def test_protection(cloud: Cloud) -> None:
    row = cloud.running_server()
    assert wishes.protect(row, delete=True, rebuild=True, correlation_id="").status == "success"
    with pytest.raises(Protected):
        server.delete(row)
    wishes.protect(row, delete=False, rebuild=None, correlation_id="")
    assert fresh(row).protect_rebuild
    server.delete(row)
    cloud.settle()
    cloud.nothing_left()


def test_console(cloud: Cloud) -> None:
    row = cloud.running_server()
    assert wishes.console(row, "").status == "success"
    server.ask(row, "stop_server")
    cloud.settle()
    with pytest.raises(Conflict, match="has no screen"):
        wishes.console(fresh(row), "")


def test_nothing_is_asked_of_a_server_that_is_being_made(cloud: Cloud) -> None:
    row = cloud.new_server()
    for ask in (
        lambda: wishes.rebuild(row, row.image, None, "", ""),
        lambda: change(row, "small"),
        lambda: wishes.reset_password(row, "", ""),
        lambda: wishes.detach_iso(row, ""),
        lambda: wishes.create_image(row, "", {}, ""),
        lambda: wishes.disable_rescue(row, ""),
    ):
        with pytest.raises(Locked, match="busy with create_server"):
            ask()
    assert Action.objects.count() == 1
    cloud.settle()


# What a create costs


def test_a_plain_create_asks_the_database_no_more_than_it_must(cloud: Cloud) -> None:
    """Without volumes, groups and limits none of them costs a query. The base configuration costs one."""
    cloud.running_server("warm")
    kind = plan("nano")
    row = Server(
        project=cloud.project(), name="web-1", server_type=kind, cores=kind.cores, memory_mib=kind.memory_mib,
        disk_gib=kind.disk_gib, image=Image.objects.get(project=None, name="tiny"),
    )  # fmt: skip
    with CaptureQueriesContext(connection) as asked:
        server.create(row)
    with CaptureQueriesContext(connection) as made:
        advance(FLOW, row.pk)
    assert (len(asked), len(made)) == (8, 20), [q["sql"][:100] for q in [*asked, *made]]
    assert fresh(row).status == "running"
