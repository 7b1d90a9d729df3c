"""The handshake of a VNC connection (RFC 6143, 7.1), from both ends: we are the server to a viewer, and the client to
a node. After it, bytes pass through us as they are.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from paddock.base.errors import Refused

VERSION = b"RFB 003.008\n"
OLDEST = b"RFB 003.003\n"  # is not told the kinds of security, but one
NONE, VNC = 1, 2  # kinds of security
OK, FAILED = (0).to_bytes(4), (1).to_bytes(4)
CHALLENGE = 16  # bytes
MOST_WORDS = 4096  # bytes of a reason that we listen to


class Line:
    """One peer's bytes, read in the sizes that the protocol says. `rest` came beyond what was read."""

    def __init__(self, receive: Callable[[], Awaitable[bytes]], send: Callable[[bytes], Awaitable[None]]) -> None:
        self._receive, self.send = receive, send
        self.rest = b""

    async def read(self, size: int) -> bytes:
        """So many bytes. Raises what `receive` raises at the end."""
        while len(self.rest) < size:
            self.rest += await self._receive()
        data, self.rest = self.rest[:size], self.rest[size:]
        return data


async def asks_password(browser: Line, password: str) -> bool:
    """Begin as a server: whether the browser knows the password. Its result is not yet told: see `admit`, `turn_away`.

    Raises Refused (having told the browser) when it speaks another version or chooses no password."""
    await browser.send(VERSION)
    version = await browser.read(len(VERSION))
    if version != VERSION:
        why = "only version 3.8 of the protocol is spoken here"
        await browser.send((bytes(4) if version == OLDEST else b"\0") + _words(why))
        raise Refused(why)
    await browser.send(bytes((1, VNC)))
    if await browser.read(1) != bytes((VNC,)):
        why = "this console asks for a password"
        await turn_away(browser, why)
        raise Refused(why)
    challenge = secrets.token_bytes(CHALLENGE)
    await browser.send(challenge)
    return hmac.compare_digest(await browser.read(CHALLENGE), response(password, challenge))


async def admit(browser: Line) -> None:
    """Tell it that it may go on."""
    await browser.send(OK)


async def turn_away(browser: Line, why: str) -> None:
    """Tell it that it may not, and why."""
    await browser.send(FAILED + _words(why))


async def enter(node: Line) -> None:
    """Begin as a client, without a password: the node's own socket is guarded by its permissions. Raises Refused with
    the node's words."""
    if not (await node.read(len(VERSION))).startswith(b"RFB 003."):
        raise Refused("what answers as the server's screen does not speak VNC")
    await node.send(VERSION)
    kinds = await node.read((await node.read(1))[0])
    if not kinds:
        raise Refused(await _reason(node))
    if NONE not in kinds:
        raise Refused("the server's screen wants a password of its own")
    await node.send(bytes((NONE,)))
    if await node.read(4) != OK:
        raise Refused(await _reason(node))


def response(password: str, challenge: bytes) -> bytes:
    """What VNC authentication answers: the challenge under DES, by the password's first 8 bytes, each bit-reversed.

    DES is three times itself under one key, which is how today's libraries still have it."""
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password.encode()[:8].ljust(8, b"\0"))
    encryptor = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()  # noqa: S305 (the protocol's; of random bytes)
    return encryptor.update(challenge) + encryptor.finalize()


def _words(text: str) -> bytes:
    said = text.encode()
    return len(said).to_bytes(4) + said


async def _reason(node: Line) -> str:
    size = int.from_bytes(await node.read(4))
    return (await node.read(min(size, MOST_WORDS))).decode(errors="replace")
