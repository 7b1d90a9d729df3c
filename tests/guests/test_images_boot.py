"""Our own images on a real QEMU: they boot, let their owner in, keep what is written, and go when asked."""

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pycdlib
import pytest

from paddock.base.clock import monotonic, sleep
from paddock.base.errors import CommandFailed
from paddock.base.run import Completed, run, spawn
from paddock.machine.image import Role
from tests.support_images import BuiltImage, built_image

pytestmark = [pytest.mark.guest, pytest.mark.slow]

UUID = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"


class Guest:
    """One QEMU on an overlay of an image, with a seed, a forwarded SSH port and a guest agent."""

    def __init__(self, image: BuiltImage, place: Path, *, memory: int, user_data: str = "") -> None:
        self.place = place
        self._image, self._memory = image, memory
        self._process: subprocess.Popen[bytes] | None = None
        self._ssh_port = _free_port()
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tester", "-f", place / "key"])
        key = (place / "key.pub").read_text().strip()
        meta = {"instance-id": "i-1", "local-hostname": "alpha", "public-keys": [key]}
        _write_seed(place / "seed.iso", {"meta-data": json.dumps(meta), "user-data": user_data})
        base = image.file(Role.DISK)
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", place / "disk", "4G"])

    def start(self) -> None:
        self._process = spawn(self._argv(), output=self.place / "qemu.log", cwd=self.place)

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def serial(self) -> str:
        try:
            return (self.place / "serial").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def wait_for(self, words: str, *, count: int = 1, timeout: float = 120) -> None:
        """Until the serial console has said these words that many times."""
        self._until(lambda: self.serial().count(words) >= count, f"{words!r} on the serial console", timeout)

    def wait_off(self, timeout: float = 60) -> None:
        self._until(self._ended, "power off", timeout, may_end=True)

    def _ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def ssh(self, command: str, *, timeout: float = 150) -> Completed:
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "ConnectTimeout=20"]
        words = [w for o in options for w in ("-o", o)]
        argv: list[str | Path] = [
            "ssh",
            "-q",
            *words,
            "-i",
            self.place / "key",
            "-p",
            str(self._ssh_port),
            "root@127.0.0.1",
            command,
        ]
        end = monotonic() + timeout
        while True:
            try:
                return run(argv, timeout=timeout)
            except CommandFailed:
                if monotonic() > end:
                    raise
                sleep(0.5)

    def ask_agent(self, command: str, timeout: float = 150) -> object:
        """One question to the guest agent, asked again until it answers."""
        end = monotonic() + timeout
        while monotonic() < end:
            answer = _exchange(self.place / "agent.sock", {"execute": command})
            if answer is not None:
                return answer
        raise AssertionError(f"the guest agent did not answer {command}; the console ends: {self.serial()[-800:]}")

    def press_power_button(self) -> None:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(os.fspath(self.place / "qmp.sock"))
            lines = s.makefile("rw")
            for command in ("qmp_capabilities", "system_powerdown"):
                lines.readline()
                lines.write(json.dumps({"execute": command}) + "\n")
                lines.flush()
            lines.readline()

    def _until(self, done: Callable[[], bool], what: str, timeout: float, may_end: bool = False) -> None:
        end = monotonic() + timeout
        while not done():
            said = (self.place / "qemu.log").read_text()
            assert may_end or not self._ended(), f"QEMU ended while waiting for {what}: {said}"
            assert monotonic() < end, f"no {what} within {timeout:g} s; the console ends: {self.serial()[-1500:]}"
            sleep(0.1)

    def _argv(self) -> list[str]:
        """Sockets by names relative to `place`, for paths of sockets are short."""
        return [
            "qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-machine", "pc-q35-7.2",
            "-cpu", "max", "-m", str(self._memory), "-uuid", UUID, *self._boot(),
            "-device", "virtio-scsi-pci,id=s", "-drive", "if=none,id=d,file=disk,format=qcow2",
            "-device", "scsi-hd,drive=d,bus=s.0,serial=paddock-system",
            "-drive", "if=none,id=c,file=seed.iso,format=raw,readonly=on", "-device", "scsi-cd,drive=c,bus=s.0",
            "-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{self._ssh_port}-:22",
            "-device", "virtio-net-pci,netdev=n,mac=52:54:00:01:02:03,romfile=",
            "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
            "-chardev", "socket,id=ga,path=agent.sock,server=on,wait=off",
            "-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0",
            "-qmp", "unix:qmp.sock,server=on,wait=off",
            "-chardev", "file,id=serial,path=serial,append=on", "-serial", "chardev:serial",
        ]  # fmt: skip

    def _boot(self) -> list[str]:
        manifest = self._image.manifest
        if not manifest.direct_boot:
            return []
        kernel, initrd = self._image.file(Role.KERNEL), self._image.file(Role.INITRD)
        return ["-kernel", str(kernel), "-initrd", str(initrd), "-append", manifest.cmdline]


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _exchange(path: Path, question: dict[str, object]) -> object | None:
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(3)
            s.connect(os.fspath(path))
            s.sendall(json.dumps(question).encode() + b"\n")
            return dict(json.loads(s.makefile().readline())).get("return")
    except (OSError, ValueError):
        sleep(0.3)
        return None


def _write_seed(path: Path, files: dict[str, str]) -> None:
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for number, (name, text) in enumerate(files.items()):
        data = text.encode()
        iso.add_fp(BytesIO(data), len(data), f"/F{number}.;1", rr_name=name, joliet_path=f"/{name}")
    iso.write(os.fspath(path))
    iso.close()


def _started(name: str, place: Path, *, memory: int, user_data: str) -> Iterator[Guest]:
    guest = Guest(built_image(name), place, memory=memory, user_data=user_data)
    guest.start()
    try:
        yield guest
    finally:
        guest.stop()


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Guest]:
    yield from _started("tiny", tmp_path, memory=96, user_data="#!/bin/sh\necho $(hostname) >> /root/first-boot\n")


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[Guest]:
    yield from _started("debian-12", tmp_path, memory=512, user_data="#cloud-config\nruncmd: [touch /root/ran]\n")


def test_tiny_is_usable_keeps_what_is_written_and_goes_when_asked(tiny: Guest) -> None:
    tiny.wait_for("paddock-tiny: ready")
    line = next(li for li in tiny.serial().splitlines() if "paddock-tiny: {" in li)
    said = json.loads(line.partition("paddock-tiny: ")[2])
    assert (said["hostname"], said["instance_id"], said["uuid"]) == ("alpha", "i-1", UUID)
    assert said["cpus"] == 1
    assert said["cards"] == [{"name": "eth0", "mac": "52:54:00:01:02:03", "ip": "10.0.2.15"}]
    assert {"name": "sda", "size": 4 * 1024**3, "serial": "paddock-system"} in said["disks"]

    assert tiny.ssh("cat /root/first-boot").stdout == "alpha\n"
    size = int(tiny.ssh("df -k / | tail -n 1 | awk '{print $2}'").stdout)
    assert size > 3.5 * 1024**2, "the root file system did not grow to the disk"
    host_key = tiny.ssh("cat /etc/dropbear/ed25519 | sha256sum").stdout
    assert tiny.ask_agent("guest-ping") == {}
    assert tiny.ask_agent("guest-get-host-name") == {"host-name": "alpha"}

    tiny.ssh("echo kept > /root/kept; reboot")
    tiny.wait_for("paddock-tiny: ready", count=2)
    after = tiny.ssh("cat /root/kept /root/first-boot; cat /etc/dropbear/ed25519 | sha256sum").stdout
    assert after == f"kept\nalpha\n{host_key}", "a reboot lost data, ran user-data again or made a new host key"

    tiny.press_power_button()
    tiny.wait_off()


def test_nobody_gets_into_tiny_without_the_key(tiny: Guest) -> None:
    tiny.wait_for("paddock-tiny: ready")
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tiny.place / "other"])
    (tiny.place / "other").rename(tiny.place / "key")
    with pytest.raises(CommandFailed, match="255"):
        tiny.ssh("true", timeout=8)


def test_debian_boots_by_its_own_grub_to_the_end_of_cloud_init(debian: Guest) -> None:
    debian.wait_for("Linux version", timeout=120)
    debian.wait_for("finished at", timeout=600)
    said = debian.ssh("cloud-init status; cat /etc/hostname; ls /root/ran; df -k / | tail -n 1; cat /etc/fstab").stdout
    assert "status: done" in said
    assert "alpha" in said
    assert "/root/ran" in said
    assert debian.ask_agent("guest-ping") == {}
    size = int(debian.ssh("df -k --output=size / | tail -n 1").stdout)
    assert size > 3.5 * 1024**2, "the root file system did not grow to the disk"
    assert "cap_net_raw" in debian.ssh("/sbin/getcap /bin/ping").stdout
    assert debian.ssh("systemctl --failed --plain --no-legend").stdout.strip() == ""
    debian.press_power_button()
    debian.wait_off(timeout=240)
