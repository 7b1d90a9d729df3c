"""Helper guests on disks as distributions ship them: subvolumes, /boot apart, what UEFI boots from, logical volumes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.base import run
from paddock.images.partitions import END_SECTORS, LINUX_ROOT_X86_64, SECTOR, Partition, write_table
from paddock.machine.spec import MIB
from tests.guests import shapes
from tests.guests.helper_node import FILES, HASH, SIZE, HelperNode
from tests.guests.test_helper_guest import cleaned

pytestmark = [pytest.mark.guest, pytest.mark.slow]

TREE = {
    **{name: text for name, text in FILES.items() if name != "etc/fstab"},
    "etc/ssh/ssh_host_rsa_key": "secret", "etc/ssh/sshd_config": "UsePAM yes\n",
    "home/bob/.ssh/authorized_keys": "ssh-ed25519 AAAA bob\n", "home/bob/notes": "kept\n",
    "var/log/syslog": "said", "var/lib/cloud/instance-id": "i-1", "tmp/.here": "",
}  # fmt: skip

OWN = {"host-keys", "authorized-keys", "passwords", "cloud-init", "logs", "temporary"}
GONE = {
    "/etc/ssh/ssh_host_rsa_key", "/home/bob/.ssh/authorized_keys", "/var/lib/cloud/instance-id", "/tmp/.here",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    directory = tmp_path_factory.mktemp("shapes")
    yield shapes.make(directory, TREE)
    shutil.rmtree(directory)


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_password_and_cleaning(shape: str, made: dict[str, Path]) -> None:
    def take(_tree: Path, raw: Path) -> None:
        shutil.move(made[shape], raw)

    node = HelperNode(make=take)
    try:
        told = node.finished()
        assert (told.done, told.error) == (True, "")
        assert f"root:{HASH}:".encode() in node.raw().read_bytes()

        snapshot = cleaned(node)
        assert (snapshot.done, snapshot.error) == (True, "")
        seed = {"random-seed"} if shape == "fedora" else set()
        assert {c.split(":")[0] for c in snapshot.cleaned} == OWN | seed
        seen = shapes.look(node.root, shape, node.raw(node.root / "copy"))
        assert seen.keys() == {f"/{name}" for name in TREE} - GONE | {"/etc/fstab"}
        assert seen["/var/log/syslog"] == ""
        assert seen["/home/bob/notes"] == "kept|"
        assert seen["/etc/shadow"].startswith("root:*:"), "its password is gone, too"
    finally:
        node.close()


def half_encrypted(_tree: Path, raw: Path) -> None:
    """/boot is readable, the root file system is not, as far as its header goes."""
    sectors, boot, root = 2 * SIZE // SECTOR, MIB // SECTOR, 17 * MIB // SECTOR
    parts = [
        Partition(LINUX_ROOT_X86_64, "boot", boot, root - boot),
        Partition(LINUX_ROOT_X86_64, "root", root, sectors - END_SECTORS - root),
    ]
    with raw.open("w+b") as file:
        file.truncate(2 * SIZE)
        write_table(file, sectors, parts)
        file.seek(root * SECTOR)
        file.write(b"LUKS\xba\xbe\x00\x01".ljust(592, b"\0"))
    run.run(["mke2fs", "-q", "-F", "-t", "ext4", "-E", f"offset={MIB}", raw, "16M"])


def test_an_encrypted_root() -> None:
    node = HelperNode(make=half_encrypted)
    try:
        before = node.content()
        assert "the system on the disk is encrypted: /dev/sda2 (crypto_LUKS)" in node.finished().error
        assert "the system on the disk is encrypted" in cleaned(node).error
        assert node.content() == before
    finally:
        node.close()
