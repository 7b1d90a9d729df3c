"""What a helper guest is started with and told, and what is made of what it says."""

from pathlib import Path

import pytest

from paddock.base.errors import Refused
from paddock.hypervisor.qemu.clean import said
from paddock.hypervisor.qemu.cmdline import Binary, pretty
from paddock.hypervisor.qemu.edit import chain
from paddock.hypervisor.qemu.helper_guest import Boot, Job, Outcome, words
from paddock.hypervisor.qemu.layout import MachineDir
from paddock.machine.cleaning import Cleaning, Trace
from paddock.machine.state import Accelerator
from tests.hypervisor.qemu.golden import same_as_golden

KEEP_LOGS = Cleaning(helper="0" * 64, keep=(Trace.LOGS,))


def test_it_has_one_disk_and_no_network(tmp_path: Path) -> None:
    (tmp_path / "image").write_text("a" * 64)
    binary = Binary("/usr/bin/qemu-system-x86_64", "7.2.22", sandbox=True, user_network=True)
    boot = Boot(Path("/state/images/rescue/kernel"), Path("/state/helpers/initrd"), binary, Accelerator.KVM)
    line = words(boot, chain(MachineDir(tmp_path), "edit.qcow2", up="../"))
    same_as_golden("helper-guest.txt", pretty(line))
    assert not [word for word in line if "net" in word.replace("internet", "")]
    assert sum("scsi-hd" in word for word in line) == 1


def test_a_job_is_words_on_lines() -> None:
    job = Job("password", (("user", "root"), ("hash", "$6$a$b")))
    assert job.text() == b"job password\nuser root\nhash $6$a$b\nend \n"


@pytest.mark.parametrize("value", ["", "a b", "a\nend", "a\0", "x" * 600, "\u00e9"])
def test_nothing_else_can_be_told(value: str) -> None:
    with pytest.raises(Refused):
        Job("password", (("user", value),)).text()


def test_what_was_removed_and_what_is_shared() -> None:
    outcome = Outcome([("found", "logs 3 /var/log/a b"), ("found", "host-keys 2 /etc/ssh/x"), ("found", "secrets 1 /k"),
                       ("left", "logs 3 /var/log/a b"), ("system", "/dev/sda1")])  # fmt: skip
    assert said(outcome, KEEP_LOGS) == (
        ("host-keys: 2, say /etc/ssh/x",),
        ("logs: 3, say /var/log/a b", "secrets: 1, say /k"),
    )


def test_what_is_left_is_no_image() -> None:
    with pytest.raises(Refused, match="host-keys: 1, say /etc/ssh/x"):
        said(Outcome([("left", "host-keys 1 /etc/ssh/x"), ("left", "logs 1 /l")]), KEEP_LOGS)


def test_words_that_are_not_ours_are_not_repeated() -> None:
    cleaned, _ = said(Outcome([("found", "<script> 1 /x")]), KEEP_LOGS)
    assert cleaned == ("something: 1, say /x",)
