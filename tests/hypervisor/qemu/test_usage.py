"""What lies on a node's disk, counted as it lies there."""

import os
from pathlib import Path
from uuid import uuid4

import pytest

from paddock.hypervisor.qemu import usage
from paddock.hypervisor.qemu.layout import Layout
from paddock.machine.spec import MIB


def filled(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))


def test_a_machine(tmp_path: Path) -> None:
    directory = Layout(tmp_path).machine(uuid4())
    filled(directory.system_disk, MIB)
    filled(directory.serial_log, 8192)
    filled(directory.serial_log.with_name("serial.log.1"), 8192)
    filled(directory.qemu_log, 4096)
    filled(directory.seed, 12288)
    filled(tmp_path / "elsewhere", MIB)
    (directory.root / "link").symlink_to(tmp_path / "elsewhere")
    with directory.memory.open("wb") as sparse:
        sparse.truncate(64 * MIB)
    found = usage.sizes(directory)
    assert (found.disk, found.logs, found.other) == (MIB, 20480, 12288)
    assert found.memory == 0, "a hole takes no room"


def test_a_node_is_looked_at_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path)
    filled(layout.machine(uuid4()).system_disk, 8192)
    filled(layout.image("a" * 64) / "disk", 16384)
    filled(layout.images / ".incoming-b" / "disk", 4096)
    filled(layout.volume(uuid4()) / "disk.raw", 12288)
    meter = usage.NodeMeter(layout)
    found = meter.look()
    assert (found.machines, found.images, found.volumes, found.image_count) == (8192, 20480, 12288, 1)
    filled(layout.machine(uuid4()).system_disk, 8192)
    assert meter.look() == found
    monkeypatch.setattr(usage, "KEPT", 0.0)
    monkeypatch.setattr(usage, "_SHARE", 0)
    meter = usage.NodeMeter(layout)
    meter.look()
    filled(layout.machine(uuid4()).serial_log, 4096)
    assert meter.look().machines == 20480


def test_nothing_is_there_yet(tmp_path: Path) -> None:
    assert usage.NodeMeter(Layout(tmp_path / "none")).look().machines == 0
