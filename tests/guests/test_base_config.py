"""The base configuration in a real Debian: it is in force, and what the user's own data says wins."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import anyio
import pytest
import yaml

from paddock.base import clock
from paddock.base.errors import PaddockError
from paddock.hypervisor.qemu.driver import QemuHypervisor
from paddock.machine.spec import GIB, Power, Seed
from tests.hypervisor.qemu.machines import bring, free_port, make_machine
from tests.support_images import built_image

pytestmark = [pytest.mark.guest, pytest.mark.slow]

DOCS = Path(__file__).parents[2] / "docs"
BASE = (files("paddock.cloud") / "base.yaml").read_text()
# A tenant with files and commands of their own, who swaps more and forwards X11; and has whoever opens the console
# logged in, as our documents say.
OWN = """#cloud-config
write_files:
  - {path: /etc/sysctl.d/90-own.conf, content: "vm.swappiness = 77\\n"}
  - {path: /etc/ssh/sshd_config.d/20-own.conf, content: "X11Forwarding yes\\n"}
runcmd:
  - [sysctl, -q, -p, /etc/sysctl.d/90-own.conf]
  - touch /run/own-command
"""
AUTOLOGIN = re.findall(r"```yaml\n(#cloud-config\n.*?)```", (DOCS / "into-guests.md").read_text(), re.DOTALL)
BOOT = 400.0  # seconds for Debian with cloud-init under TCG, on a busy host


def user_data() -> str:
    """Their own, and what the documents say of the console, in one."""
    merged: dict[str, list[object]] = {}
    for text in (OWN, *AUTOLOGIN):
        for key, values in yaml.safe_load(text).items():
            merged.setdefault(key, []).extend(values)
    return f"#cloud-config\n{yaml.safe_dump(merged)}"


class Debian:
    """One Debian server with the base configuration beneath its user's own."""

    def __init__(self, root: Path) -> None:
        image = built_image("debian-12")
        self.host = QemuHypervisor(root / "state", "tcg")
        assert bring(self.host, image.manifest, image.directory).done
        seed = Seed(instance_id="i-base", hostname="web-1", user_data=user_data(), vendor_data=BASE)
        machine = make_machine(image.manifest, port=free_port()).model_copy(update={"memory_mib": 768, "seed": seed})
        disk = machine.system_disk.model_copy(update={"size": 4 * GIB})
        self.machine = machine.model_copy(update={"system_disk": disk})
        self.host.disks.ensure_disk(machine.uuid, disk, 1)
        self.host.machines.ensure(self.machine, 1)
        self.host.machines.power(machine.uuid, Power.ON, 1)

    def sh(self, script: str) -> str:
        done = self.host.guest.exec(self.machine.uuid, ("/bin/sh", "-c", script), "", 60)
        assert done.exit_code == 0, done
        return done.stdout.strip()

    def wait(self) -> None:
        """Until cloud-init has done all that it was told."""
        deadline = clock.monotonic() + BOOT
        while True:
            try:
                return self.sh_once()
            except (PaddockError, AssertionError):
                console = self.host.streams.console_log(self.machine.uuid, 2000)
                assert clock.monotonic() < deadline, f"cloud-init did not end; the console ends: {console}"
                clock.sleep(2)

    def sh_once(self) -> None:
        self.sh("test -e /var/lib/cloud/instance/boot-finished")

    async def type(self, line: str, answer: str) -> None:
        """On the serial console, until it answers."""
        stream = await self.host.streams.console(self.machine.uuid)
        said = b""
        async with stream:
            with anyio.fail_after(60):
                await stream.send(f"{line}\n".encode())
                while answer.encode() not in said:
                    said += await stream.receive()

    def close(self) -> None:
        self.host.machines.remove(self.machine.uuid, 99)
        self.host.close()


@pytest.fixture(scope="module")
def debian() -> Iterator[Debian]:
    root = Path(tempfile.mkdtemp(prefix="pk-base-"))
    root.chmod(0o755)
    guest = None
    try:
        guest = Debian(root)
        guest.wait()
        yield guest
    finally:
        if guest:
            guest.close()
        shutil.rmtree(root)


def test_the_sysctls_are_in_force_and_the_users_win(debian: Debian) -> None:
    names = "vm.dirty_ratio net.core.somaxconn kernel.panic net.ipv4.conf.all.accept_redirects vm.swappiness"
    assert debian.sh(f"sysctl -n {names}").split() == ["15", "4096", "10", "0", "77"]


def test_sshd_is_hardened_and_the_users_win(debian: Debian) -> None:
    said = dict(line.split(" ", 1) for line in debian.sh("sshd -T").splitlines())
    wanted = {"permitrootlogin": "without-password", "maxauthtries": "4", "logingracetime": "30"}
    wanted |= {"passwordauthentication": "no", "kbdinteractiveauthentication": "no", "permitemptypasswords": "no"}
    assert {name: said[name] for name in wanted} == wanted
    assert said["x11forwarding"] == "yes"
    started, written = debian.sh("stat -c %Y /proc/$(cat /run/sshd.pid) /etc/ssh/sshd_config.d/60-paddock.conf").split()
    assert int(started) >= int(written) - 1, "the sshd that runs has read it"


def test_services_run_and_the_root_has_grown(debian: Debian) -> None:
    units = "fstrim.timer systemd-timesyncd serial-getty@ttyS0 qemu-guest-agent"
    assert debian.sh(f"systemctl is-active {units}").split() == ["active"] * 4
    assert int(debian.sh("df --output=size -B1M / | tail -1")) > 3 * 1024
    debian.sh("test -e /run/own-command")


def test_cloud_init_has_nothing_to_complain_of(debian: Debian) -> None:
    told = json.loads(debian.sh("cloud-init status --format json --wait"))
    assert told["errors"] == [], told


def test_the_console_lets_in_as_the_documents_say(debian: Debian) -> None:
    assert len(AUTOLOGIN) == 1
    assert "root (automatic login)" in debian.host.streams.console_log(debian.machine.uuid, 2**20)
    anyio.run(debian.type, "echo it is $(id -un) on $(tty)", "it is root on /dev/ttyS0")
