"""What the fake does beyond the contract: faults on demand, room, slow guests, thousands of machines."""

import json
import threading
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from paddock.base import clock
from paddock.base.errors import Conflict, DiskFull, NotFound, PortTaken, Refused, Unavailable
from paddock.base.run import run
from paddock.hypervisor.fake import FakeHypervisor
from paddock.hypervisor.fake_qcow2 import qcow2
from paddock.hypervisor.faults import Failure, FaultOrder
from paddock.images.importer import import_disk
from paddock.images.inspect import inspect
from paddock.images.store import ImageStore
from paddock.machine.image import ImageManifest
from paddock.machine.spec import GIB, MIB, Power
from paddock.machine.state import Phase
from tests.contract.specs import IMAGE_SIZE, attached, make_image, make_machine, make_volume, system_disk


def with_image(fake: FakeHypervisor, directory: Path) -> ImageManifest:
    manifest = make_image(directory, qcow2=False)
    assert fake.disks.ensure_image(manifest, str(directory)).done
    return manifest


def started(fake: FakeHypervisor, image: str, port: int = 2200) -> UUID:
    machine = make_machine(image, port=port)
    fake.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
    fake.machines.ensure(machine, 1)
    fake.machines.power(machine.uuid, Power.ON, 1)
    return machine.uuid


@pytest.fixture
def fake() -> FakeHypervisor:
    return FakeHypervisor()


@pytest.fixture
def machine(fake: FakeHypervisor, tmp_path: Path) -> UUID:
    return started(fake, with_image(fake, tmp_path).sha256)


def test_ordered_failures_come_and_go(fake: FakeHypervisor, machine: UUID) -> None:
    fake.inject(FaultOrder(fail=(Failure(operation="power", code="port_taken", times=2),)))
    for _ in range(2):
        with pytest.raises(PortTaken, match="failed on demand"):
            fake.machines.power(machine, Power.OFF, 1)
    assert fake.machines.state(machine).phase is Phase.RUNNING
    fake.machines.power(machine, Power.OFF, 1)
    assert fake.machines.state(machine).phase is Phase.OFF


def test_lost_answer_leaves_the_effect(fake: FakeHypervisor, machine: UUID) -> None:
    fake.inject(FaultOrder(fail=(Failure(operation="power", after=True),)))
    with pytest.raises(Unavailable):
        fake.machines.power(machine, Power.OFF, 1)
    assert fake.machines.state(machine).phase is Phase.OFF


def test_failure_of_one_machine_spares_the_others(fake: FakeHypervisor, machine: UUID) -> None:
    fake.inject(FaultOrder(fail=(Failure(operation="state", machine=uuid4()),)))
    fake.machines.state(machine)
    fake.inject(FaultOrder(clear=True, fail=(Failure(operation="state", code="refused", machine=machine),)))
    with pytest.raises(Refused):
        fake.machines.state(machine)


def test_delay_slows_every_call_until_cleared(fake: FakeHypervisor, machine: UUID) -> None:
    fake.inject(FaultOrder(delay=0.2))
    start = clock.monotonic()
    fake.machines.state(machine)
    assert clock.monotonic() - start >= 0.2
    fake.inject(FaultOrder(clear=True))
    start = clock.monotonic()
    fake.machines.state(machine)
    assert clock.monotonic() - start < 0.1


def test_crash_is_seen_and_the_machine_starts_again(fake: FakeHypervisor, machine: UUID) -> None:
    cursor = fake.machines.changes(0, 0).cursor
    fake.inject(FaultOrder(crash=(machine,)))
    change = fake.machines.changes(cursor, 5)
    assert [s.phase for s in change.machines] == [Phase.CRASHED]
    assert change.machines[0].reason
    fake.machines.power(machine, Power.ON, 1)
    assert fake.machines.state(machine).phase is Phase.RUNNING
    with pytest.raises(NotFound):
        fake.inject(FaultOrder(crash=(uuid4(),)))


def test_guests_misbehave(fake: FakeHypervisor, machine: UUID) -> None:
    assert fake.machines.readiness(machine).ready
    fake.inject(FaultOrder(never_ready=True, guest_agent_hangs=True, shutdown_ignored=True))
    assert fake.machines.readiness(machine).waiting_for == "ssh"
    with pytest.raises(Unavailable):
        fake.guest.exec(machine, ("true",), "", 0.05)
    fake.machines.power(machine, Power.SHUTDOWN, 1)
    assert fake.machines.state(machine).phase is Phase.RUNNING
    fake.inject(FaultOrder(shutdown_ignored=False))
    fake.machines.power(machine, Power.SHUTDOWN, 1)
    assert fake.machines.state(machine).phase is Phase.OFF


def test_guest_takes_its_time(tmp_path: Path) -> None:
    fake = FakeHypervisor(ready_after=0.3)
    machine = started(fake, with_image(fake, tmp_path).sha256)
    readiness = fake.machines.readiness(machine)
    assert (readiness.ready, readiness.waiting_for) == (False, "ssh")
    assert "login" in readiness.last_words
    with pytest.raises(Unavailable):
        fake.guest.exec(machine, ("true",), "", 0.05)
    assert fake.guest.exec(machine, ("true",), "", 5).exit_code == 0
    assert fake.machines.readiness(machine).ready


def test_disk_fills_up_and_is_given_back(tmp_path: Path) -> None:
    fake = FakeHypervisor(disk=GIB)
    image = with_image(fake, tmp_path).sha256
    free = fake.machines.facts().disk_free
    first, second = uuid4(), uuid4()
    fake.disks.ensure_disk(first, system_disk(image, free - IMAGE_SIZE), 1)
    with pytest.raises(DiskFull, match="free"):
        fake.disks.ensure_disk(second, system_disk(image, 2 * IMAGE_SIZE), 1)
    with pytest.raises(DiskFull):
        fake.disks.ensure_disk(first, system_disk(image, free + 512), 1)
    assert fake.machines.facts().disk_free == IMAGE_SIZE
    fake.machines.remove(first, 1)
    assert fake.machines.facts().disk_free == free
    fake.disks.remove_image(image)
    assert fake.machines.facts().disk_free == GIB


def test_image_that_does_not_fit(tmp_path: Path) -> None:
    fake = FakeHypervisor(disk=100)
    progress = fake.disks.ensure_image(make_image(tmp_path, qcow2=False), str(tmp_path))
    assert not progress.done
    assert "no room" in progress.error


def test_disk_does_not_grow_under_a_running_machine(fake: FakeHypervisor, machine: UUID) -> None:
    image = fake.disks.images()[0]
    with pytest.raises(Conflict):
        fake.disks.ensure_disk(machine, system_disk(image, 2 * IMAGE_SIZE), 1)


def test_volumes_take_room(tmp_path: Path) -> None:
    fake = FakeHypervisor(disk=GIB)
    volume = make_volume(GIB // 2)
    fake.volumes.ensure_volume(volume, 1)
    with pytest.raises(DiskFull, match="free"):
        fake.volumes.ensure_volume(make_volume(2 * GIB, volume.uuid), 1)
    with pytest.raises(DiskFull):
        fake.volumes.ensure_volume(make_volume(GIB), 1)
    assert fake.machines.facts().disk_free == GIB // 2
    assert [v.size for v in fake.volumes.volumes()] == [GIB // 2]
    fake.inject(FaultOrder(disk_full=True))
    with pytest.raises(DiskFull):
        fake.volumes.ensure_volume(make_volume(MIB), 1)
    fake.inject(FaultOrder(clear=True))
    fake.volumes.remove_volume(volume.uuid, 1)
    assert fake.machines.facts().disk_free == GIB


def test_lost_volume(fake: FakeHypervisor, machine: UUID) -> None:
    volume = make_volume()
    fake.volumes.ensure_volume(volume, 1)
    definition = fake.fakes[machine].saved.machine
    assert definition
    fake.machines.ensure(definition.model_copy(update={"volumes": attached(volume)}), 1)
    fake.machines.adapt(machine, 1)
    fake.inject(FaultOrder(lose=(volume.uuid,)))
    assert fake.volumes.volumes() == ()
    fake.machines.power(machine, Power.OFF, 1)
    with pytest.raises(NotFound, match=str(volume.uuid)):
        fake.machines.power(machine, Power.ON, 1)


def test_volume_moves_when_its_guest_let_go(fake: FakeHypervisor, machine: UUID) -> None:
    volume, image = make_volume(), fake.disks.images()[0]
    other = started(fake, image, port=2300)
    fake.volumes.ensure_volume(volume, 1)
    one, two = fake.fakes[machine].saved.machine, fake.fakes[other].saved.machine
    assert one
    assert two
    fake.machines.ensure(one.model_copy(update={"volumes": attached(volume)}), 1)
    fake.machines.adapt(machine, 1)
    fake.machines.ensure(one, 1)
    fake.machines.ensure(two.model_copy(update={"volumes": attached(volume)}), 1)
    with pytest.raises(Conflict, match=str(machine)):
        fake.machines.adapt(other, 1)
    fake.machines.adapt(machine, 1)
    assert fake.machines.adapt(other, 1).pending == ()


def test_memory_that_is_added_is_taken(fake: FakeHypervisor, tmp_path: Path) -> None:
    made = make_machine(with_image(fake, tmp_path).sha256)
    machine = made.model_copy(update={"layout": 2, "memory_mib": 256, "max_memory_mib": 1024})
    fake.disks.ensure_disk(machine.uuid, machine.system_disk, 1)
    fake.machines.ensure(machine, 1)
    fake.machines.power(machine.uuid, Power.ON, 1)
    free = fake.machines.facts().memory_free_mib
    fake.machines.ensure(machine.model_copy(update={"memory_mib": 1024}), 1)
    assert fake.machines.facts().memory_free_mib == free
    assert fake.machines.adapt(machine.uuid, 1).pending == ()
    assert fake.machines.facts().memory_free_mib == free - 768
    fake.inject(FaultOrder(guest_agent_absent=True))
    assert "not taken" in fake.machines.adapt(machine.uuid, 1).pending[0]
    fake.machines.power(machine.uuid, Power.OFF, 1)
    assert fake.machines.facts().memory_free_mib == fake.memory_mib


def test_snapshot_is_an_image_for_the_importer(fake: FakeHypervisor, machine: UUID, tmp_path: Path) -> None:
    fake.machines.power(machine, Power.OFF, 1)
    fake.disks.ensure_disk(machine, system_disk(fake.disks.images()[0], 40 * GIB), 1)
    manifests = []
    for name in ("one", "two"):
        assert fake.disks.snapshot(machine, uuid4(), str(tmp_path / name), 1).done
        manifests.append(import_disk(tmp_path / name, ImageStore(tmp_path / "store"), "snapshot"))
    assert [m.disk_size for m in manifests] == [40 * GIB] * 2
    assert manifests[0].sha256 != manifests[1].sha256


@pytest.mark.parametrize("size", [MIB, 513 * MIB, 40 * GIB, 16 * 1024 * GIB])
def test_pretended_disk_is_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "disk"
    path.write_bytes(qcow2(size, b"these words"))
    run(["qemu-img", "check", "-q", "-f", "qcow2", path])
    info = json.loads(run(["qemu-img", "info", "--output=json", path]).stdout)
    assert (info["format"], info["virtual-size"]) == ("qcow2", size)
    assert inspect(path).disk_size == size


def test_slow_snapshot_tells_how_far_it_is(fake: FakeHypervisor, machine: UUID, tmp_path: Path) -> None:
    snapshot, target = uuid4(), tmp_path / "target"
    fake.inject(FaultOrder(copy_seconds=0.3))
    first = fake.disks.snapshot(machine, snapshot, str(target), 1)
    assert not first.done
    assert first.frozen
    clock.sleep(0.1)
    second = fake.disks.snapshot(machine, snapshot, str(target), 1)
    assert 0 < second.bytes_done < second.bytes_total
    assert not target.exists()
    clock.sleep(0.25)
    assert fake.disks.snapshot(machine, snapshot, str(target), 1).done
    assert target.exists()


def test_snapshots_go_wrong_as_ordered(fake: FakeHypervisor, machine: UUID, tmp_path: Path) -> None:
    snapshot, target = uuid4(), str(tmp_path / "target")
    fake.inject(FaultOrder(disk_full=True))
    with pytest.raises(DiskFull):
        fake.disks.snapshot(machine, snapshot, target, 1)
    fake.inject(FaultOrder(clear=True, copy_error="the copy broke"))
    assert fake.disks.snapshot(machine, snapshot, target, 1).error == "the copy broke"
    fake.inject(FaultOrder(clear=True, not_frozen="the guest said no"))
    taken = fake.disks.snapshot(machine, snapshot, target, 1)
    assert (taken.done, taken.frozen, taken.not_frozen) == (True, False, "the guest said no")


def test_guest_without_an_agent(fake: FakeHypervisor, machine: UUID, tmp_path: Path) -> None:
    fake.inject(FaultOrder(guest_agent_absent=True))
    start = clock.monotonic()
    with pytest.raises(Unavailable):
        fake.guest.exec(machine, ("true",), "", 30)
    with pytest.raises(Unavailable):
        fake.guest.set_password(machine, "root", "$6$x")
    assert clock.monotonic() - start < 1
    assert "agent" in fake.disks.snapshot(machine, uuid4(), str(tmp_path / "target"), 1).not_frozen
    assert fake.machines.readiness(machine).by == ("ssh",)


def test_passwords_are_on_the_disk(fake: FakeHypervisor, machine: UUID) -> None:
    fake.guest.set_password(machine, "root", "$6$one")
    fake.guest.set_password(machine, "root", "$6$two")
    assert fake.fakes[machine].saved.passwords == {"root": "$6$two"}
    fake.machines.power(machine, Power.OFF, 1)
    disk = system_disk(fake.disks.images()[0]).model_copy(update={"generation": 1})
    fake.disks.ensure_disk(machine, disk, 1)
    assert fake.fakes[machine].saved.passwords == {}


def test_commands_are_remembered(fake: FakeHypervisor, machine: UUID) -> None:
    for number in range(150):
        fake.guest.exec(machine, ("mount", str(number)), "", 5)
    assert fake.fakes[machine].commands[-1] == ("mount", "149")
    assert len(fake.fakes[machine].commands) == 100


def test_guest_reboots_by_itself(fake: FakeHypervisor, machine: UUID) -> None:
    before = fake.machines.state(machine)
    fake.inject(FaultOrder(reboot=(machine,)))
    after = fake.machines.state(machine)
    assert after.phase is Phase.RUNNING
    assert after.since != before.since


def test_metrics_are_steady_and_none_while_it_was_off(
    fake: FakeHypervisor, machine: UUID, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift = tmp_path / "shift"
    monkeypatch.setenv("PADDOCK_CLOCK_FILE", str(shift))
    begin = clock.now().timestamp()
    shift.write_text("600")
    fake.machines.power(machine, Power.OFF, 1)
    shift.write_text("1200")
    fake.machines.power(machine, Power.ON, 1)
    shift.write_text("1800")
    first, second = (fake.machines.metrics(machine, begin, begin + 1800, 10) for _ in range(2))
    assert first == second
    times = [time for time, _ in first.series[0].values]
    assert len(times) == pytest.approx(120, abs=4)
    assert not [time for time in times if begin + 605 < time < begin + 1195]


def test_all_of_it_is_there_in_the_next_process(tmp_path: Path) -> None:
    fake = FakeHypervisor(tmp_path / "state")
    machine = started(fake, with_image(fake, tmp_path / "image").sha256)
    volume, snapshot, target = make_volume(), uuid4(), tmp_path / "target"
    fake.volumes.ensure_volume(volume, 1)
    fake.guest.set_password(machine, "root", "$6$x")
    taken = fake.disks.snapshot(machine, snapshot, str(target), 1)
    written = target.stat().st_mtime_ns
    again = FakeHypervisor(tmp_path / "state")
    assert again.volumes.volumes() == fake.volumes.volumes()
    assert again.fakes[machine].saved == fake.fakes[machine].saved
    assert again.machines.facts().disk_free == fake.machines.facts().disk_free
    assert again.disks.snapshot(machine, snapshot, str(target), 1) == taken
    assert target.stat().st_mtime_ns == written


def test_another_process_finds_all_of_it(tmp_path: Path) -> None:
    fake = FakeHypervisor(tmp_path / "state")
    image = with_image(fake, tmp_path / "image").sha256
    machine = started(fake, image)
    again = FakeHypervisor(tmp_path / "state")
    assert again.machines.state(machine) == fake.machines.state(machine)
    assert again.machines.facts().disk_free == fake.machines.facts().disk_free
    with pytest.raises(PortTaken):
        started(again, image)


def test_ports_in_use_are_known_to_the_next_process(tmp_path: Path) -> None:
    fake = FakeHypervisor(tmp_path / "state")
    image = with_image(fake, tmp_path / "image").sha256
    first = started(fake, image, port=2200)
    started(fake, image, port=2201)
    fake.machines.ensure(make_machine(image, first, port=2201), 1)  # at its next start
    free = fake.machines.facts().memory_free_mib
    again = FakeHypervisor(tmp_path / "state")
    assert again.machines.facts().memory_free_mib == free == fake.memory_mib - 2 * 64
    with pytest.raises(PortTaken):
        started(again, image, port=2200)
    again.machines.power(first, Power.OFF, 1)
    started(again, image, port=2200)
    with pytest.raises(PortTaken):
        again.machines.power(first, Power.ON, 1)


def test_thousands_of_machines(tmp_path: Path) -> None:
    fake = FakeHypervisor(tmp_path / "state")
    image = with_image(fake, tmp_path / "image").sha256
    spent = time.process_time()  # of ours: the machine has others
    machines = [started(fake, image, port=port) for port in range(1000, 2000)]
    each = (time.process_time() - spent) / len(machines)
    assert each < 0.02, f"{each * 1000:.1f} ms per machine"
    start = clock.monotonic()
    cursor = fake.machines.changes(0, 0).cursor
    waker = threading.Timer(0.05, fake.machines.power, (machines[0], Power.OFF, 1))
    waker.start()
    assert len(fake.machines.changes(cursor, 5).machines) == len(machines)
    assert clock.monotonic() - start < 0.5
    waker.join()
