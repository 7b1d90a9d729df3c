"""When a guest counts as ready: an SSH server of the test's own, and a guest agent that has cloud-init's files."""

import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from paddock.base import clock
from paddock.hypervisor.qemu import readiness
from paddock.hypervisor.qemu.readiness import Guest, Signs, look
from paddock.machine.image import ImageFile, ImageManifest, Role

FILE = ImageFile(role=Role.DISK, sha256="0" * 64, size=1)
DEBIAN = ImageManifest(name="debian", disk_size=1, files=(FILE,), cloud_init=True, guest_agent=True)
PLAIN = ImageManifest(name="plain", disk_size=1, files=(FILE,))


class Agent:
    """A guest agent as far as readiness asks it."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    def ping(self, timeout: float) -> bool:
        return True

    def read_file(self, path: str, timeout: float) -> str | None:
        return self.files.get(path)


def status(stage: str | None, configured: float | None = None) -> dict[str, str]:
    said = {"v1": {"stage": stage, "modules-config": {"finished": configured}}}
    return {readiness.CLOUD_INIT_STATUS: json.dumps(said)}


@pytest.fixture
def sshd() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"SSH-2.0-test\r\n")

        threading.Thread(target=greet, daemon=True).start()
        yield server.getsockname()[:2]
        server.shutdown(socket.SHUT_RDWR)


def guest(ssh: tuple[str, int], files: dict[str, str] | None, manifest: ImageManifest = DEBIAN) -> Guest:
    answers: Callable[[], bool] = lambda: files is not None  # noqa: E731
    return Guest(manifest, Agent(files or {}), answers, ssh, lambda: "")  # type: ignore[arg-type]  # as far as asked


def test_ssh_alone_is_enough_without_cloud_init(sshd: tuple[str, int]) -> None:
    assert look(guest(sshd, None, PLAIN), Signs()).by == ("ssh",)


@pytest.mark.parametrize("stage", ["init", "modules-config"])
def test_ssh_that_cloud_init_may_yet_restart_does_not_count(sshd: tuple[str, int], stage: str) -> None:
    found = look(guest(sshd, status(stage)), Signs())
    assert not found.ready
    assert found.waiting_for == "cloud-init to be done with SSH"


@pytest.mark.parametrize("files", [status("modules-final"), status(None, configured=12.5)])
def test_ssh_counts_once_cloud_init_leaves_it_alone(sshd: tuple[str, int], files: dict[str, str]) -> None:
    assert look(guest(sshd, files), Signs()).ready


def test_cloud_inits_end_is_told(sshd: tuple[str, int]) -> None:
    assert look(guest(sshd, {readiness.CLOUD_INIT_RESULT: "{}"}), Signs()).by == ("ssh", "agent", "cloud-init")


def test_nobody_waits_for_ever_for_cloud_init(sshd: tuple[str, int]) -> None:
    long_ago = Signs(ssh_since=clock.monotonic() - readiness.SETTLE - 1)
    assert look(guest(sshd, status("init")), long_ago).ready


def test_nothing_to_be_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    found = look(guest(("127.0.0.1", port), None), Signs())
    assert not found.ready
    assert found.waiting_for == f"SSH on port {port} or the guest agent"
