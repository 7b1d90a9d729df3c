"""Servers that are started because their node came up: in order, each so long after the ones before it as those say.

When a node says that it was booted anew, each gets the moment of its turn; whoever watches the node then asks for its
start. Both are one transaction each, so that a watcher that dies or is slow starts nobody twice, and forgets nobody.
"""

import logging
from datetime import timedelta

from django.db import transaction
from django.db.models import ExpressionWrapper, F, Min, fields
from django.db.models.functions import Now

from paddock.base.ids import new_correlation_id
from paddock.cloud.flows import actions
from paddock.cloud.flows.engine import from_now, wake
from paddock.cloud.models import Action, Node, Server
from paddock.cloud.models.server import Status

log = logging.getLogger(__name__)

KIND = "server"
BY_ITSELF = "autostart"  # the argument of actions that nobody asked for
PATIENCE = 60.0  # seconds for those of a lower order to be started
NOT_YET = (Status.INITIALIZING, Status.REBUILDING, Status.MIGRATING, Status.DELETING)  # their own life goes on


def note_boot(node: Node, boot_id: str) -> None:
    """Compare which boot of its host a node says it is with what it said last. After another one, its servers with
    autostart get their turns. Call it before the node's facts are written down."""
    if not boot_id or Node.objects.filter(pk=node.pk, facts__boot_id=boot_id).exists():
        return
    with transaction.atomic():
        rows = Server.objects.filter(node=node, autostart=True, delete_requested=False).exclude(status__in=NOT_YET)
        waiting = list(rows.select_for_update(no_key=True, of=("self",)).order_by("pk"))  # before their node
        row = Node.objects.select_for_update(no_key=True).get(pk=node.pk)
        before = row.facts.get("boot_id", "")
        if before == boot_id:
            return
        Node.objects.filter(pk=node.pk).update(facts={**row.facts, "boot_id": boot_id})
        if before:
            _line_up(row, sorted(waiting, key=lambda server: (server.autostart_order, server.pk)))


def _line_up(node: Node, waiting: list[Server]) -> None:
    wait = 0.0
    for server in waiting:
        Server.objects.filter(pk=server.pk).update(autostart_at=from_now(wait))
        wait += server.autostart_delay
    log.info("node %s was started anew: %d servers start by themselves within %g s", node.name, len(waiting), wait)


def start_due(node: Node) -> None:
    """Ask for the start of those whose turn it is, but of none before those of a lower order have been started. One
    that somebody else does something with by now is left to them."""
    due = Server.objects.filter(node=node, autostart_at__lte=Now()).order_by("autostart_order", "pk")
    for server in due.only("pk", "autostart_order"):
        if _being_started(node, server.autostart_order):
            return
        with transaction.atomic():
            row = Server.objects.select_for_update(of=("self",)).get(pk=server.pk)
            if not Server.objects.filter(pk=row.pk, autostart_at__isnull=False).update(autostart_at=None):
                continue
            if row.delete_requested or actions.running(KIND, row.pk).exists():
                continue
            actions.begin(KIND, row, "start_server", new_correlation_id(), argument=BY_ITSELF)
            wake(row, KIND)


def _being_started(node: Node, order: int) -> bool:
    """Whether one of a lower order is; one that takes long holds up nobody."""
    earlier = Server.objects.filter(node=node, autostart_order__lt=order)
    asked = Action.objects.filter(kind=KIND, status="running", argument=BY_ITSELF, started__gt=from_now(-PATIENCE))
    return asked.filter(row_id__in=earlier.values("pk")).exists()


def wait_for_next(node: Node, most: float) -> float:
    """Seconds until the next turn, at most so many."""
    left = ExpressionWrapper(F("autostart_at") - Now(), output_field=fields.DurationField())
    waiting = Server.objects.filter(node=node, autostart_at__isnull=False)
    first: timedelta | None = waiting.aggregate(left=Min(left))["left"]
    return most if first is None else min(max(first.total_seconds(), 0.0), most)
