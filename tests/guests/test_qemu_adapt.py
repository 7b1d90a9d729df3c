"""Bringing a QEMU to its definition while it runs, and being killed half-way. QEMU is real, its guest never boots."""

import os
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from paddock.base.errors import Conflict, NotFound
from paddock.hypervisor.qemu import devices
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import MIB, Attached, Machine, Power, UserNetwork, Volume
from paddock.machine.state import Adapted
from tests.guests.qemu_node import Node
from tests.hypervisor.qemu.machines import bring, described, free_port

pytestmark = pytest.mark.guest

CHANGES = {"device_add", "device_del", "blockdev-add", "blockdev-del", "object-add", "object-del", "eject", "qom-set"}
CHANGES |= {"blockdev-change-medium", "blockdev-close-tray"}


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


class Killed(BaseException):
    """Where the agent's process was killed."""


def volume(node: Node, serial: str = "1") -> Attached:
    made = Volume(uuid=uuid4(), size=16 * MIB)
    node.host.volumes.ensure_volume(made, 1)
    return Attached(volume=made.uuid, serial=serial)


def iso(node: Node, name: str) -> ImageManifest:
    source = node.root / name
    source.mkdir()
    (source / Role.ISO).write_bytes(name.encode().ljust(4096))
    manifest = ImageManifest(name=name, disk_size=0, files=(described(source, Role.ISO),))
    assert bring(node.host, manifest, source).done
    return manifest


def paused(node: Node, **changes: object) -> Machine:
    room: dict[str, object] = {"layout": 2, "memory_mib": 256, "max_cpus": 4, "max_memory_mib": 1024}
    machine = node.define(None, **{**room, **changes})
    node.host.machines.power(machine.uuid, Power.ON_PAUSED, 1)
    return machine


def become(node: Node, machine: Machine, **changes: object) -> Adapted:
    node.host.machines.ensure(machine.model_copy(update=changes), 1)
    return node.host.machines.adapt(machine.uuid, 1)


def ask(node: Node, machine: Machine, command: str, **arguments: object) -> Any:
    return node.host.machines.running(machine.uuid).execute(command, arguments)


def what_it_has(node: Node, machine: Machine) -> dict[str, Any]:
    """All that adapt changes, as QEMU has it."""
    blocks = ask(node, machine, "query-block")
    memory = ask(node, machine, "query-memory-size-summary")
    nodes = {n["node-name"] for n in ask(node, machine, "query-named-block-nodes", flat=True)}
    return {
        "disks": sorted(b["qdev"] for b in blocks if b["qdev"].startswith("volume-")),
        "nodes": sorted(n for n in nodes if n.startswith("v-") or n == "iso"),
        "cd": next(b.get("inserted", {}).get("file", "") for b in blocks if b["qdev"] == "iso0"),
        "open": next(b["tray_open"] for b in blocks if b["qdev"] == "iso0"),
        "cd_first": ask(node, machine, "qom-get", path="/machine/peripheral/iso0", property="bootindex"),
        "cpus": sum("qom-path" in c for c in ask(node, machine, "query-hotpluggable-cpus")),
        "memory": (memory["base-memory"] + memory["plugged-memory"]) // MIB,
        "backends": sum(m["id"].startswith("ram") for m in ask(node, machine, "query-memdev")),
    }


def expected(machine: Machine) -> dict[str, Any]:
    return {
        "disks": sorted(devices.device_id(a.volume) for a in machine.volumes),
        "nodes": sorted(devices.node_name(a.volume) for a in machine.volumes),
        "cd": f"../../images/{machine.iso}/iso" if machine.iso else "",
        "open": False,
        "cd_first": 0 if machine.iso else -1,
        "cpus": machine.cpus,
        "memory": machine.memory_mib,
        "backends": 1 if machine.memory_mib > 256 else 0,
    }


@pytest.mark.parametrize("kept", [False, True])
def test_killed_after_each_command(node: Node, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    """The agent is killed before its first change, after it, after the second, ...: the next agent brings all to an
    end. Once from one volume and CD to others, once to none."""
    old, new = volume(node, "1"), volume(node, "2")
    first, second = iso(node, "first"), iso(node, "second")
    changes: dict[str, Any] = {"volumes": (new,), "iso": second.sha256, "cpus": 4, "memory_mib": 384}
    if not kept:
        changes = {"volumes": (), "iso": None}
    commands, died = 0, True
    while died:
        machine = paused(node, volumes=(old,), iso=first.sha256)
        had = {**expected(machine), "nodes": sorted(["iso", devices.node_name(old.volume)])}
        assert what_it_has(node, machine) == had
        died = _dies_after(node, machine, changes, commands, monkeypatch)
        if died:
            node.restart()
        adapted = become(node, machine, **changes)
        assert all(said.startswith("its guest has not") for said in adapted.pending)  # it never booted
        assert what_it_has(node, machine) == expected(machine.model_copy(update=changes))
        node.host.machines.remove(machine.uuid, 1)
        commands += 1
    assert commands > (10 if kept else 5)


def _dies_after(
    node: Node, machine: Machine, changes: dict[str, Any], commands: int, monkeypatch: pytest.MonkeyPatch
) -> bool:
    """Whether there were more commands than that."""
    node.host.machines.ensure(machine.model_copy(update=changes), 1)
    held = node.host.machines.running(machine.uuid)
    left, execute = commands, held.execute

    def dying(command: str, arguments: dict[str, Any] | None = None) -> Any:
        nonlocal left
        if command in CHANGES and left == 0:
            raise Killed
        left -= command in CHANGES
        return execute(command, arguments)

    with monkeypatch.context() as patched:
        patched.setattr(held, "execute", dying)
        try:
            node.host.machines.adapt(machine.uuid, 1)
        except Killed:
            return True
    return False


def test_adapt_twice_changes_nothing_and_off_is_left_alone(node: Node) -> None:
    machine = paused(node)
    attached = volume(node)
    for _ in range(2):
        assert become(node, machine, volumes=(attached,)) == Adapted()
    node.restart()
    assert node.host.machines.adapt(machine.uuid, 2) == Adapted()
    assert node.host.machines.state(machine.uuid).epoch == 2
    node.host.machines.power(machine.uuid, Power.OFF, 2)
    assert become(node, machine, cpus=4) == Adapted()
    with pytest.raises(NotFound):
        node.host.machines.adapt(uuid4(), 1)


def test_two_machines_never_have_one_volume(node: Node) -> None:
    attached = volume(node)
    first, second = paused(node, volumes=(attached,)), paused(node)
    with pytest.raises(Conflict, match=f"attached to machine {first.uuid}"):
        become(node, second, volumes=(attached,))
    node.host.machines.ensure(first.model_copy(update={"volumes": ()}), 1)  # told, but not yet adapted
    with pytest.raises(Conflict, match="in use by another machine's QEMU"):
        become(node, second, volumes=(attached,))
    node.host.machines.power(second.uuid, Power.OFF, 1)
    with pytest.raises(Conflict, match="in use by another machine's QEMU"):
        node.host.machines.power(second.uuid, Power.ON_PAUSED, 1)
    node.host.machines.adapt(first.uuid, 1)
    node.host.machines.power(second.uuid, Power.ON_PAUSED, 1)
    assert what_it_has(node, second)["disks"] == [devices.device_id(attached.volume)]


def test_a_volume_that_qemu_still_has_is_not_removed(node: Node) -> None:
    attached = volume(node)
    machine = paused(node, volumes=(attached,))
    node.host.machines.ensure(machine.model_copy(update={"volumes": ()}), 1)
    with pytest.raises(Conflict, match="still in use"):
        node.host.volumes.remove_volume(attached.volume, 1)
    node.host.machines.adapt(machine.uuid, 1)
    node.host.volumes.remove_volume(attached.volume, 1)


@pytest.mark.parametrize("told", [False, True])
def test_a_volume_grows_wherever_it_is(node: Node, told: bool) -> None:
    """In the QEMU that has it, even one that shall not have it any more; and as a file after that."""
    attached = volume(node)
    machine = paused(node, volumes=(attached,))
    if told:
        node.host.machines.ensure(machine.model_copy(update={"volumes": ()}), 1)
    node.host.volumes.ensure_volume(Volume(uuid=attached.volume, size=32 * MIB), 1)
    nodes = ask(node, machine, "query-named-block-nodes", flat=True)
    name = devices.node_name(attached.volume)
    assert [n["image"]["virtual-size"] for n in nodes if n["node-name"] == name] == [32 * MIB]
    node.host.machines.power(machine.uuid, Power.OFF, 1)
    node.host.volumes.ensure_volume(Volume(uuid=attached.volume, size=48 * MIB), 1)
    assert node.host.volumes.volumes()[0].size == 48 * MIB


def test_a_volume_that_a_stranger_has_open_is_left_alone(node: Node) -> None:
    """qemu-img and QEMU lock what they use; whoever it is, nothing is changed under it."""
    attached = volume(node)
    machine = paused(node, volumes=(attached,))
    other = QemuHypervisor(node.root / "other", "tcg")
    try:
        node.host.close()
        os.rename(node.state / "volumes", node.root / "other/volumes-of-node")
        os.rmdir(node.root / "other/volumes")
        os.rename(node.root / "other/volumes-of-node", node.root / "other/volumes")
        with pytest.raises(Conflict, match="no machine of this node"):
            other.volumes.ensure_volume(Volume(uuid=attached.volume, size=32 * MIB), 1)
        with pytest.raises(Conflict, match="still in use"):
            other.volumes.remove_volume(attached.volume, 1)
    finally:
        other.close()
        node.host = QemuHypervisor(node.state, "tcg")
    node.host.machines.remove(machine.uuid, 1)


def test_what_comes_with_the_next_start_is_said(node: Node) -> None:
    machine = paused(node)
    changes = {
        "name": "other",
        "cpus": 1,
        "network": UserNetwork(mac="52:54:00:00:00:01", ssh_port=free_port()),
        "seed": machine.seed.model_copy(update={"hostname": "other"}),
    }
    pending = become(node, machine, **changes).pending
    assert [word for word in ("1 from", "name", "network", "cloud-init") if not any(word in p for p in pending)] == []
    node.restart()
    assert node.host.machines.adapt(machine.uuid, 1).pending == pending
    node.host.machines.power(machine.uuid, Power.OFF, 1)
    node.host.machines.power(machine.uuid, Power.ON_PAUSED, 1)
    assert node.host.machines.adapt(machine.uuid, 1) == Adapted()


def test_layout_1_has_no_room_and_says_so(node: Node) -> None:
    machine = paused(node, layout=1)
    attached = volume(node)
    pending = become(node, machine, cpus=3, memory_mib=512, iso=iso(node, "cd").sha256, volumes=(attached,)).pending
    assert [p.split()[0:2] for p in pending] == [["the", "ISO"], ["it", "has"], ["it", "has"]]
    disks = [b["qdev"] for b in ask(node, machine, "query-block")]
    assert devices.device_id(attached.volume) in disks
