"""A node whose disk fills up: on a small file system of the test's own, which root can mount."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.base.run import run
from tests.guests.stack import Stack, stack, until
from tests.support_images import built_image

pytestmark = [
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system"),
]
MIB, GIB = 2**20, 2**30


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the image, and a little more."""
    place = tmp_path / "small"
    place.mkdir()
    size = sum(f.stat().st_size for f in built_image("tiny").directory.iterdir()) + 6 * MIB
    run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "none", place])
    yield place
    run(["umount", "--lazy", place])


def fill(place: Path, leave: int) -> Path:
    """Take all the room but so many bytes."""
    free = os.statvfs(place)
    ballast = place / "ballast"
    ballast.write_bytes(b"\1" * max(0, free.f_bavail * free.f_frsize - leave))
    return ballast


def create(cloud: Stack, name: str, **fields: Any) -> tuple[int, int]:
    """Ask for a server while the node is still taken to have much room, as it had when it last said so. It may say
    anew how full it is just then."""
    for _ in range(20):
        cloud.rows(f"UPDATE cloud_node SET facts = jsonb_set(facts, '{{disk_free}}', '{2**40}')")
        try:
            return cloud.create(name, **fields)
        except AssertionError as e:
            if "really free" not in str(e):
                raise
    raise AssertionError("the node says again and again how full it is")


def refused(cloud: Stack, name: str, code: str, others: int = 0) -> None:
    """A create fails, says why, and leaves nothing behind once it is deleted."""
    for _ in range(5):
        server, action = create(cloud, name, start_after_create=False)
        error = cloud.ended(action)["error"]
        if error["code"] != "resource_unavailable":
            break
        cloud.remove(server)  # the node had said meanwhile how full it is
    assert error["code"] == code, error
    assert "full" in error["message"] or "bytes are free" in error["message"]
    assert "remove machines or images" in error["message"] + error["x_hint"]
    shown = cloud.server(server)
    assert (shown["status"], shown["x_problem"]) == ("off", error["message"])
    cloud.remove(server)
    assert len(cloud.servers()) == len(cloud.machine_dirs()) == others


def asked_too_late(cloud: Stack) -> None:
    """Once the node has said how full it is, nothing more is accepted for it."""
    free = "SELECT (facts->>'disk_free')::bigint FROM cloud_node"
    until(lambda: cloud.rows(free)[0][0] < GIB, 30, "the node to say how full it is")
    answer = cloud.api.post("/v1/servers", json={"name": "late", "server_type": "nano", "image": "tiny"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (412, "resource_unavailable")
    assert "of its disk really free" in answer.json()["error"]["message"]


def test_full_disk(small: Path) -> None:
    for parent in small.parents:  # pytest's directories are private, and QEMU's user must pass
        if parent.is_relative_to("/tmp/pytest-of-root"):
            parent.chmod(parent.stat().st_mode | 0o011)
    node = small / "n1"
    with stack(nodes=({"name": "n1", "state_dir": str(node)},)) as cloud:
        ballast = fill(small, leave=2 * MIB)
        refused(cloud, "no-room-for-the-image", "refused")
        ballast.unlink()
        runs, action = create(cloud, "there-is-room", x_start_paused=True)
        cloud.done(action)
        stopped, action = create(cloud, "to-be-stopped", x_start_paused=True)
        cloud.done(action)
        ballast = fill(small, leave=0)
        refused(cloud, "no-room-for-the-disk", "disk_full", others=2)
        asked_too_late(cloud)
        cloud.done(cloud.power(stopped, "poweroff"))
        cloud.remove(stopped, runs)
        ballast.unlink()
        cloud.nothing_left()
        server, action = create(cloud, "room-again", x_start_paused=True)
        cloud.done(action)
        cloud.remove(server)
        cloud.nothing_left()
