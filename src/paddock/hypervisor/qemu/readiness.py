"""Whether a running guest can be used, by whatever can be seen from outside; never longer than two seconds."""

import contextlib
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from paddock.base import clock
from paddock.base.errors import Refused, Unavailable
from paddock.hypervisor.qemu.guest_agent import GuestAgent
from paddock.machine.image import ImageManifest
from paddock.machine.state import Readiness

AGENT_WAIT = 0.4  # seconds
SSH_WAIT = 0.3, 1.2  # seconds for a banner; at first where there is soon a network: what is sent before it is lost
AGENT_ALONE = 20.0  # seconds that the guest agent answers and SSH does not, until the agent is enough
CLOUD_INIT_EVERY = 2.0
SETTLE = 45.0  # seconds that SSH answers, until it counts although cloud-init may yet restart it
LAST_WORDS = 5  # lines
SETTLED = ("modules-final", "done")  # stages of cloud-init in which it leaves SSH alone
SERIAL_READY = "paddock-tiny: ready"
CLOUD_INIT_STATUS = "/run/cloud-init/status.json"
CLOUD_INIT_RESULT = "/run/cloud-init/result.json"


@dataclass
class Signs:
    """What was seen of one boot of one machine so far."""

    agent_since: float | None = None
    ssh_since: float | None = None
    ssh_wait: float = SSH_WAIT[0]
    cloud_init: str = ""  # empty: nothing known; "done", or where it is
    cloud_init_at: float = field(default=float("-inf"))


@dataclass(frozen=True)
class Guest:
    """What can be asked about a guest."""

    manifest: ImageManifest
    agent: GuestAgent
    agent_open: Callable[[], bool]
    ssh: tuple[str, int]
    serial: Callable[[], str]
    warm: bool = False  # it began from a warm image: SSH is not touched by cloud-init any more


def look(guest: Guest, signs: Signs) -> Readiness:
    """Look at all signs once. Waits a moment for an SSH banner, so that it is seen when it comes."""
    by = []
    agent = _agent_answers(guest, signs)
    cloud_init = _cloud_init(guest, signs) if agent and guest.manifest.cloud_init else ""
    serial = guest.serial()
    ssh = ssh_banner(*guest.ssh, timeout=signs.ssh_wait if guest.warm else SSH_WAIT[1])
    signs.ssh_wait = min(signs.ssh_wait * 2, SSH_WAIT[1])
    if ssh and signs.ssh_since is None:
        signs.ssh_since = clock.monotonic()
    by += ["ssh"] * ssh
    by += ["agent"] * agent + ["cloud-init"] * (cloud_init == "done") + ["serial"] * (SERIAL_READY in serial)
    settled = ssh and _ssh_settled(guest, signs)
    if settled or "serial" in by or "cloud-init" in by or (agent and _agent_suffices(guest, signs)):
        return Readiness(ready=True, by=tuple(by))
    return Readiness(
        ready=False,
        by=tuple(by),
        waiting_for="cloud-init to be done with SSH" if ssh else _waiting_for(guest, agent, cloud_init),
        last_words="\n".join(serial.replace("\r", "").rstrip().splitlines()[-LAST_WORDS:]),
    )


def ssh_banner(address: str, port: int, timeout: float) -> bool:
    """Whether an SSH server says its version there. That a connection is made says nothing: QEMU accepts it itself."""
    deadline = clock.monotonic() + timeout
    said = b""
    try:
        with socket.create_connection((address, port), timeout=timeout) as sock:
            while len(said) < 4 and (left := deadline - clock.monotonic()) > 0:
                sock.settimeout(left)
                data = sock.recv(4 - len(said))
                if not data:
                    return False
                said += data
    except OSError:
        return False
    return said == b"SSH-"


def _agent_answers(guest: Guest, signs: Signs) -> bool:
    if not guest.agent_open() or not guest.agent.ping(AGENT_WAIT):
        return False
    if signs.agent_since is None:
        signs.agent_since = clock.monotonic()
    return True


def _ssh_settled(guest: Guest, signs: Signs) -> bool:
    """cloud-init restarts SSH in its config stage, which would cut off who logs in at the first banner. Where the guest
    agent can tell, SSH counts once that stage is over; nobody is waited for longer than SETTLE."""
    if guest.warm or not (guest.manifest.cloud_init and guest.manifest.guest_agent):
        return True
    since = signs.ssh_since
    return signs.cloud_init in SETTLED or (since is not None and clock.monotonic() - since > SETTLE)


def _agent_suffices(guest: Guest, signs: Signs) -> bool:
    """Without cloud-init there is no end of the boot to be seen: give SSH some time before doing without."""
    since = signs.agent_since
    return not guest.manifest.cloud_init and since is not None and clock.monotonic() - since > AGENT_ALONE


def _cloud_init(guest: Guest, signs: Signs) -> str:
    """Read from its files, which costs nothing; `cloud-init status` starts a Python in the guest."""
    now = clock.monotonic()
    if signs.cloud_init != "done" and now - signs.cloud_init_at > CLOUD_INIT_EVERY:
        signs.cloud_init_at = now
        with contextlib.suppress(Unavailable, Refused):
            signs.cloud_init = _cloud_init_stage(guest.agent)
    return signs.cloud_init


def _cloud_init_stage(agent: GuestAgent) -> str:
    if agent.read_file(CLOUD_INIT_RESULT, AGENT_WAIT / 2) is not None:
        return "done"
    text = agent.read_file(CLOUD_INIT_STATUS, AGENT_WAIT / 2)
    try:
        stages = json.loads(text or "{}")["v1"]
        configured = stages["modules-config"]["finished"]
        stage = stages["stage"] or ("modules-final" if configured else "")
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return str(stage)[:40]


def _waiting_for(guest: Guest, agent: bool, cloud_init: str) -> str:
    missing = [f"SSH on port {guest.ssh[1]}"]
    if guest.manifest.guest_agent and not agent:
        missing.append("the guest agent")
    if guest.manifest.cloud_init and agent:
        missing.append(f"cloud-init (at {cloud_init})" if cloud_init else "cloud-init")
    return " or ".join(missing)
