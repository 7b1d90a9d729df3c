"""QEMU's command line for a machine: pure, and compared with golden files.

A layout is a promise to guests, warm images and migration: which devices there are, at which PCI address. It never
changes; a new layout gets a new number. Layout 2 is layout 1 with room for more CPUs and memory, and a CD drive. All
files are named relative to the machine's directory.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from paddock.base.errors import Invalid
from paddock.hypervisor.qemu import firmware
from paddock.hypervisor.qemu.devices import cd_drive, cd_place, volume_words
from paddock.hypervisor.qemu.layout import image_file
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import Machine, UserNetwork
from paddock.machine.state import Accelerator

ROOT_PORTS = 8
ROOM = 2  # the first layout with room for more
ROOM_FROM_MIB = 256  # Linux sets 64 MiB aside once memory can come above 4 GiB: smaller machines can't spare that
MEMORY_SLOTS = 16  # how many times memory can be added to one run
RESET_ENDS = "-no-reboot"  # in the rescue system: its guest's reboot leads out of it
TRACE_SHUTDOWN = "qemu_system_shutdown_request"  # noted in QEMU's log when a guest switches itself off
HUGE = "huge0"  # the memory of a machine in huge pages
WARM = "warm0"  # the memory of one that began from a warm image, or is to become one
WARM_PORT = "rp0"  # where the network card of such a machine is plugged in
NOT_NESTED = "host,vmx=off,svm=off"
TCG_CACHE_MIB = 256  # of translated code, at most; QEMU's own limit is 1 GiB, more than our small guests have
TCG_CACHE_WARM_MIB = 128  # the same where its guest has booted already (docs/decisions/0008)
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z0-9._+-]+")


@dataclass(frozen=True)
class Binary:
    """What the QEMU program of this host can do."""

    program: str
    version: str
    sandbox: bool
    user_network: bool
    uefi_code: str = ""  # the firmware's file; empty where there is none
    build: str = ""  # tells this program from any other of its version
    migration: frozenset[str] = frozenset()  # its capabilities of writing and reading memory

    @property
    def private_files(self) -> bool:
        """Whether a file that it may only read can be a guest's memory, its own from the first write on."""
        return tuple(int(n) for n in self.version.split(".")[:2]) >= (8, 2)


@dataclass(frozen=True)
class Warm:
    """What is different in a machine that began from a warm image, as long as its QEMU or its memory lives: how its
    memory is called, and that its network card came later."""

    file: str = ""  # the warm image's memory; empty: memory of its own
    shared: bool = False  # what it writes becomes the file's content: how a warm image is made
    card: bool = True  # whether its network card is there already
    alone: bool = False  # the card leads nowhere


def command_line(
    machine: Machine,
    manifest: ImageManifest,
    binary: Binary,
    accelerator: Accelerator,
    paused: bool,
    warm: Warm | None = None,
) -> list[str]:
    """The words to start a machine with. `manifest` is what it boots: its image, or that of its rescue system. Raises
    Invalid for a word that QEMU would take for more than one option, Refused for a firmware that is not here."""
    boots_kernel = manifest.direct_boot or machine.rescue is not None
    if machine.kernel_args and not boots_kernel:
        raise kernel_args_unusable(manifest)
    return [
        binary.program,
        *_process(machine, binary, paused),
        *_board(machine, binary, accelerator, warm),
        *_uefi(machine, binary),
        *_control(),
        *_layout_1(machine),
        *_card(machine, warm),
        *_drives(machine, boots_kernel),
        *(_boot_kernel(machine, manifest) if boots_kernel else ["-boot", "strict=on"]),
        *([RESET_ENDS, "-trace", TRACE_SHUTDOWN] if machine.rescue else []),
    ]


def pretty(words: Sequence[str]) -> str:
    """A command line as people read it: an option and its value on one line."""
    lines: list[str] = []
    for word in words:
        if lines and not word.startswith("-") and lines[-1].startswith("-") and " " not in lines[-1]:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines) + "\n"


def _process(machine: Machine, binary: Binary, paused: bool) -> list[str]:
    return [
        "-name", f"guest={escaped(machine.name)},debug-threads=on",
        "-uuid", str(machine.uuid),
        "-no-user-config",
        "-nodefaults",
        "-no-shutdown",
        *(["-sandbox", SANDBOX] if binary.sandbox else []),
        *(["-S"] if paused else []),
        "-msg", "timestamp=on",
    ]  # fmt: skip


def _tcg_cache_mib(warm: Warm | None) -> int:
    return TCG_CACHE_WARM_MIB if warm and not warm.alone else TCG_CACHE_MIB


def _board(machine: Machine, binary: Binary, accelerator: Accelerator, warm: Warm | None) -> list[str]:
    kvm = accelerator == Accelerator.KVM
    kind = _plain(machine.machine_type, "machine_type")
    return [
        "-machine", f"{kind},usb=off,vmport=off{_firmware(machine)}{_backend(machine, warm)}",
        "-accel", "kvm" if kvm else f"tcg,tb-size={_tcg_cache_mib(warm)}",
        "-cpu", ("host" if machine.nested else NOT_NESTED) if kvm else "max",
        "-smp", _cpus(machine),
        "-m", _memory(machine),
        *(_warm_memory(machine, warm, binary) if warm else _huge_pages(machine)),
        "-rtc", "base=utc",
    ]  # fmt: skip


def _backend(machine: Machine, warm: Warm | None) -> str:
    name = WARM if warm else HUGE if machine.huge_pages else ""
    return f",memory-backend={name}" if name else ""


def _warm_memory(machine: Machine, warm: Warm, binary: Binary) -> list[str]:
    size = f"size={machine.memory_mib}M"
    if not warm.file:
        return ["-object", f"memory-backend-ram,id={WARM},{size}"]
    share = "on" if warm.shared else "off,readonly=on,rom=off" if binary.private_files else "off"
    return ["-object", f"memory-backend-file,id={WARM},{size},mem-path={warm.file},share={share}"]


def _huge_pages(machine: Machine) -> list[str]:
    """All taken at once, so that none is missing later."""
    if not machine.huge_pages:
        return []
    return ["-object", f"memory-backend-memfd,id={HUGE},size={machine.memory_mib}M,hugetlb=on,share=off,prealloc=on"]


def _uefi(machine: Machine, binary: Binary) -> list[str]:
    if machine.firmware == "bios":
        return []
    if not binary.uefi_code:
        raise firmware.missing()
    return firmware.words(binary.uefi_code)


def _firmware(machine: Machine) -> str:
    return firmware.MACHINE_OPTIONS if machine.firmware == "uefi" else ""


def _cpus(machine: Machine) -> str:
    has_room = machine.layout >= ROOM and not machine.dedicated_cpus  # those that it has are bound to the host's
    most = max(machine.cpus, machine.max_cpus) if has_room else machine.cpus
    room = f",maxcpus={most}" if most > machine.cpus else ""
    return f"cpus={machine.cpus}{room},sockets=1,cores={most},threads=1"


def _memory(machine: Machine) -> str:
    size = f"size={machine.memory_mib}M"
    has_room = machine.layout >= ROOM and machine.memory_mib >= ROOM_FROM_MIB and not machine.huge_pages
    if not has_room or machine.max_memory_mib <= machine.memory_mib:
        return size
    return f"{size},slots={MEMORY_SLOTS},maxmem={machine.max_memory_mib}M"


def _control() -> list[str]:
    return [
        "-chardev", "socket,id=qmp0,path=qmp.sock,server=on,wait=off",
        "-mon", "chardev=qmp0,mode=control",
        "-chardev", "socket,id=qmp1,path=qmp2.sock,server=on,wait=off",
        "-mon", "chardev=qmp1,mode=control",
        "-chardev", "socket,id=serial0,path=serial.sock,server=on,wait=off,logfile=serial.log,logappend=on",
        "-serial", "chardev:serial0",
        "-display", "none",
        "-vnc", "unix:vnc.sock,share=force-shared",
    ]  # fmt: skip


def _layout_1(machine: Machine) -> list[str]:
    seed = "rescue.iso" if machine.rescue else "seed.iso"
    return [
        "-device", "VGA,id=vga0,bus=pcie.0,addr=0x1",
        "-device", "virtio-scsi-pci,id=scsi0,bus=pcie.0,addr=0x2",
        "-device", "virtio-serial-pci,id=serial1,bus=pcie.0,addr=0x3",
        "-object", "rng-random,id=rng0,filename=/dev/urandom",
        "-device", "virtio-rng-pci,rng=rng0,bus=pcie.0,addr=0x4",
        "-device", f"vmgenid,guid={machine.uuid}",
        *_root_ports(),
        "-chardev", "socket,id=agent0,path=agent.sock,server=on,wait=off",
        "-device", "virtserialport,bus=serial1.0,nr=1,chardev=agent0,name=org.qemu.guest_agent.0",
        "-blockdev", "driver=file,node-name=system-file,filename=system.qcow2,discard=unmap",
        "-blockdev", "driver=qcow2,node-name=system,file=system-file,discard=unmap,detect-zeroes=unmap",
        "-device", f"scsi-hd,id=system,bus=scsi0.0,scsi-id=0,drive=system,{_serial(machine)},bootindex=1",
        "-blockdev", f"driver=file,node-name=seed-file,filename={seed},read-only=on",
        "-blockdev", "driver=raw,node-name=seed,file=seed-file,read-only=on",
        "-device", "scsi-cd,id=seed,bus=scsi0.0,scsi-id=1,drive=seed",
    ]  # fmt: skip


def _serial(machine: Machine) -> str:
    """Older QEMUs make a device_id of the serial number's first 20 characters; newer ones refuse longer ones."""
    serial = machine.uuid.hex
    return f"serial={serial},device_id={serial[:20]}"


def _card(machine: Machine, warm: Warm | None) -> list[str]:
    if warm and not warm.card:
        return []
    network = machine.network
    leads = "restrict=on" if warm and warm.alone else f"hostfwd={forwarded(network)}"
    place = f"bus={WARM_PORT}" if warm else "bus=pcie.0,addr=0x5"
    return [
        "-netdev", f"user,id=net0,{leads}",
        "-device", f"virtio-net-pci,id=net0,netdev=net0,mac={_mac(network.mac)},{place},romfile=",
    ]  # fmt: skip


def forwarded(network: UserNetwork) -> str:
    """The rule by which its SSH port answers on the node."""
    return f"tcp:{_ipv4(network.ssh_address)}:{network.ssh_port}-:22"


def _root_ports() -> list[str]:
    """Empty, for what is plugged in later. They share one slot, as functions."""
    words = []
    for n in range(ROOT_PORTS):
        first = ",multifunction=on" if n == 0 else ""
        words += ["-device", f"pcie-root-port,id=rp{n},bus=pcie.0,addr=0x10.{n:#x},chassis={n + 1}{first}"]
    return words


def _drives(machine: Machine, boots_kernel: bool) -> list[str]:
    """A kernel that QEMU loads is booted before any drive; the BIOS gives a drive of that place precedence over it."""
    words = []
    if machine.layout >= ROOM or machine.iso:
        words += cd_drive(machine.iso, None if boots_kernel else cd_place(machine.iso_first))
    for attached in machine.volumes:
        words += volume_words(attached)
    return words


def kernel_args_unusable(manifest: ImageManifest) -> Invalid:
    """There is no kernel that QEMU could give them to."""
    return Invalid(f"image {manifest.name} boots a kernel of its own: it gets no arguments here", field="kernel_args")


def _boot_kernel(machine: Machine, manifest: ImageManifest) -> list[str]:
    words = ["-kernel", image_file(manifest.sha256, Role.KERNEL)]
    if manifest.file(Role.INITRD):
        words += ["-initrd", image_file(manifest.sha256, Role.INITRD)]
    own = "" if machine.rescue else machine.kernel_args
    arguments = " ".join(filter(None, (manifest.cmdline, own)))
    return [*words, *(["-append", arguments] if arguments else [])]


def escaped(value: str) -> str:
    """A value inside a QEMU option: its commas are doubled."""
    return value.replace(",", ",,")


def _plain(value: str, field: str) -> str:
    if not _WORD.fullmatch(value):
        raise Invalid(f"{value!r} is no {field} that QEMU could have", field=field)
    return value


def _mac(value: str) -> str:
    if not _MAC.fullmatch(value):
        raise Invalid(f"{value!r} is not a MAC address", field="mac", hint="it looks like 52:54:00:12:34:56")
    return value.lower()


def _ipv4(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError as e:
        raise Invalid(
            f"{value!r} is not an IPv4 address", field="ssh_address", hint="user-mode networking forwards IPv4 only"
        ) from e
