"""Names and secrets made at random, and names derived from a machine's uuid."""

import secrets
import string
from uuid import UUID, uuid4

ALPHANUMERIC = string.ascii_letters + string.digits
UNMISTAKABLE = "".join(c for c in ALPHANUMERIC if c not in "0O1lI")
TOKEN_LENGTH = 64  # clients of the public API refuse tokens of any other length


def new_uuid() -> UUID:
    """A new machine's uuid."""
    return uuid4()


def new_token() -> str:
    """A bearer token: 64 letters and digits, 381 bits."""
    return "".join(secrets.choice(ALPHANUMERIC) for _ in range(TOKEN_LENGTH))


def new_password(length: int = 20) -> str:
    """A password without the characters that people confuse."""
    return "".join(secrets.choice(UNMISTAKABLE) for _ in range(length))


def new_correlation_id() -> str:
    """16 hex digits that connect a request with our logs."""
    return secrets.token_hex(8)


def mac_address(machine: UUID, card: int = 0) -> str:
    """The MAC of a machine's card, in QEMU's own 52:54:00 range; the same each time it is asked for."""
    tail = (int.from_bytes(machine.bytes[-3:]) + card) % 2**24
    return "52:54:00:" + ":".join(f"{b:02x}" for b in tail.to_bytes(3))
