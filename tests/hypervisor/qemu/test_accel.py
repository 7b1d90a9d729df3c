"""Whether KVM works is found by trying, in seconds, and remembered for this hardware only."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from paddock.base import clock
from paddock.hypervisor.qemu import accel
from paddock.hypervisor.qemu.accel import AcceleratorChoice, probe, probe_command
from paddock.hypervisor.qemu.binary import find_binary
from paddock.machine.state import Accelerator

SETTLED = {"accelerator": "tcg", "reason": "a probe said so", "hint": "", "probed": True}


def choice(path: Path) -> AcceleratorChoice:
    return AcceleratorChoice("auto", path, list)


def saved(path: Path, **host: str) -> None:
    path.write_text(json.dumps({**SETTLED, "host": {**accel.host_identity(find_binary()), **host}}))


def test_the_settings_win_without_a_probe(tmp_path: Path) -> None:
    found = AcceleratorChoice("kvm", tmp_path / "a", list).find()
    assert (found.accelerator, found.reason) == (Accelerator.KVM, "the settings say kvm")


def test_a_finding_of_this_host_is_remembered(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    assert choice(tmp_path / "a").find().reason == "a probe said so"


@pytest.mark.parametrize("key", ["cpu", "kernel", "qemu", "machine"])
def test_a_finding_of_another_host_is_not(tmp_path: Path, key: str) -> None:
    saved(tmp_path / "a", **{key: "another"})
    assert choice(tmp_path / "a").known().probed is False


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}'])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_text(text)
    assert choice(tmp_path / "a").known().probed is False


@pytest.mark.parametrize(
    ("make", "reason", "hint"),
    [(lambda _: None, "there is no", "BIOS"), (lambda path: path.mkdir(), "does not open", "dmesg")],
)
def test_without_a_device_the_reason_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: object, reason: str, hint: str
) -> None:
    device = tmp_path / "kvm"
    make(device)  # type: ignore[operator]
    monkeypatch.setattr(accel, "KVM", device)
    found = probe(find_binary(), [])
    assert (found.accelerator, found.probed) == (Accelerator.TCG, True)
    assert reason in found.reason
    assert hint in found.hint


def test_a_device_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "kvm"
    device.touch(mode=0)
    monkeypatch.setattr(accel, "KVM", device)
    binary = find_binary()
    assert "usermod -aG kvm" in _as_plain_user(lambda: probe(binary, []).hint)


def _as_plain_user(question: Callable[[], str]) -> str:
    """The answer that a process gets which is not root's: root may open everything."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(writer, question().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


def test_the_probe_says_what_qemu_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that opens like /dev/kvm and a file that is no kernel."""
    monkeypatch.setattr(accel, "KVM", Path("/dev/null"))
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"no kernel")
    start = clock.monotonic()
    found = probe(find_binary(), [kernel])
    assert clock.monotonic() - start < accel.LIMIT + 1
    assert found.accelerator == Accelerator.TCG
    assert "without a kernel line" in found.reason


@pytest.mark.guest
def test_a_guest_that_runs_and_prints_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A boot sector that loops stands for a kernel that hangs; TCG, so that it hangs everywhere."""
    sector = tmp_path / "boot"
    sector.write_bytes(b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa")

    def command(binary: object, kernel: Path) -> list[str]:
        words = probe_command(find_binary(), kernel)
        at = words.index("-kernel")
        changed = [*words[:at], "-drive", f"file={kernel},format=raw"]
        return ["tcg" if w == "kvm" else "max" if w == "host" else w for w in changed]

    monkeypatch.setattr(accel, "KVM", Path("/dev/null"))
    monkeypatch.setattr(accel, "LIMIT", 0.7)
    monkeypatch.setattr(accel, "probe_command", command)
    start = clock.monotonic()
    found = probe(find_binary(), [sector])
    assert 0.6 < clock.monotonic() - start < 2
    assert found.accelerator == Accelerator.TCG
