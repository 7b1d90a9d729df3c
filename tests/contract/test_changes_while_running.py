"""What a running machine takes of a new definition at once, what waits for its next start, and the rescue system."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from paddock.base.errors import Conflict, NotFound
from paddock.hypervisor.base import Hypervisor
from paddock.machine.spec import Machine, Power, Rescue
from paddock.machine.state import Phase
from tests.contract.conftest import Made
from tests.contract.harness import Harness, until
from tests.contract.specs import GREETING, IMAGE_SIZE, RESCUE_GREETING, free_port, make_iso, make_rescue, system_disk


def changed(hypervisor: Hypervisor, machine: Machine, **fields: Any) -> tuple[str, ...]:
    """Define it so, adapt it twice, and return what is pending."""
    hypervisor.machines.ensure(machine.model_copy(update=fields), 1)
    pending = hypervisor.machines.adapt(machine.uuid, 1).pending
    assert hypervisor.machines.adapt(machine.uuid, 1).pending == pending
    return pending


def test_one_that_is_off_has_nothing_to_wait_for(hypervisor: Hypervisor, made: Made) -> None:
    assert changed(hypervisor, made.new(), cpus=2) == ()


def test_unknown_machine(hypervisor: Hypervisor) -> None:
    with pytest.raises(NotFound):
        hypervisor.machines.adapt(uuid4(), 1)


def test_the_first_layout_has_no_room(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new(max_cpus=4, max_memory_mib=512)
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    assert changed(hypervisor, machine) == ()
    assert len(changed(hypervisor, machine, cpus=2, memory_mib=128)) == 2
    hypervisor.machines.power(machine.uuid, Power.OFF, 1)
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    assert hypervisor.machines.adapt(machine.uuid, 1).pending == ()


def for_the_next_start(pending: tuple[str, ...]) -> int:
    """How much the machine itself has to wait for. (A guest may need a while to use what it was given.)"""
    return len([sentence for sentence in pending if "start" in sentence])


def test_cpus_and_memory_are_added(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new(layout=2, max_cpus=4, memory_mib=256, max_memory_mib=512)
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    assert for_the_next_start(changed(hypervisor, machine, cpus=2, memory_mib=384)) == 0
    assert for_the_next_start(changed(hypervisor, machine, cpus=4, memory_mib=512)) == 0
    assert for_the_next_start(changed(hypervisor, machine, cpus=2, memory_mib=512)) == 1  # none is taken away
    assert for_the_next_start(changed(hypervisor, machine, cpus=8, memory_mib=640)) == 2  # nor is there room for more
    hypervisor.machines.power(machine.uuid, Power.OFF, 1)
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    assert hypervisor.machines.adapt(machine.uuid, 1).pending == ()
    assert for_the_next_start(changed(hypervisor, machine, cpus=4, memory_mib=640)) == 1


def test_small_machines_have_no_room_for_memory(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new(layout=2, memory_mib=128, max_memory_mib=512)
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    assert for_the_next_start(changed(hypervisor, machine, memory_mib=512)) == 1


def test_memory_comes_in_blocks(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new(layout=2, memory_mib=256, max_memory_mib=512)
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    said = changed(hypervisor, machine, memory_mib=400)
    assert [sentence for sentence in said if "384 MiB" in sentence and "400" in sentence]


def test_what_was_added_survives_a_killed_host_process(harness: Harness, made: Made) -> None:
    machine = made.new(layout=2, max_cpus=2)
    harness.hypervisor.machines.power(machine.uuid, Power.ON, 1)
    assert for_the_next_start(changed(harness.hypervisor, machine, cpus=2)) == 0
    harness.restart()
    assert for_the_next_start(changed(harness.hypervisor, machine, cpus=2)) == 0
    assert for_the_next_start(changed(harness.hypervisor, machine, cpus=1)) == 1


def test_cds_are_changed(harness: Harness, made: Made, tmp_path: Path) -> None:
    discs = [make_iso(tmp_path / name, name) for name in ("one", "two")]
    for disc in discs:
        assert harness.copy(disc, tmp_path / disc.name).done
    machine, hypervisor = made.new(layout=2), harness.hypervisor
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    for disc in discs:
        assert changed(hypervisor, machine, iso=disc.sha256) == ()
        with pytest.raises(Conflict):
            hypervisor.disks.remove_image(disc.sha256)
    assert changed(hypervisor, machine, iso=None) == ()
    for disc in discs:
        hypervisor.disks.remove_image(disc.sha256)
    hypervisor.machines.power(machine.uuid, Power.OFF, 1)
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    assert hypervisor.machines.state(machine.uuid).phase is Phase.RUNNING


def test_a_machine_without_a_drive(harness: Harness, made: Made, tmp_path: Path) -> None:
    disc, hypervisor = make_iso(tmp_path, "drive"), harness.hypervisor
    assert harness.copy(disc, tmp_path).done
    machine = made.new()
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    assert len(changed(hypervisor, machine, iso=disc.sha256)) == 1
    assert changed(hypervisor, machine, iso=None) == ()
    hypervisor.machines.power(machine.uuid, Power.OFF, 1)
    hypervisor.machines.ensure(machine.model_copy(update={"iso": disc.sha256}), 1)
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    for iso in (disc.sha256, None, disc.sha256):  # it was started with one in its drive
        assert changed(hypervisor, machine, iso=iso) == ()


def test_what_only_a_start_brings(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new(layout=2, max_cpus=2)
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    seed = machine.seed.model_copy(update={"hostname": "renamed"})
    network = machine.network.model_copy(update={"ssh_port": free_port()})
    every = {"name": "renamed", "seed": seed, "network": network, "max_cpus": 4, "layout": 1}
    for field, value in every.items():
        assert for_the_next_start(changed(hypervisor, machine, **{field: value})) == 1, field
    assert changed(hypervisor, machine) == ()
    assert len(changed(hypervisor, machine, **every)) == len(every)


def test_starts_with_a_cd(harness: Harness, made: Made, tmp_path: Path) -> None:
    disc = make_iso(tmp_path, "start")
    assert harness.copy(disc, tmp_path).done
    machine = made.new(layout=2, iso=disc.sha256)
    harness.hypervisor.machines.power(machine.uuid, Power.ON, 1)
    assert changed(harness.hypervisor, machine, iso=disc.sha256) == ()


def test_rescue_system(harness: Harness, made: Made, tmp_path: Path) -> None:
    image, hypervisor = make_rescue(tmp_path), harness.hypervisor
    assert harness.copy(image, tmp_path).done
    machine = made.new(layout=2)
    rescue = Rescue(image=image.sha256, ssh_keys=("ssh-ed25519 AAAA",))
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    assert len(changed(hypervisor, machine, rescue=rescue)) == 1
    hypervisor.machines.power(machine.uuid, Power.OFF, 1)
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    _greeted(harness, machine, RESCUE_GREETING if harness.real else b"rescue system")
    assert not hypervisor.machines.state(machine.uuid).rebooting
    assert len(changed(hypervisor, machine, rescue=None)) == 1
    harness.reboot_from_inside(machine.uuid)
    off = until(lambda: hypervisor.machines.state(machine.uuid), lambda s: s.phase is Phase.OFF)
    assert off.rebooting
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    _greeted(harness, machine, GREETING if harness.real else b"fake machine")
    assert not hypervisor.machines.state(machine.uuid).rebooting
    hypervisor.disks.remove_image(image.sha256)


def _greeted(harness: Harness, machine: Machine, words: bytes) -> None:
    """Its newest words on the console are these."""
    log = harness.hypervisor.streams.console_log
    until(lambda: log(machine.uuid, 65536), lambda text: words.decode().strip() in text[-300:])


def test_a_shutdown_is_no_reboot(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    hypervisor.machines.power(machine.uuid, Power.OFF, 1)
    assert not hypervisor.machines.state(machine.uuid).rebooting


def test_another_generation_is_another_disk(hypervisor: Hypervisor, made: Made) -> None:
    machine = made.new()
    hypervisor.disks.ensure_disk(machine.uuid, system_disk(machine.image, 2 * IMAGE_SIZE), 1)
    fresh = system_disk(machine.image).model_copy(update={"generation": 1})
    hypervisor.machines.power(machine.uuid, Power.ON_PAUSED, 1)
    with pytest.raises(Conflict):
        hypervisor.disks.ensure_disk(machine.uuid, fresh, 1)
    hypervisor.machines.power(machine.uuid, Power.OFF, 1)
    for _ in range(2):
        hypervisor.disks.ensure_disk(machine.uuid, fresh, 1)
    hypervisor.machines.ensure(machine.model_copy(update={"system_disk": fresh}), 1)
    hypervisor.machines.power(machine.uuid, Power.ON, 1)
    assert hypervisor.machines.state(machine.uuid).phase is Phase.RUNNING
