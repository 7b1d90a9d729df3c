"""Telling nodes how many guests to hold ready: an operator's setting, said again whenever a node is looked at."""

import logging

from django.db.models import Q

from paddock.base.errors import PaddockError
from paddock.cloud.flows import image_warm
from paddock.cloud.models import Node, Pool
from paddock.hypervisor.base import Hypervisor
from paddock.machine.state import HostFacts
from paddock.machine.warm import Wish

log = logging.getLogger(__name__)


def of(node: Node) -> list[Pool]:
    """What the node shall hold. What is said of it alone wins over what is said of all."""
    rows = Pool.objects.filter(Q(node=node) | Q(node=None), image__state="ready", image__deleted=None)
    rows = rows.select_related("image", "server_type")
    chosen = {(row.image_id, row.server_type_id): row for row in sorted(rows, key=lambda row: row.node_id is not None)}
    return list(chosen.values())


def wishes(node: Node) -> tuple[Wish, ...]:
    """The same, as the node is told: machines as they would be placed there now."""
    rows = of(node)
    if rows:
        node.refresh_from_db()  # who watches a node has its row from the beginning
    found = ((image_warm.machine(node, row.image, row.server_type), row.count) for row in rows)
    return tuple(Wish(machine=machine, count=count) for machine, count in found)


def tell(node: Node, host: Hypervisor, facts: HostFacts) -> None:
    """Have the node hold what it shall. One that can't is not down for that."""
    wanted = wishes(node)
    if not wanted and not any(warm.wanted for warm in facts.warm):
        return
    try:
        host.warm.keep_ready(wanted)
    except PaddockError as e:
        log.warning("node %s can't hold guests ready: %s", node.name, e)
