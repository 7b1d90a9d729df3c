"""Guests that are held ready, real ones of `tiny`: who begins from one is somebody of its own, and they are in nobody's
way."""

import errno
import itertools
import os
import pkgutil
import signal
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from paddock.base import clock
from paddock.base.errors import Unavailable
from paddock.hypervisor.qemu import room
from paddock.hypervisor.qemu.warm import pool
from paddock.machine.spec import MIB, Attached, Machine, Power, Volume
from paddock.machine.state import Phase
from paddock.machine.warm import Start, Wish
from tests.guests.qemu_node import exists, until
from tests.guests.test_warm import LINES, OWN, Warm, warm_node

pytestmark = [pytest.mark.guest, pytest.mark.slow]

TAKEN = Start(warm=True, pool=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with warm_node(tmp_path_factory.mktemp("pool") / "source") as warm:
        yield warm


@pytest.fixture
def warm(shared: Warm) -> Iterator[Warm]:
    shared.made(shared.define("before"))
    yield shared
    shared.node.host.warm.keep_ready(())
    for name in [d.name for d in (shared.node.state / "machines").iterdir()]:
        shared.node.host.machines.remove(UUID(name), 99)
    until(lambda: held(shared) == [], 30)


def keep(warm: Warm, count: int, **like: object) -> None:
    warm.node.host.warm.keep_ready((Wish(machine=warm.define("like", **like), count=count),))


def ready(warm: Warm) -> int:
    return sum(image.ready for image in warm.images())


def until_ready(warm: Warm, count: int) -> None:
    until(lambda: ready(warm) == count, 90)


def held(warm: Warm) -> list[str]:
    return os.listdir(warm.node.state / "pool")


def pids(warm: Warm) -> list[int]:
    """Of the QEMUs that are held."""
    return [one.process.pid for one in warm.node.host.warm.pool._ready]


def taken(warm: Warm, name: str = "web-1", **changes: object) -> Machine:
    machine = warm.define(name, **changes)
    assert warm.start(machine) == TAKEN
    return machine


def test_they_share_nothing(warm: Warm) -> None:
    keep(warm, 5)
    until_ready(warm, 5)
    machines = [taken(warm, f"web-{n}") for n in range(5)]
    for machine in machines:
        warm.until_ready(machine)
    own = [warm.sh(machine, OWN).splitlines() for machine in machines]
    assert [len(lines) for lines in own] == [LINES] * 5
    for one, other in itertools.combinations(own, 2):
        assert not set(one) & set(other)
    drawn = [warm.drawn(machine) for machine in machines]
    for numbers, others in itertools.combinations(drawn, 2):
        assert not numbers & others
    until_ready(warm, 5)  # it is filled again


def test_who_took_one_is_a_machine_like_any_other(warm: Warm) -> None:
    volume = Volume(uuid=uuid4(), size=16 * MIB)
    warm.node.host.volumes.ensure_volume(volume, 1)
    keep(warm, 1)
    until_ready(warm, 1)
    machine = taken(warm, "web-9", volumes=(Attached(volume=volume.uuid, serial="1234"),))
    warm.until_ready(machine)
    assert warm.sh(machine, "hostname; ls /dev/disk/by-id") == "web-9\nscsi-0HC_Volume_1234"
    warm.sh(machine, "echo kept > /root/kept; echo kept > /run/kept; sync")
    warm.node.restart()  # the next process finds it, though its QEMU was started with another uuid
    state = warm.node.host.machines.state(machine.uuid)
    assert (state.phase, state.began) == (Phase.RUNNING, TAKEN)
    until(lambda: warm.node.host.machines.hibernate(machine.uuid, 1).done, 60)
    warm.node.host.machines.power(machine.uuid, Power.ON, 1)
    assert warm.node.host.machines.state(machine.uuid).cold_start == ""
    until(lambda: "agent" in warm.node.host.machines.readiness(machine.uuid).by, 60)
    assert warm.sh(machine, "cat /run/kept") == "kept"
    warm.off(machine)
    assert warm.start(machine) == Start()
    warm.until_ready(machine)
    assert warm.sh(machine, "hostname; cat /root/kept /sys/class/dmi/id/product_uuid") == f"web-9\nkept\n{machine.uuid}"


def test_only_who_is_like_them_takes_one(warm: Warm) -> None:
    keep(warm, 1)
    until_ready(warm, 1)
    larger = warm.define().system_disk.model_copy(update={"size": warm.image.disk_size + 64 * MIB})
    assert warm.start(warm.define("larger", system_disk=larger)) == Start(warm=True)
    assert not warm.start(warm.define("other", memory_mib=160)).warm
    assert ready(warm) == 1
    taken(warm)


def test_none_is_left_by_an_earlier_process(warm: Warm) -> None:
    keep(warm, 2)
    until_ready(warm, 2)
    old = pids(warm)
    kept = warm.node.host.warm.pool
    kept._ready = []  # as if it had been killed: nobody ends them
    warm.node.restart()
    until(lambda: not any(exists(pid) for pid in old))
    assert held(warm) == []


def test_one_that_died_is_replaced_and_not_taken(warm: Warm) -> None:
    keep(warm, 1)
    until_ready(warm, 1)
    [pid] = pids(warm)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not exists(pid))
    machine = warm.define()
    assert warm.start(machine).warm
    until(lambda: ready(warm) == 1 and pids(warm) != [pid], 60)


@pytest.mark.parametrize("at", ["held.pool.move_in", "held.scope.put_into_scope", "runs.warm_start.wake"])
def test_one_that_can_not_be_taken_costs_the_start_nothing(
    warm: Warm, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Whatever happens to it in the machine's hands, the machine begins without it."""
    keep(warm, 1)
    until_ready(warm, 1)
    [pid] = pids(warm)
    machine = warm.define()
    place = f"paddock.hypervisor.qemu.{at}"
    really = pkgutil.resolve_name(place)

    def fail(*_: object) -> None:
        monkeypatch.setattr(place, really)
        raise Unavailable("it is ill")

    monkeypatch.setattr(place, fail)
    assert warm.start(machine) == Start(warm=True)
    assert not exists(pid)
    warm.until_ready(machine)


def test_the_host_s_memory_is_the_machines(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(warm, 2)
    until_ready(warm, 2)
    kept = warm.node.host.warm.pool
    monkeypatch.setattr(kept, "_free", lambda: room.RESERVE_MIB - 1)
    until(lambda: held(warm) == [], 30)
    assert "the node can spare 0 MiB of memory" in next(image.lacking for image in warm.images())
    monkeypatch.undo()
    until_ready(warm, 2)


def test_a_full_disk_is_said_and_leaves_nothing(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(warm.node.host.warm.store, "stand_on", full)
        keep(warm, 1)
        until(lambda: any("no room" in image.lacking for image in warm.images()), 30)
    assert held(warm) == []
    keep(warm, 2)  # asked for anew, it is not tried in a minute only
    until_ready(warm, 2)


def test_none_is_made_while_machines_are_started(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "QUIET", 5.0)
    warm.start(warm.define())
    keep(warm, 1)
    clock.sleep(2)
    assert ready(warm) == 0
    assert next(image.lacking for image in warm.images()) == "machines are being started"
    until_ready(warm, 1)


def test_without_their_warm_image_they_end(warm: Warm) -> None:
    keep(warm, 1)
    until_ready(warm, 1)
    [image] = warm.images()
    warm.node.host.warm.remove_warm(image.id)
    until(lambda: held(warm) == [], 60)  # while another is made
    until_ready(warm, 1)


def test_a_crash_between_two_names(warm: Warm) -> None:
    """The machine's directory is aside, and nothing took its place."""
    machine = warm.define()
    root = warm.node.directory(machine)
    root.rename(pool.aside(root))
    warm.node.restart()
    assert warm.node.host.machines.state(machine.uuid).phase is Phase.DEFINED
    assert not pool.aside(root).exists()
