"""CPUs that belong to one machine, and what hosts have besides."""

from pathlib import Path
from uuid import uuid4

import pytest

from paddock.base.errors import Refused
from paddock.hypervisor.qemu import host
from paddock.hypervisor.qemu.host import HugePages
from paddock.hypervisor.qemu.pinning import Pinning
from paddock.machine.state import Accelerator
from tests.hypervisor.qemu.machines import make_machine
from tests.hypervisor.qemu.test_cmdline import PLAIN

MEMINFO = "MemTotal:  100 kB\nHugePages_Total:  512\nHugePages_Free:  500\nHugepagesize:  2048 kB\n"


def test_nobody_gets_anothers_cpus_and_one_stays_for_all() -> None:
    pinning = Pinning(range(4))
    first, second, third = uuid4(), uuid4(), uuid4()
    assert pinning.claim(first, 2) == (3, 2)
    assert pinning.claim(first, 2) == (3, 2)  # it starts again
    assert pinning.claim(second, 1) == (1,)
    assert pinning.shared == {0}
    with pytest.raises(Refused, match="has 0 of its 4 left"):
        pinning.claim(third, 1)
    assert pinning.release(first)
    assert not pinning.release(first)
    pinning.adopt(third, (3,))
    assert pinning.shared == {0, 2}
    with pytest.raises(Refused, match="2 dedicated CPUs are asked for, and the node has 1 of its 4"):
        pinning.claim(first, 2)


def test_who_can_nest(tmp_path: Path) -> None:
    assert "not under KVM" in host.no_nested(Accelerator.TCG)
    assert "does not say" in host.no_nested(Accelerator.KVM, tmp_path)
    parameter = tmp_path / "kvm_intel/parameters/nested"
    parameter.parent.mkdir(parents=True)
    for text, said in (("Y\n", ""), ("1\n", ""), ("N\n", "kvm_intel was loaded with nested=0")):
        parameter.write_text(text)
        assert host.no_nested(Accelerator.KVM, tmp_path) == said


def test_huge_pages_are_counted_in_mib() -> None:
    assert host.huge_pages(MEMINFO) == HugePages(2, 1024, 1000)
    assert host.huge_pages("MemTotal: 100 kB\n") == HugePages(0, 0, 0)


def test_what_a_host_has_not_is_refused_with_the_reason() -> None:
    machine = make_machine(PLAIN).model_copy(update={"huge_pages": True, "memory_mib": 64})
    host.refuse_unable(machine, Accelerator.TCG, HugePages(2, 64, 64))
    with pytest.raises(Refused, match="0 of the node's 0 are free"):
        host.refuse_unable(machine, Accelerator.TCG, HugePages(2, 0, 0))
    with pytest.raises(Refused, match="whole huge pages of 1024"):
        host.refuse_unable(machine, Accelerator.TCG, HugePages(1024, 2048, 2048))
    with pytest.raises(Refused, match="guests run under tcg here"):
        host.refuse_unable(make_machine(PLAIN).model_copy(update={"nested": True}), Accelerator.TCG)
