"""Whether guests run under KVM here: only a probe guest that prints its kernel's first line proves it.

There are hosts where /dev/kvm opens, a VM can be created, the firmware prints, and no kernel ever does. The answer is
kept in the state directory together with the hardware and software that it was found on.
"""

import json
import logging
import os
import platform
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from paddock.base import clock, run
from paddock.base.errors import PaddockError, Refused
from paddock.hypervisor.qemu import files
from paddock.hypervisor.qemu.binary import find_binary
from paddock.hypervisor.qemu.cmdline import Binary
from paddock.hypervisor.qemu.identity import KVM, USER, kvm_hint, vm_identity
from paddock.machine.state import Accelerator

LIMIT = 5.0  # seconds for a kernel's first line
FIRST_LINE = b"Linux version"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """What guests run under here, and how we know. `probed`: a guest was really tried, or KVM can't be opened."""

    accelerator: Accelerator
    reason: str
    hint: str = ""
    probed: bool = True


class AcceleratorChoice:
    """The accelerator of this node: chosen by its settings, or found by a probe at first need and remembered."""

    def __init__(self, chosen: Literal["auto", "kvm", "tcg"], path: Path, kernels: Callable[[], list[Path]]) -> None:
        self._chosen = chosen
        self._path = path
        self._kernels = kernels
        self._lock = threading.Lock()
        self._found: Finding | None = None

    def known(self) -> Finding:
        """What is known without trying: never takes long."""
        if self._chosen != "auto":
            return Finding(Accelerator(self._chosen), f"the settings say {self._chosen}")
        return self._found or self._remembered() or Finding(Accelerator.TCG, "not probed yet", probed=False)

    def find(self) -> Finding:
        """The same after a probe, if there was none: takes up to 6 s, once per host."""
        with self._lock:
            found = self.known()
            if found.probed:
                return found
            found = probe(find_binary(), self._kernels())
            if found.probed:
                self._remember(found)
            log.info("guests run under %s: %s", found.accelerator, found.reason)
            return found

    def _remembered(self) -> Finding | None:
        try:
            saved = json.loads(self._path.read_bytes())
            if saved["host"] != host_identity(find_binary()):
                return None
            self._found = Finding(Accelerator(saved["accelerator"]), saved["reason"], saved["hint"])
        except (OSError, ValueError, KeyError, TypeError, PaddockError):
            return None
        return self._found

    def _remember(self, found: Finding) -> None:
        self._found = found
        saved = {**asdict(found), "host": host_identity(find_binary())}
        files.write_whole(self._path, json.dumps(saved, indent=1).encode())


def probe(binary: Binary, kernels: list[Path]) -> Finding:
    """Try it. `kernels`: stock kernels, any will do; without one, those of /boot are looked at."""
    if problem := kvm_problem():
        return problem
    kernel = next(iter([*kernels, *_boot_kernels()]), None)
    if kernel is None:
        return Finding(Accelerator.TCG, "not probed yet: no kernel", "an image that has one brings it", probed=False)
    start = clock.monotonic()
    said = _first_line(binary, kernel)
    seconds = clock.monotonic() - start
    if FIRST_LINE in said and (hint := kvm_hint(vm_identity())):
        return Finding(Accelerator.TCG, f"KVM works, but QEMU's user {USER} may not open /dev/kvm", hint)
    if FIRST_LINE in said:
        return Finding(Accelerator.KVM, f"a probe guest ran under KVM ({seconds:.1f} s)")
    last = said.decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
    how = "printed no kernel line within" if seconds >= LIMIT else "ended without a kernel line after"
    return Finding(
        Accelerator.TCG,
        f"/dev/kvm opens, but a probe guest {how} {seconds:.1f} s; its last words: {last[0][:200]}",
        "this host is probably a virtual machine itself, without nested virtualisation: use another kind of host",
    )


def kvm_problem() -> Finding | None:
    """Why /dev/kvm can't be opened for reading and writing by those who run QEMU; None when it can."""
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Finding(
            Accelerator.TCG,
            "there is no /dev/kvm",
            "switch on virtualisation (VT-x or AMD-V) in the BIOS, and `modprobe kvm_intel` or `kvm_amd`",
        )
    except PermissionError:
        return Finding(
            Accelerator.TCG,
            "/dev/kvm may not be opened by this user",
            "join its group (`sudo usermod -aG kvm $USER`) and log in again",
        )
    except OSError as e:
        return Finding(Accelerator.TCG, f"/dev/kvm does not open: {e.strerror}", "see `dmesg | grep kvm`")
    return None


def host_identity(binary: Binary) -> dict[str, str]:
    """What a finding holds for: another CPU, kernel or QEMU is to be probed again."""
    return {
        "machine": _text("/etc/machine-id"),
        "cpu": next((line for line in _text("/proc/cpuinfo").splitlines() if line.startswith("model name")), ""),
        "kernel": platform.release(),
        "qemu": binary.version,
        "kvm": "opens" if kvm_problem() is None else "closed",
    }


def probe_command(binary: Binary, kernel: Path) -> list[str]:
    """A guest without disks that prints on its serial port, which is the process's stdout."""
    return [
        binary.program,
        "-no-user-config",
        "-nodefaults",
        "-machine", "q35",
        "-accel", "kvm",
        "-cpu", "host",
        "-m", "size=256M",
        "-display", "none",
        "-serial", "stdio",
        "-no-reboot",
        "-kernel", str(kernel),
        "-append", "console=ttyS0 earlyprintk=serial,ttyS0 panic=-1",
    ]  # fmt: skip


def _first_line(binary: Binary, kernel: Path) -> bytes:
    """What the probe guest printed, until its kernel spoke, it ended, or time is over."""
    with tempfile.TemporaryDirectory(prefix="paddock-probe-") as scratch:
        output = Path(scratch) / "output"
        try:
            child = run.spawn(probe_command(binary, kernel), output=output, cwd=Path(scratch))
        except Refused as e:
            return str(e).encode()
        try:
            deadline = clock.monotonic() + LIMIT
            while clock.monotonic() < deadline and child.poll() is None:
                if FIRST_LINE in files.read_tail(output, 64 * 1024):
                    break
                clock.sleep(0.02)
            return files.read_tail(output, 64 * 1024)
        finally:
            child.kill()
            child.wait()


def _boot_kernels() -> list[Path]:
    found = sorted(Path("/boot").glob("vmlinuz*"), reverse=True)
    return [kernel for kernel in found if kernel.is_file() and os.access(kernel, os.R_OK)]


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""
