"""Host keys for machines that start warm, in the forms of two SSH servers."""

import struct

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.hazmat.primitives.serialization.ssh import load_ssh_private_key, load_ssh_public_key

from paddock.hypervisor.qemu.warm import host_key


def strings(content: bytes) -> list[bytes]:
    found = []
    while content:
        (size,) = struct.unpack(">I", content[:4])
        found.append(content[4 : 4 + size])
        assert len(found[-1]) == size
        content = content[4 + size :]
    return found


def test_openssh_reads_its_own() -> None:
    files = host_key.openssh("web-1")
    private = load_ssh_private_key(files["ssh_host_ed25519_key"], None)
    public = files["ssh_host_ed25519_key.pub"]
    assert isinstance(private, Ed25519PrivateKey)
    assert load_ssh_public_key(public) == private.public_key()
    assert public.endswith(b" root@web-1\n")


def test_dropbear_s_public_keys_belong_to_the_private_ones() -> None:
    for _ in range(300):  # whose numbers are shorter now and then, or would look negative
        files = host_key.dropbear()
        kind, both = strings(files["ed25519"])
        assert kind == b"ssh-ed25519"
        assert Ed25519PrivateKey.from_private_bytes(both[:32]).public_key().public_bytes_raw() == both[32:]
        kind, curve, point, number = strings(files["ecdsa"])
        assert (kind, curve) == (b"ecdsa-sha2-nistp256", b"nistp256")
        assert number[0] < 0x80
        assert number[0] or number[1] >= 0x80, "the shortest form of a number"
        secret = ec.derive_private_key(int.from_bytes(number, "big"), ec.SECP256R1())
        assert secret.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) == point


def test_nobody_has_another_s() -> None:
    made = [*host_key.openssh("a").values(), *host_key.openssh("a").values()]
    made += [*host_key.dropbear().values(), *host_key.dropbear().values()]
    assert len(set(made)) == len(made)
