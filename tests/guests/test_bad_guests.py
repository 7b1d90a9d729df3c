"""Guests that never boot, and QEMUs that are missing, too old, or die as they start."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.base.run import run
from tests.guests.stack import Stack, stack, until

pytestmark = [pytest.mark.guest, pytest.mark.slow]

PROGRAM = "qemu-system-x86_64"
TOO_OLD = """#!/bin/sh
echo "QEMU emulator version 6.0.0 (Debian 1:6.0+dfsg)"
echo "-sandbox on -netdev user"
"""
# Answers questions as the real one does, and dies when it shall run a machine.
DIES = """#!/bin/sh
case "$*" in -help|-version) exec {real} "$@";; esac
echo "qemu-system-x86_64: the translation buffer is out of ink" >&2
exit 3
"""


@pytest.fixture
def programs() -> Iterator[Path]:
    """A directory with all programs of this host, as links, so that QEMU can be taken away or replaced."""
    place = Path(tempfile.mkdtemp(prefix="pkbin-", dir="/tmp"))
    place.chmod(0o755)
    for directory in os.get_exec_path():
        for program in Path(directory).iterdir() if Path(directory).is_dir() else ():
            if not (place / program.name).is_symlink():
                (place / program.name).symlink_to(program)
    yield place
    shutil.rmtree(place)


def put(programs: Path, text: str = "") -> None:
    """Replace QEMU by a script; by nothing without a text."""
    (programs / PROGRAM).unlink()
    if text:
        (programs / PROGRAM).write_text(text)
        (programs / PROGRAM).chmod(0o755)


def failed(cloud: Stack, name: str) -> dict[str, Any]:
    """The error of a create that must fail, and leave nothing once its server is deleted."""
    server, action = cloud.create(name)
    error: dict[str, Any] = cloud.ended(action)["error"]
    assert error, "it succeeded"
    shown = cloud.server(server)
    assert shown["status"] == "off"
    assert error["message"] in shown["x_problem"]
    assert cloud.guests() == []
    cloud.remove(server)
    cloud.nothing_left()
    return error


def test_qemu_missing_too_old_or_dying(programs: Path) -> None:
    real = os.path.realpath(programs / PROGRAM)
    with stack(env={"PATH": str(programs)}) as cloud:
        put(programs)
        error = failed(cloud, "no-qemu")
        assert error["message"] == f"{PROGRAM} is not installed"
        assert "install qemu-system-x86" in error["x_hint"]
        (programs / PROGRAM).symlink_to(real)
        put(programs, TOO_OLD)
        error = failed(cloud, "old-qemu")
        assert "QEMU 6.0.0 is too old: 7.2" in error["message"]
        put(programs, DIES.format(real=real))
        error = failed(cloud, "dying-qemu")
        assert error["message"] == "QEMU does not start: the translation buffer is out of ink"
        put(programs)
        (programs / PROGRAM).symlink_to(real)
        server, action = cloud.create("good-qemu", x_start_paused=True)
        cloud.done(action)
        cloud.remove(server)
        cloud.nothing_left()


def import_empty(cloud: Stack, place: Path) -> str:
    """An image with nothing on its disk."""
    disk = place / "empty.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"])
    image = cloud.post("/x/v1/images", {"name": "empty", "cloud_init": False})["image"]["id"]
    answer = cloud.api.put(f"/x/v1/images/{image}/content", content=disk.read_bytes())
    assert answer.status_code == 202, answer.text
    cloud.done(answer.json()["action"]["id"])
    return str(image)


def test_a_guest_that_never_boots(cloud: Stack, tmp_path: Path) -> None:
    """The create succeeds, since QEMU runs; that nobody is at home is told, and at the end said plainly."""
    image = import_empty(cloud, tmp_path)
    server, action = cloud.create("nobody-home", image=image)
    cloud.done(action)
    shown = until(lambda: (s := cloud.server(server))["x_ready"]["waiting_for"] and s, 20, "what it waits for")
    assert (shown["status"], shown["x_ready"]["ready"], shown["x_problem"]) == ("running", False, None)
    cloud.rows(f"UPDATE cloud_server SET deadline = now(), next_at = now() WHERE id = {server}")
    shown = until(lambda: (s := cloud.server(server))["x_problem"] and s, 20, "the problem to be told")
    print(shown["x_problem"])
    assert shown["x_problem"].startswith("gave up after 1800 s")
    assert shown["x_ready"]["waiting_for"] == ""
    assert (shown["status"], shown["x_ready"]["ready"]) == ("running", False)
    assert cloud.qemu(shown["x_uuid"])
    cloud.remove(server)
    assert cloud.api.delete(f"/v1/images/{image}").status_code == 204
    until(lambda: cloud.api.get(f"/v1/images/{image}").status_code == 404, 20, "the image to be gone")
