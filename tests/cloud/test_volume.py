"""A volume's life on the fake: made, attached, mounted, grown, detached, protected, deleted; and never lost."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from paddock.base.errors import (
    AlreadyAttached,
    InUse,
    Invalid,
    LimitExceeded,
    Locked,
    NameTaken,
    NoSpace,
    PaddockError,
    Protected,
    Refused,
    Unsupported,
)
from paddock.cloud.flows import mounting, server, volume, volume_room
from paddock.cloud.flows.engine import LeaseLost, advance, wake
from paddock.cloud.models import Action, Node, Project, Server, Volume
from paddock.machine.spec import GIB
from paddock.machine.state import GuestResult
from tests.cloud.harness import Cloud, at_once


def new_volume(cloud: Cloud, name: str = "data-1", size_gib: int = 10, **fields: Any) -> Volume:
    """A volume that was asked for, and with `server` is to be attached to that."""
    at, automount = fields.pop("server", None), fields.pop("automount", False)
    row = Volume(project=fields.pop("project", cloud.project()), name=name, size_gib=size_gib, **fields)
    volume.create(row, at, automount)
    return row


def fresh(row: Volume) -> Volume:
    return Volume.objects.select_related("node", "server").get(pk=row.pk)


def asked(row: Volume, command: str) -> Action:
    return Action.objects.filter(kind="volume", row_id=row.pk, command=command).latest("id")


def there(cloud: Cloud) -> dict[UUID, int]:
    """What the node has: sizes in GiB."""
    return {v.uuid: v.size // GIB for v in cloud.host().volumes.volumes()}


def claimed(cloud: Cloud) -> int:
    """GiB that volumes claim on the node, whatever servers do."""
    return cloud.node.claimed_disk_gib - sum(s.disk_gib for s in Server.objects.filter(node__isnull=False))


def of_machine(cloud: Cloud, row: Server) -> list[UUID]:
    """The volumes that the machine has on its node."""
    row.refresh_from_db()
    assert row.told == row.revision
    saved = json.loads(next(cloud.agent.state_dir.rglob(f"machines/{row.uuid}.json")).read_text())
    return [UUID(v["volume"]) for v in (saved.get("running") or saved["machine"]).get("volumes", [])]


def attached(cloud: Cloud, size_gib: int = 10) -> tuple[Volume, Server]:
    host = cloud.running_server()
    row = new_volume(cloud, size_gib=size_gib, server=host)
    cloud.settle()
    assert fresh(row).server == host, fresh(row).problem
    return fresh(row), host


def test_an_unattached_one_takes_no_room(cloud: Cloud) -> None:
    row = new_volume(cloud)
    assert fresh(row).status == "creating"
    cloud.settle()
    row = fresh(row)
    assert (row.status, row.node, row.made_gib, asked(row, "create_volume").status) == ("available", None, 0, "success")
    assert there(cloud) == {}
    assert claimed(cloud) == 0
    volume.delete(row)
    cloud.settle()
    assert not Volume.objects.exists()


def test_the_whole_life(cloud: Cloud) -> None:
    row, host = attached(cloud)
    assert (row.made_gib, row.node, there(cloud), claimed(cloud)) == (10, cloud.node, {row.uuid: 10}, 10)
    assert of_machine(cloud, host) == [row.uuid]
    assert [a.status for a in Action.objects.filter(kind="volume").order_by("id")] == ["success", "success"]
    assert asked(row, "attach_volume").more == [{"id": host.pk, "type": "server"}]
    volume.resize(row, 25)
    cloud.settle()
    assert (fresh(row).made_gib, there(cloud), claimed(cloud)) == (25, {row.uuid: 25}, 25)
    volume.detach(fresh(row))
    cloud.settle()
    row = fresh(row)
    assert (row.server, row.detaching, there(cloud), of_machine(cloud, host)) == (None, False, {row.uuid: 25}, [])
    volume.attach(row, host, False)
    cloud.settle()
    assert of_machine(cloud, host) == [row.uuid]
    volume.detach(fresh(row))
    cloud.settle()
    volume.delete(fresh(row))
    cloud.settle()
    assert (there(cloud), claimed(cloud), Volume.objects.count()) == ({}, 0, 0)
    assert set(Action.objects.filter(kind="volume").values_list("status", flat=True)) == {"success"}


def test_a_new_server_with_volumes(cloud: Cloud) -> None:
    row = new_volume(cloud)
    cloud.settle()
    host = cloud.new_server(volumes=[row])
    cloud.settle()
    assert asked(row, "attach_volume").status == "success"
    assert of_machine(cloud, host) == [row.uuid]


# What is refused, and leaves all as it is


def test_deleting_one_that_a_server_has(cloud: Cloud) -> None:
    row, _ = attached(cloud)
    with pytest.raises(InUse, match="still attached to server web-1"):
        volume.delete(row)
    assert there(cloud) == {row.uuid: 10}


def test_protection(cloud: Cloud) -> None:
    row = new_volume(cloud)
    cloud.settle()
    assert volume.protect(row, True).status == "success"
    with pytest.raises(Protected):
        volume.delete(row)
    volume.protect(row, False)
    volume.delete(row)
    volume.delete(row)  # asking again changes nothing
    cloud.settle()
    assert not Volume.objects.exists()


def test_one_server_at_a_time(cloud: Cloud) -> None:
    row, host = attached(cloud)
    with pytest.raises(AlreadyAttached, match="web-1"):
        volume.attach(row, host, False)
    other = cloud.running_server("web-2")
    volume.detach(row)
    with pytest.raises(Locked, match="busy with detach_volume"):
        volume.detach(row)
    with pytest.raises(AlreadyAttached):
        volume.attach(row, other, False)
    cloud.settle()
    with pytest.raises(Invalid, match="not attached"):
        volume.detach(row)


def test_two_attaches_race(cloud: Cloud) -> None:
    hosts = [cloud.running_server(f"web-{i}") for i in range(2)]
    row = new_volume(cloud)
    cloud.settle()
    ended = at_once(*(partial(volume.attach, fresh(row), host, False) for host in hosts))
    assert [type(e) for e in ended if isinstance(e, PaddockError)] == [AlreadyAttached]
    cloud.settle()
    winner = fresh(row).server
    assert winner is not None
    assert [len(of_machine(cloud, h)) for h in hosts] == [int(h == winner) for h in hosts]


def test_names_are_unique_and_free_after_a_delete(cloud: Cloud) -> None:
    row = new_volume(cloud, "data")
    cloud.settle()
    with pytest.raises(NameTaken):
        new_volume(cloud, "DATA")
    volume.delete(row)
    assert new_volume(cloud, "data").pk != row.pk  # before the old one is gone
    cloud.settle()
    assert Volume.objects.get().name == "data"


def test_quotas(cloud: Cloud) -> None:
    project = Project.objects.create(name="small", limit_volumes=2, limit_volume_gib=30)
    row = new_volume(cloud, "a", 10, project=project)
    new_volume(cloud, "b", 10, project=project)
    with pytest.raises(LimitExceeded):
        new_volume(cloud, "c", 1, project=project)
    cloud.settle()
    with pytest.raises(LimitExceeded):
        volume.resize(fresh(row), 21)
    volume.resize(fresh(row), 20)
    cloud.settle()
    assert fresh(row).size_gib == 20
    cloud.reset()
    project.delete()


def test_never_smaller(cloud: Cloud) -> None:
    row, _ = attached(cloud)
    for size in (10, 9):
        with pytest.raises(Invalid, match="never shrink"):
            volume.resize(row, size)


def test_too_many(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume, "MAX_VOLUMES", 1)
    _, host = attached(cloud)
    with pytest.raises(LimitExceeded, match="has 1 volumes"):
        new_volume(cloud, "data-2", server=host)


def test_no_room(cloud: Cloud) -> None:
    host = cloud.running_server()
    Node.objects.update(disk_gib=host.disk_gib + 20)
    with pytest.raises(NoSpace):
        new_volume(cloud, "huge", 21)
    with pytest.raises(NoSpace, match="20 GiB are free"):
        new_volume(cloud, "huge", 21, server=host)
    row = new_volume(cloud, "fits", 20, server=host)
    cloud.settle()
    with pytest.raises(NoSpace, match="to grow by 1 GiB"):
        volume.resize(fresh(row), 21)
    assert (claimed(cloud), fresh(row).size_gib) == (20, 20)


def test_a_disk_that_others_filled(cloud: Cloud) -> None:
    """Nothing is claimed of it, and no volume comes there, nor grows."""
    row, host = attached(cloud)
    Node.objects.update(facts={**cloud.node.facts, "disk_free": 2**20})
    with pytest.raises(NoSpace, match="1 MiB of its disk really free"):
        new_volume(cloud, "more", 10, server=host)
    with pytest.raises(NoSpace, match="really free"):
        volume.resize(fresh(row), 11)
    assert claimed(cloud) == 10


def test_a_volume_of_another_node(cloud: Cloud) -> None:
    row, host = attached(cloud)
    volume.detach(row)
    cloud.settle()
    other = Node.objects.create(name="n2", url="unix:///nowhere", state="down")
    Server.objects.filter(pk=host.pk).update(node=other)
    host.refresh_from_db()
    with pytest.raises(Unsupported, match="lies on node n1, and server web-1 is on n2"):
        volume.attach(fresh(row), host, False)
    Server.objects.filter(pk=host.pk).update(node=cloud.node)
    other.delete()


# What fails


def test_a_node_that_can_not_make_it(cloud: Cloud) -> None:
    """The volume is as before: nobody's, nowhere, and may be tried again."""
    host = cloud.running_server()
    cloud.agent_faults(disk_full=True)
    row = new_volume(cloud, server=host)
    cloud.settle()
    row = fresh(row)
    assert asked(row, "attach_volume").error_code == "disk_full"
    assert (row.status, row.server, row.node, claimed(cloud), there(cloud)) == ("available", None, None, 0, {})
    cloud.agent_faults(clear=True)
    volume.attach(row, host, False)
    cloud.settle()
    assert of_machine(cloud, host) == [row.uuid]


def test_a_node_that_can_not_grow_it(cloud: Cloud) -> None:
    row, _ = attached(cloud)
    cloud.agent_faults(disk_full=True)
    volume.resize(row, 50)
    assert claimed(cloud) == 50
    cloud.settle()
    cloud.agent_faults(clear=True)
    row = fresh(row)
    assert asked(row, "resize_volume").error_code == "disk_full"
    assert (row.size_gib, row.made_gib, claimed(cloud), there(cloud)) == (10, 10, 10, {row.uuid: 10})


@pytest.mark.slow
def test_answers_that_are_lost(cloud: Cloud) -> None:
    lost = [{"operation": o, "after": True} for o in ("ensure_volume", "adapt", "remove_volume")]
    cloud.agent_faults(fail=lost)
    row, host = attached(cloud)
    server.delete(host)
    cloud.settle()
    volume.delete(fresh(row))
    cloud.settle()
    assert (there(cloud), claimed(cloud), Volume.objects.count()) == ({}, 0, 0)
    cloud.agent_faults(clear=True)


def test_a_server_that_can_not_take_it(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node refuses to plug it in: the volume comes back, with its data."""
    monkeypatch.setattr(volume_room, "REFUSED_SECONDS", 0.2)
    host = cloud.running_server()
    adapt = type(cloud.host().machines).adapt

    def refuse(self: object, machine: UUID, epoch: int) -> object:
        if Volume.objects.filter(server=host, detaching=False).exists():
            raise Refused("no slot is free")
        return adapt(self, machine, epoch)  # type: ignore[arg-type]  # the method itself

    monkeypatch.setattr(type(cloud.host().machines), "adapt", refuse)
    row = new_volume(cloud, server=host)
    cloud.settle()
    row = fresh(row)
    assert "no slot is free" in asked(row, "attach_volume").error_message
    assert (row.server, row.made_gib, there(cloud), of_machine(cloud, host)) == (None, 10, {row.uuid: 10}, [])


def test_a_removal_that_fails(cloud: Cloud) -> None:
    row, _ = attached(cloud)
    volume.detach(row)
    cloud.settle()
    cloud.agent_faults(fail=[{"operation": "remove_volume", "code": "refused"}])
    volume.delete(fresh(row))
    cloud.settle()
    row = fresh(row)
    assert (row.name, row.delete_requested, there(cloud)) == ("data-1", False, {row.uuid: 10})
    assert asked(row, "delete_volume").status == "error"
    volume.delete(row)
    cloud.settle()
    assert there(cloud) == {}


# With what happens to its server


def test_a_deleted_server_leaves_its_volumes(cloud: Cloud) -> None:
    row, host = attached(cloud)
    server.delete(host)
    cloud.settle()
    row = fresh(row)
    assert (row.server, there(cloud), claimed(cloud)) == (None, {row.uuid: 10}, 10)
    volume.attach(row, cloud.running_server("web-2"), False)
    cloud.settle()
    assert asked(row, "attach_volume").status == "success"


@pytest.mark.parametrize("steps", range(6))
def test_a_server_deleted_while_attaching(cloud: Cloud, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each of the steps: the attachment fails or had succeeded, and the volume stays."""
    host = cloud.running_server()
    row = new_volume(cloud, server=host)
    stop_after(monkeypatch, steps)
    advance(volume.VolumeFlow.registry["volume"], row.pk)
    monkeypatch.undo()
    server.delete(host)
    cloud.settle()
    row = fresh(row)
    assert (row.server, row.status) == (None, "available")
    assert not Action.objects.filter(status="running").exists()
    assert there(cloud) == ({row.uuid: 10} if row.made_gib else {})
    assert claimed(cloud) == (10 if row.node else 0)
    volume.delete(row)
    cloud.settle()
    assert (there(cloud), claimed(cloud)) == ({}, 0)


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let a volume's flow take this many steps and no more."""
    step, left = volume.VolumeFlow.step, [steps]

    def counted(self: volume.VolumeFlow, row: Volume) -> Callable[[Volume], object]:
        if not left[0]:
            raise LeaseLost("enough for this test")
        left[0] -= 1
        return step(self, row)

    monkeypatch.setattr(volume.VolumeFlow, "step", counted)


def test_a_server_that_is_off(cloud: Cloud) -> None:
    host = cloud.running_server()
    server.ask(host, "stop_server")
    cloud.settle()
    row = new_volume(cloud, server=host)
    cloud.settle()
    assert of_machine(cloud, host) == [row.uuid]
    volume.detach(fresh(row))
    cloud.settle()
    assert of_machine(cloud, host) == []


@pytest.mark.slow
def test_detach_while_the_node_is_down(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays attached, and says so, until the node was told: else two machines could have it."""
    row, host = attached(cloud)
    monkeypatch.setattr(volume_room, "BUSY_SECONDS", 0.3)
    Node.objects.update(state="down")
    cloud.agent.stop()
    try:
        volume.detach(row)
        for _ in range(200):
            advance(volume.VolumeFlow.registry["volume"], row.pk)
            advance(server.ServerFlow.registry["server"], host.pk)
            if asked(row, "detach_volume").status != "running":
                break
    finally:
        cloud.agent.start()
        Node.objects.update(state="up")
    assert asked(row, "detach_volume").status == "error"
    assert "node n1 is down" in asked(row, "detach_volume").error_message
    wake(host, "server")  # rather than wait for its next try
    cloud.settle()
    row = fresh(row)
    assert (row.server, row.detaching, there(cloud)) == (host, False, {row.uuid: 10})


# Mounting


def test_automount(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []
    record_commands(cloud, monkeypatch, ran, 0)
    host = cloud.running_server()
    row = new_volume(cloud, server=host, automount=True, format="ext4")
    cloud.settle()
    assert asked(row, "attach_volume").status == "success"
    device, place = f"/dev/disk/by-id/scsi-0HC_Volume_{row.pk}", f"/mnt/HC_Volume_{row.pk}"
    assert [command[4:] for command in ran] == [(device, place, "ext4")]
    volume.detach(fresh(row))
    cloud.settle()
    assert ran[-1][4:] == (device, place)


def record_commands(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, ran: list[tuple[str, ...]], code: int) -> None:
    def exec_(_self: object, _machine: UUID, argv: tuple[str, ...], _stdin: str, _timeout: float) -> GuestResult:
        ran.append(argv)
        return GuestResult(exit_code=code, stdout="", stderr="wrong fs type" if code else "")

    monkeypatch.setattr(type(cloud.host().guest), "exec", exec_)


def test_what_can_not_be_mounted_stays_attached(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    record_commands(cloud, monkeypatch, [], 32)
    host = cloud.running_server()
    row = new_volume(cloud, server=host, automount=True)
    cloud.settle()
    assert "wrong fs type" in asked(row, "attach_volume").error_message
    assert of_machine(cloud, host) == [row.uuid]


def test_a_guest_without_agent(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounting, "AGENT_SECONDS", 0.1)
    host = cloud.running_server()
    cloud.agent_faults(guest_agent_absent=True)
    row = new_volume(cloud, server=host, automount=True)
    cloud.settle()
    action = asked(row, "attach_volume")
    assert (action.status, "is attached, but not mounted" in action.error_message) == ("error", True)
    assert f"scsi-0HC_Volume_{row.pk}" in action.error_hint
    assert of_machine(cloud, host) == [row.uuid]
    volume.detach(fresh(row))
    cloud.settle()
    assert asked(row, "detach_volume").status == "success"
    cloud.agent_faults(clear=True)


def test_automount_needs_a_running_server(cloud: Cloud) -> None:
    host = cloud.running_server()
    server.ask(host, "stop_server")
    cloud.settle()
    row = new_volume(cloud, server=host, automount=True)
    cloud.settle()
    assert "server web-1 is off" in asked(row, "attach_volume").error_message
    assert of_machine(cloud, host) == [row.uuid]
