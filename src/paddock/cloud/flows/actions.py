"""Actions of any resource: begun, finished at once, and the rule that only one runs on a row at a time.

Call all of these in the transaction that writes what was asked for. Transactions lock rows in this order, so that none
waits for one that waits for it: project, volumes (by id), server, node, images (by id), actions. The one exception is
`claim.claim`, which has the node before a server; nobody who has a server without a node waits for a node.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from django.db import transaction
from django.db.models import QuerySet

from paddock.base import clock
from paddock.base.errors import Locked
from paddock.cloud.models import Action, Living


class Owned(Protocol):
    """A row that actions are about."""

    @property
    def pk(self) -> Any: ...

    @property
    def project_id(self) -> int | None: ...


R = TypeVar("R", bound=Living)


def about(kind: str, row: Owned) -> dict[str, Any]:
    """A resource as an action names it in `more`."""
    return {"id": row.pk, "type": kind}


def begin(
    kind: str,
    row: Owned,
    command: str,
    correlation_id: str,
    arguments: Mapping[str, Any] | None = None,
    more: Sequence[dict[str, Any]] = (),
    argument: str = "",
) -> Action:
    """An action that runs: a wish, which the row's flow finds at rest. The caller wakes the row."""
    return Action.objects.create(
        project_id=row.project_id,
        command=command,
        kind=kind,
        row_id=row.pk,
        argument=argument,
        arguments=dict(arguments or {}),
        more=list(more),
        correlation_id=correlation_id,
        started=clock.now(),
    )


def finished(kind: str, row: Owned, command: str, correlation_id: str, more: Sequence[dict[str, Any]] = ()) -> Action:
    """An action that has succeeded already: what was asked for was a change of rows, and that is written."""
    now = clock.now()
    return Action.objects.create(
        project_id=row.project_id,
        command=command,
        kind=kind,
        row_id=row.pk,
        more=list(more),
        correlation_id=correlation_id,
        status="success",
        progress=100,
        started=now,
        finished=now,
    )


def running(kind: str, row_id: int) -> "QuerySet[Action]":
    """What is asked of a row and not yet done."""
    return Action.objects.filter(kind=kind, row_id=row_id, status="running")


@contextmanager
def alone(kind: str, row: R, overtakes: Sequence[str] = ()) -> Iterator[R]:
    """A transaction with the row locked and read anew. Raises Locked while any action runs on it but these."""
    with transaction.atomic():
        found: R = type(row)._default_manager.select_for_update(of=("self",)).get(pk=row.pk)
        refuse_busy(kind, found, overtakes)
        yield found


def refuse_busy(kind: str, row: Living, overtakes: Sequence[str] = ()) -> None:
    """Raises Locked while an action runs on the row, other than those that may be overtaken."""
    for action in running(kind, row.pk):
        if action.command not in overtakes:
            name = getattr(row, "name", "") or str(row.pk)
            doing = row.waiting_for or row.step
            raise Locked(f"{kind} {name} is busy with {action.command}: {doing}", hint="wait for that, and ask again")
