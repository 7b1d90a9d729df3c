"""Making images warm before anybody asks for a server of them: on chosen nodes, for a server type."""

from collections.abc import Sequence
from uuid import uuid4

from paddock.base.errors import Conflict
from paddock.cloud.flows import actions, claim, copying, origin
from paddock.cloud.flows.engine import Flow
from paddock.cloud.flows.steps import Again, Next, Then, step
from paddock.cloud.models import Action, Image, Node, Server, ServerType
from paddock.cloud.nodes import hypervisor
from paddock.machine.spec import GIB, Disk, Machine, Seed, UserNetwork
from paddock.machine.warm import scope_of

WARM_SECONDS = 2 * 3600.0
LOOK_EVERY = 0.5


class ImageWarm(Flow[Image]):
    """The step of it."""

    @step(seconds=WARM_SECONDS, by_hand=False)
    def warm(self, image: Image) -> Next[Image]:
        """Have each node that was chosen make it warm, all at the same time."""
        asked = actions.running(origin.KIND, image.pk).filter(pk=image.action_id or 0).first()
        if asked is None:
            return Then(self.rest)
        plan = ServerType.objects.get(pk=asked.arguments["server_type"])
        nodes = Node.objects.filter(pk__in=asked.arguments["nodes"]).order_by("name")
        waits = [wait for node in nodes if (wait := _made(node, image, plan))]
        return waits[0] if waits else Then(self.rest, finishes=True)

    @step(seconds=600, by_hand=False)
    def cool(self, image: Image) -> Next[Image]:
        """Have each node drop what it has of it. Servers that began from that go on."""
        for node in Node.objects.exclude(state="down").order_by("name"):
            here = hypervisor(node).warm
            for found in here.warm_images():
                if found.image == image.sha256 and not found.making:
                    here.remove_warm(found.id)
        return Then(self.rest, finishes=True)


def ask_cool(image: Image, correlation_id: str, project_id: int) -> Action:
    """Have all that nodes keep of its guests removed, notes of where there can be none too. Raises Conflict for one
    that is busy."""
    return origin.ask(image, "cool_image", "cool", 600, correlation_id, project_id)


def ask(image: Image, plan: ServerType, nodes: Sequence[Node], correlation_id: str, project_id: int) -> Action:
    """Have the image made warm for servers of that type. Raises Conflict for one without a content, or that is busy."""
    if image.state != "ready":
        raise Conflict(f"{image.title} is {image.state}", hint=f"build it first: paddock image build {image.name}")
    if image.type not in ("system", "snapshot"):
        raise Conflict(f"{image.title} is no image that servers start from")
    arguments: dict[str, object] = {"server_type": plan.pk, "nodes": [node.pk for node in nodes]}
    return origin.ask(image, "warm_image", "warm", WARM_SECONDS, correlation_id, project_id, arguments)


def _made(node: Node, image: Image, plan: ServerType) -> Again | None:
    if wait := copying.to_node(node, image, image.sha256):
        return wait
    told = hypervisor(node).warm.make_warm(machine(node, image, plan))
    return None if told.done else Again(LOOK_EVERY, f"{image.title} to be warm on node {node.name}: {told.doing}")


def machine(node: Node, image: Image, plan: ServerType) -> Machine:
    """As a server of that type would be there."""
    uuid, like = uuid4(), Server(server_type=plan)
    room = claim.room_to_grow(node, like.layout, plan.cores, plan.memory_mib)
    asked = {name: value for name, value in room.items() if value}  # by PostgreSQL, as for a server
    most = {**room, **(ServerType.objects.filter(pk=plan.pk).annotate(**asked).values(*asked).get() if asked else {})}
    return Machine(
        uuid=uuid,
        name="warm",
        cpus=plan.cores,
        memory_mib=plan.memory_mib,
        machine_type=like.machine_type,
        layout=like.layout,
        max_cpus=most["max_cores"],
        max_memory_mib=most["max_memory_mib"],
        image=image.sha256,
        system_disk=Disk(size=plan.disk_gib * GIB, image=image.sha256),
        network=UserNetwork(mac="52:54:00:00:00:01", ssh_port=1),
        seed=Seed(instance_id="warm", hostname="warm"),
        firmware=image.made_of.firmware or "bios",
        nested=plan.nested,
        dedicated_cpus=plan.dedicated_cpus,
        huge_pages=plan.huge_pages,
        warm=scope_of(image.project_id),
    )
