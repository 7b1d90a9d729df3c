"""Watching nodes: what they have, whether they answer, and what happens to their machines.

One worker watches each node, chosen by an advisory lock. A node's word is only a hint: a server whose machine is not
as its row says is woken, and looks for itself.
"""

import logging
import threading
from typing import Any

from django.db import Error, IntegrityError, close_old_connections, connection
from django.db.models.functions import Now

from paddock.base import clock
from paddock.base.errors import PaddockError
from paddock.cloud.flows import autostart, locks, pool
from paddock.cloud.flows.engine import wake
from paddock.cloud.flows.server import ServerFlow
from paddock.cloud.models import Node, Server
from paddock.cloud.models.server import Status
from paddock.cloud.nodes import hypervisor
from paddock.hypervisor.base import Hypervisor
from paddock.machine.spec import GIB
from paddock.machine.state import HostFacts, MachineState, Phase

log = logging.getLogger(__name__)

LOCK_CLASS = 3
LOST = "lost"  # what is observed of a machine that its node does not have
LOOK_EVERY = 5.0  # seconds between looks at a node on which nothing happens
GATHER = 0.25  # seconds that news wait for more: a create tells of itself three times, and knows it already
RETRY = 1.0  # seconds after a node did not answer
SETTLED = (Status.RUNNING, Status.OFF, Status.PAUSED, Status.HIBERNATED, Status.UNKNOWN)


class NodeWatcher(threading.Thread):
    """Watches one node while it holds the node's lock."""

    def __init__(self, name: str, stop: threading.Event) -> None:
        super().__init__(name=f"watch-{name}", daemon=True)
        self.node_name = name
        self.stopping = stop

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                self._watch()
            except Error as e:
                log.warning("watching node %s: %s", self.node_name, e)
                connection.close()
            self.stopping.wait(RETRY)
        connection.close()

    def _watch(self) -> None:
        close_old_connections()
        node = Node.objects.filter(name=self.node_name).first()
        if node is None or not (locks.take((LOCK_CLASS, node.pk)) or locks.evict_dead_holder((LOCK_CLASS, node.pk))):
            return
        try:
            cursor = 0
            while not self.stopping.is_set():
                cursor = look(node, cursor, LOOK_EVERY)
        except PaddockError as e:
            mark_down(node, e)
        finally:
            locks.release((LOCK_CLASS, node.pk))


def look(node: Node, cursor: int, timeout: float) -> int:
    """Wait for news of a node for at most `timeout` seconds, write down what it has, wake the servers concerned."""
    host = hypervisor(node)
    if cursor == 0:
        _up(node, host)
    change = host.machines.changes(cursor, autostart.wait_for_next(node, timeout))
    if cursor and change.cursor != cursor:
        clock.sleep(GATHER)
        change = host.machines.changes(change.cursor, 0)
    facts = host.machines.facts()
    autostart.note_boot(node, facts.boot_id)
    Node.objects.filter(pk=node.pk).update(state="up", last_seen=Now(), facts=_told(host, facts))
    pool.tell(node, host, facts)
    compare(node, {m.uuid.hex: m for m in change.machines})
    autostart.start_due(node)
    return change.cursor


def _up(node: Node, host: Hypervisor) -> None:
    facts = host.machines.facts()
    autostart.note_boot(node, facts.boot_id)
    Node.objects.filter(pk=node.pk).update(
        state="up", problem=_resize(node, facts), last_seen=Now(), facts=_told(host, facts)
    )
    log.info("node %s is up: %s, %s", node.name, facts.hypervisor, facts.accelerator)


def _told(host: Hypervisor, facts: HostFacts) -> dict[str, Any]:
    """What is kept of a node's word: its facts, and what placement has to know of its driver."""
    can = host.machines.capabilities()
    return {**facts.model_dump(mode="json"), "isolated": can.isolated, "hot_add": can.hot_add}


def _resize(node: Node, facts: HostFacts) -> str:
    """Write down what the node has. Returns a problem when that is less than its servers already claim."""
    has = capacity(node, facts)
    try:
        Node.objects.filter(pk=node.pk).update(**has)
    except IntegrityError:
        room = f"{has['cpus']} CPUs, {has['memory_mib']} MiB of memory, {has['disk_gib']} GiB of disk"
        return f"its servers claim more than it has now: {room}"
    return ""


def capacity(node: Node, facts: HostFacts) -> dict[str, int]:
    """What a node has: what the operator said, else what its host has (disk: what is free and what is claimed)."""
    said = node.settings
    return {
        "cpus": said.get("cpus") or facts.cpus,
        "memory_mib": said.get("memory_mib") or facts.memory_mib,
        "disk_gib": said.get("disk_gib") or facts.disk // GIB,
    }


def mark_down(node: Node, error: PaddockError) -> None:
    """Write down that a node does not answer, and since when."""
    if Node.objects.filter(pk=node.pk).exclude(state="down").update(state="down", problem=str(error)):
        log.warning("node %s is down: %s", node.name, error)


def compare(node: Node, machines: dict[str, MachineState]) -> None:
    """Wake each resting server whose machine is not as its row says."""
    rows = Server.objects.filter(node=node, status__in=SETTLED, step__in=("rest", "watch"))
    for server in rows.only("id", "uuid", "status", "observed", "image_sha256"):
        machine = machines.get(server.uuid.hex)
        phase = machine.phase if machine else LOST
        if phase != server.observed and _matters(server, phase):
            Server.objects.filter(pk=server.pk, step__in=("rest", "watch")).update(observed=phase)
            wake(server, ServerFlow.kind)


def _matters(server: Server, phase: str) -> bool:
    """A server that was never started has no phase that could surprise."""
    if server.status == Status.OFF:
        return phase in (Phase.RUNNING, Phase.PAUSED, Phase.HIBERNATED)
    return True


def watch_all(stop: threading.Event) -> None:
    """Keep a watcher for each node until `stop`."""
    watchers: dict[str, NodeWatcher] = {}
    while not stop.is_set():
        try:
            close_old_connections()
            names = list(Node.objects.values_list("name", flat=True))
        except Error as e:
            log.warning("can't read the nodes: %s", e)
            connection.close()
            names = []
        for name in names:
            if name not in watchers or not watchers[name].is_alive():
                watchers[name] = NodeWatcher(name, stop)
                watchers[name].start()
        stop.wait(2)
