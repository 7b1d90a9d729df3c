"""Public keys for tests, made of a word: whole in form, nobody has their private half."""

import base64
import hashlib


def _part(content: bytes) -> bytes:
    return len(content).to_bytes(4) + content


def public_key(kind: str, *parts: bytes, comment: str = "somebody@example.com") -> str:
    """A key of that kind with these parts after its name."""
    blob = b"".join(_part(p) for p in (kind.encode(), *parts))
    return f"{kind} {base64.b64encode(blob).decode()} {comment}"


def ed25519(word: str) -> str:
    """A key of its own for each word."""
    return public_key("ssh-ed25519", hashlib.sha256(word.encode()).digest())


def rsa(word: str) -> str:
    """A key of 2048 bits."""
    return public_key("ssh-rsa", b"\1\0\1", b"\0" + hashlib.sha256(word.encode()).digest() * 8)
