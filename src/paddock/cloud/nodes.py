"""The one door from the control plane to nodes: a node's row in, its hypervisor out."""

import threading

from paddock.base.errors import Refused
from paddock.cloud.models import Node
from paddock.hypervisor.base import Hypervisor
from paddock.hypervisor.remote import RemoteHypervisor

_lock = threading.Lock()
_open: dict[str, Hypervisor] = {}


def hypervisor(node: Node) -> Hypervisor:
    """How to reach a node. Connections are kept; safe to call from many threads."""
    with _lock:
        if node.url not in _open:
            _open[node.url] = _connect(node)
        return _open[node.url]


def attach(url: str, driver: Hypervisor) -> None:
    """Use this driver for nodes of that address: how a fake in this process becomes a node."""
    with _lock:
        _open[url] = driver


def _connect(node: Node) -> Hypervisor:
    if node.url.startswith("unix://"):
        return RemoteHypervisor(node.url)
    raise Refused(f"node {node.name} has an address of an unknown kind: {node.url}")
