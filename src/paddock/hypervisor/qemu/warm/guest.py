"""What the node and the guest of a warm image say to each other, by the guest agent.

The script `settle` is sent once, before the image is made, and goes on in each machine that starts from it: it waits
for who the machine is, which is written into a pipe of the guest.
"""

import secrets
from collections.abc import Callable
from datetime import datetime
from importlib.resources import files
from uuid import UUID

from paddock.base import clock
from paddock.base.errors import Refused, Unavailable
from paddock.hypervisor.qemu.guest_agent import GuestAgent
from paddock.hypervisor.qemu.warm.host_key import Files
from paddock.machine.spec import Machine


class Hopeless(Refused):
    """There can be no warm image of this, however often it is tried."""


STATE = "/run/paddock-warm/state"
SAMPLE = "/run/paddock-warm/sample"  # 64 bytes that its kernel gave first, in hex
_WAKE = "/run/paddock-warm/wake"
ENTROPY = 64  # bytes
ANSWER = 5.0  # seconds for one answer
LOOK_EVERY = 0.01, 0.5  # seconds between looks, at first and at last

Check = Callable[[], None]  # raises when there is nothing left to wait for


def script() -> str:
    """What runs in the guest."""
    return (files("paddock.hypervisor.qemu.warm") / "settle").read_text(encoding="utf-8")


def settle(agent: GuestAgent, seconds: float, check: Check) -> None:
    """Have the guest take off its identity and stand still; returns when it does. Raises Hopeless with the guest's
    reason, Unavailable when it takes longer, and what `check` raises."""
    agent.launch(("/bin/sh", "-s"), script(), ANSWER)
    _wait_for(lambda: state(agent), ("ready",), seconds, check)


def tell(agent: GuestAgent, words: Callable[[], str], seconds: float, check: Check | None = None) -> datetime:
    """Tell the guest who it is, in words that are made when it listens; returns when its kernel's randomness is new,
    and says when the guest agent answered first. Raises Refused, Unavailable, and what `check` raises."""
    with agent.conversation(seconds) as talk:
        answered = clock.now()
        talk.write_pipe(_WAKE, words().encode())
        _wait_for(lambda: _said(talk.read_file(STATE)), ("reseeded", "born"), seconds, check)
    return answered


def _wait_for(look: Callable[[], str], wanted: tuple[str, ...], seconds: float, check: Check | None) -> None:
    """Until the script says one of these. Raises Hopeless when it gives up, Unavailable."""
    deadline = clock.monotonic() + seconds
    pause, longest = LOOK_EVERY
    while (said := look()) not in wanted:
        if said.startswith("refused"):
            raise Hopeless(f"its guest can't start warm: {said.removeprefix('refused').strip()}")
        if clock.monotonic() > deadline:
            raise Unavailable(f"its guest is {said or 'silent'} after {seconds:g} s, and should be {wanted[0]}")
        if check:
            check()
        clock.sleep(pause)
        pause = min(pause * 1.5, longest)


def state(agent: GuestAgent) -> str:
    """What the script said last; empty: nothing."""
    try:
        return _said(agent.read_file(STATE, ANSWER) or "")
    except Unavailable:
        return ""


def _said(text: str) -> str:
    return text.strip()[:300]


def sample(agent: GuestAgent) -> str:
    """What its kernel gave first after its randomness was renewed. Raises Refused when there is none."""
    found = (agent.read_file(SAMPLE, ANSWER) or "").strip()
    if len(found) != 2 * ENTROPY:
        raise Hopeless("its guest does not show that its randomness is new")
    return found


def identity(machine: Machine, user: str, host_keys: Files) -> str:
    """Who it is: new entropy first, then a word and its value a line."""
    seed = machine.seed
    lines = [
        ("time", f"{clock.now().timestamp():.0f}"),
        ("hostname", seed.hostname),
        ("machine_id", secrets.token_hex(16)),
        ("boot_id", str(_random_uuid())),
        ("uuid", str(machine.uuid)),
        ("user", user),
        *(("host_key", f"{name} {_octal(content)}") for name, content in host_keys.items()),
        ("password", seed.password_hash),
        *(("key", key.strip()) for key in seed.ssh_keys),
    ]
    return _entropy() + "".join(f"{word} {_one_line(value)}\n" for word, value in lines if value)


def probe() -> str:
    """Only renews its randomness."""
    return f"{_entropy()}time {clock.now().timestamp():.0f}\nprobe yes\n"


def _entropy() -> str:
    return f"{secrets.token_hex(ENTROPY)}\n"


def _octal(content: bytes) -> str:
    """As every shell's own printf takes it."""
    return "".join(f"\\{byte:03o}" for byte in content)


def _random_uuid() -> UUID:
    return UUID(bytes=secrets.token_bytes(16), version=4)


def _one_line(value: str) -> str:
    """Raises Refused for what would be another line."""
    if "\n" in value or "\r" in value or "\0" in value:
        raise Refused("an SSH key or a name has more than one line")
    return value
