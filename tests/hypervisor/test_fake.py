"""What the fake does beyond the contract: faults on demand, room, slow guests, thousands of machines."""

import threading
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from paddock.base import clock
from paddock.base.errors import Conflict, DiskFull, NotFound, PortTaken, Refused, Unavailable
from paddock.hypervisor.fake import FakeHypervisor
from paddock.hypervisor.faults import Failure, FaultOrder
from paddock.machine.image import ImageManifest
from paddock.machine.spec import GIB, Power
from paddock.machine.state import Phase
from tests.contract.specs import IMAGE_SIZE, make_image, make_machine, system_disk


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
    start = clock.monotonic()
    machines = [started(fake, image, port=port) for port in range(1000, 2000)]
    each = (clock.monotonic() - start) / len(machines)
    assert each < 0.03, f"{each * 1000:.1f} ms per machine"
    start = clock.monotonic()
    cursor = fake.machines.changes(0, 0).cursor
    waker = threading.Timer(0.05, fake.machines.power, (machines[0], Power.OFF, 1))
    waker.start()
    assert len(fake.machines.changes(cursor, 5).machines) == len(machines)
    assert clock.monotonic() - start < 0.5
    waker.join()
