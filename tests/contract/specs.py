"""Machines and images for the contract: an image of one boot sector, so that a real guest is up in a second."""

import hashlib
import socket
from pathlib import Path
from uuid import UUID, uuid4

from paddock.base.ids import mac_address
from paddock.base.run import run
from paddock.machine.image import ImageFile, ImageManifest, Role
from paddock.machine.spec import MIB, Attached, Disk, Machine, Seed, UserNetwork, Volume

IMAGE_SIZE = 4 * MIB
GREETING = b"contract guest\r\n"

# 16-bit code at 0x7c00: greet on the first serial port (0x3f8), then echo what comes in, asleep in between.
_CODE = bytes.fromhex(
    "fa 31c0 8ed8 be407c"  # cli; xor ax,ax; mov ds,ax; mov si,greeting
    "ac 84c0 7405 e81700 ebf6"  # next: lodsb; test al,al; jz echo; call put; jmp next
    "fb f4"  # echo: sti; hlt (the timer wakes it 18 times a second)
    "bafd03 ec a801 74f6"  # more: mov dx,3fd; in al,dx; test al,1; jz echo
    "baf803 ec e80400 ebef"  # mov dx,3f8; in al,dx; call put; jmp more
    "90 90"
    "50 bafd03 ec a820 74fb 58 baf803 ee c3"  # put: wait until the line is free; out dx,al; ret
)


def boot_sector() -> bytes:
    """The 512 bytes that a BIOS loads and jumps to."""
    code = _CODE.ljust(0x40, b"\x90") + GREETING + b"\0"
    return code.ljust(510, b"\0") + b"\x55\xaa"


# The same as a Linux kernel's real-mode part, which QEMU's option ROM jumps to at offset 0x200, and which reboots when
# something is typed. Header: linux/Documentation/arch/x86/boot.rst, protocol 2.02.
RESCUE_GREETING = b"rescue guest\r\n"
_SETUP, _ENTRY, _WORDS, _RESCUE_CODE_AT = 0x1F1, 0x200, 0x2C0, 0x280
_RESCUE_CODE = bytes.fromhex(
    "fa 8cc8 2d2000 8ed8 bec002"  # cli; mov ax,cs; sub ax,20; mov ds,ax; mov si,greeting
    "ac 84c0 7405 e81200 ebf6"  # next: lodsb; test al,al; jz wait; call put; jmp next
    "bafd03 ec a801 74f8"  # wait: mov dx,3fd; in al,dx; test al,1; jz wait
    "baf90c b006 ee ebfe"  # mov dx,cf9; mov al,6; out dx,al; hang
    "50 bafd03 ec a820 74fb 58 baf803 ee c3"  # put: as above
)


def rescue_kernel() -> bytes:
    """A kernel that greets, and reboots when something is typed."""
    kernel = bytearray(4096)
    kernel[_SETUP] = 1  # sectors of setup after the first
    kernel[0x1FE:0x200] = b"\x55\xaa"
    kernel[_ENTRY : _ENTRY + 2] = bytes([0xEB, _RESCUE_CODE_AT - _ENTRY - 2])  # a jump over the header
    kernel[0x202:0x208] = b"HdrS\x02\x02"
    kernel[0x211] = 1  # loaded high
    kernel[_RESCUE_CODE_AT : _RESCUE_CODE_AT + len(_RESCUE_CODE)] = _RESCUE_CODE
    kernel[_WORDS : _WORDS + len(RESCUE_GREETING)] = RESCUE_GREETING
    return bytes(kernel)


def make_files(directory: Path, name: str, content: dict[Role, bytes]) -> ImageManifest:
    """Make an image without a disk in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for role, data in content.items():
        (directory / role).write_bytes(data)
        files.append(ImageFile(role=role, sha256=hashlib.sha256(data).hexdigest(), size=len(data)))
    direct = Role.KERNEL in content
    return ImageManifest(name=name, disk_size=0, files=tuple(files), direct_boot=direct)


def make_iso(directory: Path, name: str = "iso") -> ImageManifest:
    """A CD image with nothing to boot from."""
    return make_files(directory, name, {Role.ISO: name.encode().ljust(64 * 1024)})


def make_rescue(directory: Path) -> ImageManifest:
    """A rescue system."""
    return make_files(directory, "rescue", {Role.KERNEL: rescue_kernel(), Role.INITRD: b"initrd".ljust(4096)})


def make_volume(size: int = 8 * MIB, uuid: UUID | None = None) -> Volume:
    return Volume(uuid=uuid or uuid4(), size=size)


def attached(*volumes: Volume) -> tuple[Attached, ...]:
    """How a machine has them."""
    return tuple(Attached(volume=v.uuid, serial=str(n)) for n, v in enumerate(volumes, 101))


def make_image(directory: Path, name: str = "contract", qcow2: bool = True) -> ImageManifest:
    """Make an image's files in `directory`. A raw one does where nothing is run."""
    directory.mkdir(parents=True, exist_ok=True)
    disk, raw = directory / Role.DISK, directory / "raw"
    raw.write_bytes(boot_sector() + name.encode().ljust(512))
    if qcow2:
        with raw.open("r+b") as file:
            file.truncate(IMAGE_SIZE)
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk])
        raw.unlink()
    else:
        raw.rename(disk)
    found = hashlib.sha256(disk.read_bytes()).hexdigest()
    file_ = ImageFile(role=Role.DISK, sha256=found, size=disk.stat().st_size)
    return ImageManifest(name=name, disk_size=IMAGE_SIZE, files=(file_,))


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


def system_disk(image: str, size: int = IMAGE_SIZE) -> Disk:
    return Disk(size=size, image=image)


def make_machine(image: str, uuid: UUID | None = None, port: int | None = None, cpus: int = 1) -> Machine:
    """A small machine; its port is free unless given."""
    uuid = uuid or uuid4()
    return Machine(
        uuid=uuid, name="contract", cpus=cpus, memory_mib=64, image=image, system_disk=system_disk(image),
        network=UserNetwork(mac=mac_address(uuid), ssh_port=port or free_port()),
        seed=Seed(instance_id=str(uuid), hostname="contract"),
    )  # fmt: skip
