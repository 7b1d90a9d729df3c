"""What the steps of a server's life look at and tell: its node, its machine there, its action."""

from paddock.base.errors import Conflict, Invalid, Unsupported
from paddock.cloud.flows import actions
from paddock.cloud.models import Action, Image, Node, Server
from paddock.cloud.models.server import Status
from paddock.cloud.nodes import hypervisor
from paddock.hypervisor.base import Hypervisor
from paddock.machine.spec import UEFI_FROM_MIB
from paddock.machine.state import MachineState, Phase

KIND = "server"
UP = (Status.RUNNING, Status.PAUSED)
HAS_MEMORY = (*UP, Status.HIBERNATED)


def node_of(server: Server) -> Node:
    """Raises Conflict before it has one."""
    if server.node is None:
        raise Conflict(f"server {server.name} has no node yet", hint="run the step `place` first")
    return server.node


def host_of(server: Server) -> Hypervisor:
    """Its node's hypervisor. Raises Conflict before it has a node."""
    return hypervisor(node_of(server))


def action_of(server: Server) -> Action:
    """The action that is being carried out."""
    return Action.objects.get(pk=server.action_id or 0)


def asked_image(server: Server) -> Image:
    """The image that its action is about. Raises Conflict when that was deleted meanwhile."""
    image = Image.objects.filter(pk=action_of(server).arguments["image"], delete_requested=False).first()
    if image is None or image.deleted:
        raise Conflict("the image was deleted before it was used")
    return image


def check_can(server: Server, what: str, words: str) -> None:
    """Raises Unsupported unless its node's driver has this capability."""
    if not getattr(host_of(server).machines.capabilities(), what):
        raise Unsupported(f"node {node_of(server).name} can't {words}")


def check_uefi(server: Server) -> None:
    """Raises Unsupported or Invalid unless it can boot by UEFI where it is."""
    check_can(server, "uefi", "boot by UEFI: install OVMF on it (apt-get install ovmf)")
    if server.memory_mib < UEFI_FROM_MIB:
        raise Invalid(
            f"to boot by UEFI takes {UEFI_FROM_MIB} MiB of memory, and server {server.name} has {server.memory_mib}",
            hint="choose a larger server type",
            field="server_type",
        )


def untold(server: Server) -> bool:
    """Whether its node has not been told what its machine shall be now."""
    return server.told != server.revision and server.node_id is not None and bool(server.image_sha256)


def other_system(server: Server) -> bool:
    """Whether its next start boots another system than the one that runs: into the rescue system, or out of it."""
    return server.in_rescue or armed(server)


def armed(server: Server) -> bool:
    """Whether the next start is into the rescue system. After its hour nobody waits for that any more."""
    return bool(server.rescue_until and server.now and server.now < server.rescue_until)


def is_off(server: Server, phase: Phase) -> None:
    """Write down that it is off."""
    server.set(status=Status.OFF, observed=phase, problem="", ready_at=None, ready_by=[])


def status_of(state: MachineState) -> Status:
    """The status that a machine's phase stands for."""
    alike = {Phase.RUNNING: Status.RUNNING, Phase.PAUSED: Status.PAUSED, Phase.HIBERNATED: Status.HIBERNATED}
    return alike.get(state.phase, Status.OFF)


def agree(server: Server) -> bool:
    """Whether what the node last said is what the row says."""
    return server.status == server.observed if server.observed in HAS_MEMORY else server.status not in HAS_MEMORY


def patience(server: Server) -> float:
    """Seconds until the next look at a guest that boots: short at first, then 2 % of the time it has taken."""
    return min(max(server.waited / 50, 0.15), 5.0 if server.waited < 600 else 20.0)


def overtaken(server: Server) -> bool:
    """Whether a harder way to end it was asked for after the one that is being carried out."""
    later = actions.running(KIND, server.pk).filter(id__gt=server.action_id or 0)
    return later.filter(command__in=("stop_server", "reset_server")).exists()
