"""What the node and a guest that is forked say to each other, by the guest agent.

The script `renew` is started in the parent before anything stands still, and waits there. In each child it goes on from
that point: it is told who the child is. In the parent it is told to go.
"""

import contextlib
import secrets
import threading
from collections.abc import Callable
from importlib.resources import files
from uuid import UUID

from paddock.base import clock
from paddock.base.errors import PaddockError, Refused, Unavailable
from paddock.hypervisor.qemu.copies import GivenUp
from paddock.hypervisor.qemu.guest_agent import GuestAgent
from paddock.machine.spec import Machine

ENTROPY = 64  # bytes
ANSWER = 10.0  # seconds for one answer
READY_WAIT = 60.0  # seconds until the script waits in the parent
BORN_WAIT = 90.0  # seconds until a child has an identity of its own
LOOK_EVERY = 0.01, 0.25  # seconds between looks, at first and at last


def script() -> str:
    """What runs in the guest."""
    return (files("paddock.hypervisor.qemu.fork") / "renew").read_text(encoding="utf-8")


def prepare(agent: GuestAgent, point: UUID, stop: threading.Event) -> None:
    """Have the script wait in the parent. Raises Refused with the guest's reason, Unavailable, GivenUp."""
    agent.launch(("/bin/sh", "-s", str(point)), script(), ANSWER)
    _wait_for(lambda: _state(agent, point), "ready", READY_WAIT, stop)


def leave(agent: GuestAgent, point: UUID) -> None:
    """Have the script in the parent end. Where that can't be said, it ends by itself some minutes later."""
    with contextlib.suppress(PaddockError), agent.conversation(ANSWER) as talk:
        if _said(talk.read_file(f"{_place(point)}/state")) == "ready":
            talk.write_pipe(f"{_place(point)}/wake", b"go\n")


def tell(agent: GuestAgent, point: UUID, words: str) -> None:
    """Tell a child who it is; returns when it is that. Raises Refused, Unavailable."""
    with agent.conversation(BORN_WAIT) as talk:
        talk.write_pipe(f"{_place(point)}/wake", words.encode())
        _wait_for(lambda: _said(talk.read_file(f"{_place(point)}/state")), "born", BORN_WAIT)


def identity(machine: Machine, was: Machine, user: str) -> str:
    """Who a child of `was` is: new entropy first, then a word and its value a line."""
    seed = machine.seed
    lines = [
        ("time", f"{clock.now().timestamp():.0f}"),
        ("hostname", seed.hostname),
        ("was_hostname", was.seed.hostname),
        ("machine_id", secrets.token_hex(16)),
        ("boot_id", str(UUID(bytes=secrets.token_bytes(16), version=4))),
        ("uuid", str(machine.uuid)),
        ("instance_id", seed.instance_id),
        ("mac", machine.network.mac.lower()),
        ("was_mac", was.network.mac.lower()),
        ("user", user),
        *(("key", key.strip()) for key in seed.ssh_keys),
    ]
    return f"{secrets.token_hex(ENTROPY)}\n" + "".join(f"{word} {_one_line(value)}\n" for word, value in lines if value)


def _wait_for(look: Callable[[], str], wanted: str, seconds: float, stop: threading.Event | None = None) -> None:
    deadline = clock.monotonic() + seconds
    pause, longest = LOOK_EVERY
    while (said := look()) != wanted:
        if said.startswith("refused"):
            raise Refused(f"its guest can't be forked: {said.removeprefix('refused').strip()}")
        if clock.monotonic() > deadline:
            raise Unavailable(f"its guest is {said or 'silent'} after {seconds:g} s, and should be {wanted}")
        if stop and stop.is_set():
            raise GivenUp
        clock.sleep(pause)
        pause = min(pause * 1.5, longest)


def _state(agent: GuestAgent, point: UUID) -> str:
    """What the script said last; empty: nothing."""
    try:
        return _said(agent.read_file(f"{_place(point)}/state", ANSWER) or "")
    except Unavailable:
        return ""


def _said(text: str) -> str:
    return text.strip()[:300]


def _place(point: UUID) -> str:
    return f"/run/paddock-fork-{point}"


def _one_line(value: str) -> str:
    """Raises Refused for what would be another line."""
    if "\n" in value or "\r" in value or "\0" in value:
        raise Refused("an SSH key or a name has more than one line")
    return value
