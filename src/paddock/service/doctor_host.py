"""What `paddock doctor` looks at that is the host's own: programs, CPU, KVM, users."""

import json
import os
import platform
import pwd
import re
import shutil
import sys
import tempfile
from pathlib import Path

from paddock.base import ovmf
from paddock.base.run import run
from paddock.base.statedir import StateDir
from paddock.service.check import Check, fail, ok, warn
from paddock.service.state import GUEST_USER, SERVICE_USER

OLDEST_QEMU = (7, 2)
PROBE_WITHIN = 30.0  # seconds
SUBIDS = 65536  # that mmdebstrap needs as a plain user


def python() -> Check:
    """Ours: the package does not install on one that is too old."""
    return ok("Python", f"{platform.python_version()} ({sys.executable})")


def qemu() -> Check:
    path = shutil.which("qemu-system-x86_64")
    if path is None:
        return fail("QEMU", "qemu-system-x86_64 is not installed", "apt-get install qemu-system-x86")
    said = run([path, "--version"], timeout=10).stdout
    match = re.search(r"version (\d+)\.(\d+)", said)
    if match is None or (int(match[1]), int(match[2])) < OLDEST_QEMU:
        return fail("QEMU", said.splitlines()[0] if said else "says no version", "Paddock needs QEMU 7.2 or newer")
    return ok("QEMU", f"{match[1]}.{match[2]} ({path})")


def program(name: str, package: str, why: str) -> Check:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        return fail(name, f"not installed; it is needed to {why}", f"apt-get install {package}")
    return ok(name, path)


def uefi() -> Check:
    """Without it there are servers with a BIOS only."""
    found = ovmf.find()
    if found is None:
        return warn("UEFI", "no OVMF: servers can boot by their BIOS only", "apt-get install ovmf")
    return ok("UEFI", f"{found.code}, without secure boot")


def cpu() -> Check:
    """Whether the CPU, as this kernel sees it, can run guests by itself."""
    text = Path("/proc/cpuinfo").read_text(errors="replace")
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    found = [name for flag, name in (("vmx", "VT-x (vmx)"), ("svm", "AMD-V (svm)")) if flag in flags]
    inside = ", inside a virtual machine" if "hypervisor" in flags else ""
    if found:
        return ok("CPU", f"{found[0]}, {os.cpu_count()} CPUs{inside}")
    hint = "switch on nested virtualisation on its host" if inside else "switch on VT-x or AMD-V in the firmware"
    return warn(
        "CPU", f"no virtualisation flags (vmx, svm), {os.cpu_count()} CPUs{inside}", f"{hint}; TCG works without"
    )


def kvm_module() -> Check:
    loaded = next((m for m in ("kvm_intel", "kvm_amd") if Path("/sys/module", m).exists()), None)
    if loaded is None:
        if Path("/dev/kvm").exists():
            return ok("KVM module", "built into the kernel")
        return warn("KVM module", "neither kvm_intel nor kvm_amd is loaded", "modprobe kvm_intel (or kvm_amd)")
    nested = Path("/sys/module", loaded, "parameters/nested")
    allowed = nested.read_text().strip() in ("1", "Y", "y") if nested.exists() else False
    return ok("KVM module", f"{loaded}, guests may {'' if allowed else 'not '}run guests themselves (nested)")


def accelerator(state: StateDir, node: Path | None) -> Check:
    """What guests really run under: found by a probe guest, in another process and in bounded time."""
    with tempfile.TemporaryDirectory(prefix="paddock-doctor-") as scratch:
        directory = node if node and node.is_dir() else Path(scratch)
        places = (state.images, directory / "images")
        argv: list[str | Path] = [
            sys.executable,
            "-m",
            "paddock.service.accelprobe",
            directory / "accelerator.json",
            *places,
        ]
        done = run(argv, timeout=PROBE_WITHIN)
    found = json.loads(done.stdout)
    if found["accelerator"] == "kvm":
        return ok("accelerator", f"kvm: {found['reason']}")
    hint = found["hint"] or "guests run by emulation, some 10 to 30 times slower"
    return warn("accelerator", f"tcg: {found['reason']}", hint)


def signatures(state: StateDir) -> Check:
    """Whose images' signatures can be checked here. That none can is no fault: their checksums are."""
    done = run([sys.executable, "-m", "paddock.images.signers", state.root], check=False, timeout=60)
    if done.code:
        return fail("signatures", done.stderr.strip()[-500:], f"correct {state.catalogue}")
    found = json.loads(done.stdout)
    checked = [s["name"] for s in found if s["checked"]]
    others = [s["name"] + (f" (package {s['package']})" if s["package"] else "") for s in found if not s["checked"]]
    said = f"of images by {', '.join(checked) or 'nobody'} are checked; no keys here of {', '.join(others) or 'nobody'}"
    return ok("signatures", said)


def dev_null() -> Check:
    mode = Path("/dev/null").stat().st_mode & 0o777
    if mode & 0o006 != 0o006:
        return fail("/dev/null", f"mode {mode:o}: only some users may write it", "chmod 666 /dev/null")
    return ok("/dev/null", "everybody may write it")


def service_users() -> list[Check]:
    """The system users that things run as when Paddock is root."""
    if os.geteuid() != 0:
        return []
    return [_user(SERVICE_USER, "PostgreSQL", True), _user(GUEST_USER, "QEMU", False)]


def _user(name: str, what: str, must: bool) -> Check:
    hint = f"adduser --system --group --no-create-home --home /nonexistent {name}"
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        made = fail if must else warn
        return made(f"user {name}", f"missing: {what} can't run {'at all' if must else 'unprivileged'}", hint)
    return ok(f"user {name}", f"uid {entry.pw_uid}, for {what}")


def user_namespaces() -> Check:
    """What mmdebstrap needs to make an image as a plain user."""
    if os.geteuid() == 0:
        return ok("namespaces", "not needed: images are made as root")
    if run(["unshare", "--user", "true"], check=False, timeout=10).code:
        hint = "sysctl -w kernel.unprivileged_userns_clone=1 (or kernel.apparmor_restrict_unprivileged_userns=0)"
        return fail("namespaces", "this user may not make user namespaces, so no images", hint)
    name = pwd.getpwuid(os.geteuid()).pw_name
    for path in (Path("/etc/subuid"), Path("/etc/subgid")):
        if _subids(path, name) < SUBIDS:
            hint = f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
            return fail("namespaces", f"{path} gives {name} no {SUBIDS} ids, so no images", hint)
    if not shutil.which("newuidmap"):
        return fail("namespaces", "newuidmap is not installed, so no images", "apt-get install uidmap")
    return ok("namespaces", f"user namespaces and subordinate ids of {name}")


def _subids(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    owners = (name, str(os.geteuid()))
    return max((int(line.split(":")[2]) for line in lines if line.split(":")[0] in owners), default=0)
