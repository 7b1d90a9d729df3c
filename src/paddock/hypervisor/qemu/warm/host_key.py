"""SSH host keys for a machine that starts warm. They are made here, where that takes a moment: in a guest under
emulation it takes longer than all else until SSH answers. The node sees the guest's memory anyway."""

import struct

from cryptography.hazmat.primitives import serialization as to
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Files = dict[str, bytes]  # by their names in the directory where the SSH server keeps its keys


def openssh(hostname: str) -> Files:
    """A key that nobody had before, as OpenSSH keeps it."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(to.Encoding.OpenSSH, to.PublicFormat.OpenSSH)
    return {
        "ssh_host_ed25519_key": key.private_bytes(to.Encoding.PEM, to.PrivateFormat.OpenSSH, to.NoEncryption()),
        "ssh_host_ed25519_key.pub": public + f" root@{hostname}\n".encode(),
    }


def dropbear() -> Files:
    """Two keys that nobody had before, as Dropbear keeps them: the strings and numbers of SSH's protocol (RFC 4251,
    section 5) that make up the public key, then what is private."""
    edwards = Ed25519PrivateKey.generate()
    both = edwards.private_bytes_raw() + edwards.public_key().public_bytes_raw()
    nist = ec.generate_private_key(ec.SECP256R1())
    point = nist.public_key().public_bytes(to.Encoding.X962, to.PublicFormat.UncompressedPoint)
    secret = nist.private_numbers().private_value
    number = secret.to_bytes(secret.bit_length() // 8 + 1, "big")  # whose first bit is its sign
    return {
        "ed25519": _string(b"ssh-ed25519") + _string(both),
        "ecdsa": b"".join(map(_string, (b"ecdsa-sha2-nistp256", b"nistp256", point, number))),
    }


def _string(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content
