"""The store: an image is there whole or not at all."""

import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from paddock.base.errors import DiskFull, Invalid, NotFound
from paddock.base.run import spawn
from paddock.images import store as store_module
from paddock.images.store import ImageStore
from paddock.machine.image import ImageManifest, Role


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _publish(store: ImageStore, work: Path, data: bytes = b"disk", name: str = "a") -> ImageManifest:
    return store.publish({Role.DISK: _file(work / "d", data)}, name=name, disk_size=512)


def test_a_published_image_is_listed_verified_and_read_only(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    files = {Role.DISK: _file(tmp_path / "d", b"disk"), Role.KERNEL: _file(tmp_path / "k", b"kernel")}
    manifest = store.publish(files, name="a", disk_size=512, cmdline="quiet")
    assert store.list() == (manifest,)
    assert store.verify(manifest.sha256) == manifest
    assert store.file(manifest.sha256, Role.KERNEL).read_bytes() == b"kernel"
    for file in store.path(manifest.sha256).iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o444
    assert [p.name for p in store.root.iterdir()] == [manifest.sha256]


def test_publishing_the_same_twice_succeeds(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    assert _publish(store, tmp_path) == _publish(store, tmp_path)
    assert len(store.list()) == 1


def test_a_strict_umask_does_not_hide_images_from_the_user_that_runs_guests(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        store = ImageStore(tmp_path / "images")
        manifest = _publish(store, tmp_path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(store.path(manifest.sha256).stat().st_mode) == 0o755


@pytest.mark.parametrize("damage", ["change", "truncate", "remove", "manifest"])
def test_verify_finds_damage(tmp_path: Path, damage: str) -> None:
    store = ImageStore(tmp_path / "images")
    manifest = _publish(store, tmp_path)
    disk = store.file(manifest.sha256, Role.DISK)
    disk.chmod(0o600)
    if damage == "change":
        disk.write_bytes(b"dusk")
    elif damage == "truncate":
        disk.write_bytes(b"dis")
    elif damage == "remove":
        disk.unlink()
    else:
        other = manifest.model_copy(update={"cmdline": "init=/bin/sh"})
        path = store.path(manifest.sha256) / "manifest.json"
        path.chmod(0o600)
        path.write_text(other.model_dump_json())
    with pytest.raises(Invalid):
        store.verify(manifest.sha256)


def test_a_wrong_field_or_an_empty_file_leaves_nothing(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    with pytest.raises(Invalid, match="name"):
        _publish(store, tmp_path, name="Not A Name")
    with pytest.raises(Invalid, match="empty"):
        _publish(store, tmp_path, data=b"")
    assert list(store.root.iterdir()) == []


def test_remove_is_for_any_number_of_times(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    manifest = _publish(store, tmp_path)
    store.remove(manifest.sha256)
    store.remove(manifest.sha256)
    store.remove("../..")
    assert store.list() == ()
    with pytest.raises(NotFound):
        store.get(manifest.sha256)


def test_what_a_killed_publisher_left_is_removed_and_a_running_ones_is_not(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    code = (
        "import sys, time; from pathlib import Path; from paddock.images.store import ImageStore\n"
        "with ImageStore(Path(sys.argv[1])).scratch() as d:\n"
        "    (d / 'disk').write_bytes(b'half'); Path(sys.argv[2]).touch(); time.sleep(60)"
    )
    started = tmp_path / "started"
    process = spawn([sys.executable, "-c", code, store.root, started], output=tmp_path / "log")
    try:
        while not started.exists():
            assert process.poll() is None, (tmp_path / "log").read_text()
        store.clean()
        assert len(list(store.root.iterdir())) == 1, "a running publisher's directory was removed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(list(store.root.iterdir())) == 1
        _publish(store, tmp_path)
        assert [p.name for p in store.root.iterdir()] == [store.list()[0].sha256]
    finally:
        process.kill()
        process.wait()


def test_a_full_disk_says_so() -> None:
    error = store_module._explained(OSError(28, "No space left on device"), "the image could not be stored")
    assert isinstance(error, DiskFull)
