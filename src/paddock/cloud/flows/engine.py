"""The engine: moves a row on, step by step, until it must wait.

The row is the truth; a job is only a wake-up. A worker holds a session advisory lock while it works on a row (free
within milliseconds of its death) and raises the row's epoch; every write is conditional on that epoch and every call
to a node carries it, so that a worker that was paused and went on is refused everywhere.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import ClassVar, Generic, TypeVar, assert_never

from django.db import OperationalError, connection, transaction
from django.db.models import ExpressionWrapper, F, QuerySet, fields
from django.db.models.expressions import CombinedExpression
from django.db.models.functions import Now
from procrastinate.contrib.django import app

from paddock.base import clock
from paddock.base.errors import PaddockError, StaleEpoch, Unavailable
from paddock.base.log import correlation_id
from paddock.cloud.flows import locks
from paddock.cloud.flows.steps import Again, Done, Gone, Next, R, StepInfo, Then
from paddock.cloud.models import Action, Event, Living

log = logging.getLogger(__name__)

MAX_BACKOFF = 60.0  # seconds between two tries of a step that fails
FAIR = 5.0  # seconds of steps in a row after which others get their turn
DATABASE_PATIENCE = 90.0  # seconds for which a finished step's outcome waits for PostgreSQL to come back
T = TypeVar("T")


class LeaseLost(Exception):
    """Another worker has the row, or it is gone: stop, and change nothing."""


class Flow(Generic[R]):
    """A life. Steps are methods marked with @step, in the order in which things happen."""

    kind: ClassVar[str]
    lock_class: ClassVar[int]
    model: ClassVar[type[Living]]
    related: ClassVar[tuple[str, ...]] = ()
    registry: ClassVar[dict[str, "Flow[Living]"]] = {}

    @classmethod
    def steps(cls) -> dict[str, StepInfo]:
        """What is known of each step, in the order of the file."""
        return {name: method.info for name, method in vars(cls).items() if hasattr(method, "info")}

    def step(self, row: R) -> Callable[[R], Next[R]]:
        """The method of the row's step."""
        if row.step not in self.steps():
            raise LookupError(f"BUG: {self.kind} has no step {row.step!r}")
        method: Callable[[R], Next[R]] = getattr(self, row.step)
        return method

    def divert(self, row: R) -> Callable[[R], Next[R]] | None:
        """A step that must come now, whatever the row was about to do: delete."""
        raise LookupError(f"BUG: {self.kind} does not say when to divert")

    def rest(self, row: R) -> Next[R]:
        """The step in which the row looks at its wishes."""
        raise LookupError(f"BUG: {self.kind} has no rest")

    def failed(self, row: R, error: PaddockError) -> Next[R]:
        """What comes after a step failed for good. The action fails before, with that error."""
        row.set(problem=str(error))
        return Then(self.rest)

    def rows(self) -> "QuerySet[Living]":
        """The flow's rows, with what its steps look at."""
        return self.model._default_manager.select_related(*self.related)


def register(flow: type[Flow[R]]) -> type[Flow[R]]:
    """Make a flow known by its kind."""
    Flow.registry[flow.kind] = flow()  # type: ignore[assignment]  # kept by kind, used only with its own rows
    return flow


def advance(flow: Flow[R], row_id: int) -> None:
    """Move a row on until it must wait, unless another living worker has it."""
    with _locked(flow, row_id) as ours:
        if not ours:
            return
        try:
            _drive(flow, _take(flow, row_id))
        except (LeaseLost, StaleEpoch) as e:
            log.info("%s %d is somebody else's now: %s", flow.kind, row_id, e)


def _drive(flow: Flow[R], row: R) -> None:
    token = correlation_id.set(row.correlation_id or "-")
    began = clock.monotonic()
    try:
        while True:
            if (urgent := flow.divert(row)) is not None:
                _persist(partial(_enter, flow, row, urgent.__name__, "note", 0.0, "interrupted"))
                row = _fresh(flow, row)
            started = clock.monotonic()
            outcome = _attempt(flow, row)
            if isinstance(outcome, Gone):
                return
            waits = _persist(partial(_record, flow, row, outcome, clock.monotonic() - started))
            if waits:
                return
            # A call that got no answer may still arrive: what comes next must come under a higher epoch.
            if row.failures or clock.monotonic() - began > FAIR:
                wake_later(row, flow.kind, 0)
                return
            row = _fresh(flow, row)
    finally:
        correlation_id.reset(token)


def _attempt(flow: Flow[R], row: R) -> Next[R] | PaddockError:
    """Run the step. Only what this very step can't get over is returned as an error."""
    try:
        outcome = flow.step(row)(row)
    except (LeaseLost, StaleEpoch, OperationalError):
        raise
    except Unavailable as e:
        outcome = _backoff(row, e)
    except PaddockError as e:
        return e
    except Exception as e:
        log.exception("step %s of %s %d failed", row.step, flow.kind, row.pk)
        outcome = _backoff(row, e)
    if isinstance(outcome, Then) and row.only_step == row.step:
        row.set(only_step="")
        return outcome if outcome.finishes else Then(flow.rest, finishes=True)
    if isinstance(outcome, Again) and row.overdue:
        return Unavailable(f"gave up after {_limit(flow, row):g} s in step {row.step}: {outcome.waiting_for}")
    return outcome


def _backoff(row: Living, error: Exception) -> Again:
    row.set(failures=row.failures + 1)
    return Again(min(2.0 ** min(row.failures - 1, 6), MAX_BACKOFF), f"another try after: {error}")


def _limit(flow: Flow[R], row: R) -> float:
    return flow.steps()[row.step].seconds


def _record(flow: Flow[R], row: R, outcome: Next[R] | PaddockError, spent: float) -> bool:
    """Write a step's outcome, its event and its action in one transaction. True: the row waits now."""
    with transaction.atomic():
        match outcome:
            case PaddockError():
                _fail(flow, row, outcome, spent)
                return False
            case Then(step, finishes):
                if finishes:
                    _close(row, "success")
                _enter(flow, row, step.__name__, "done", spent, row.waiting_for, ends_action=finishes)
                return False
            case Again(seconds, waiting_for):
                return _park(flow, row, seconds, waiting_for, spent)
            case Done():
                return _write(row, {"next_at": None, "waiting_for": "", "failures": 0}, wakes=row.wakes)
            case Gone():
                return True
            case other:
                assert_never(other)


def _enter(
    flow: Flow[R], row: R, step: str, outcome: str, spent: float, detail: str, *, ends_action: bool = False
) -> None:
    """Begin a step: from here on it is what a new worker would run."""
    seconds = flow.steps()[step].seconds
    changes = {
        "step": step,
        "step_since": Now(),
        "deadline": from_now(seconds),
        "next_at": Now(),
        "failures": 0,
        "waiting_for": "",
        "wait_event": None,
    }
    if ends_action:
        changes["action_id"] = None
    left, waited = row.step, row.wait_event
    _write(row, changes)
    if waited is not None:
        Event.objects.filter(id=waited).update(outcome=outcome, at=Now(), seconds=F("seconds") + spent, detail=detail)
    elif left != "rest":
        _event(flow, row, left, outcome, spent, detail)


def _park(flow: Flow[R], row: R, seconds: float, waiting_for: str, spent: float) -> bool:
    """Wait, unless somebody woke the row while the step ran."""
    event = row.wait_event
    if event is None:
        event = _event(flow, row, row.step, "again", spent, waiting_for)
    else:
        Event.objects.filter(id=event).update(
            at=Now(), times=F("times") + 1, detail=waiting_for, seconds=F("seconds") + spent
        )
    changes = {"next_at": from_now(seconds), "waiting_for": waiting_for, "wait_event": event}
    if not _write(row, changes, wakes=row.wakes):
        return False
    _defer(flow.kind, row.pk, seconds)
    return True


def _fail(flow: Flow[R], row: R, error: PaddockError, spent: float) -> None:
    log.warning("step %s of %s %d failed: %s", row.step, flow.kind, row.pk, error)
    _close(row, "error", error)
    row.set(only_step="")
    outcome = flow.failed(row, error)
    if not isinstance(outcome, Then):
        raise TypeError(f"BUG: {flow.kind}.failed() must say which step comes next")
    _enter(flow, row, outcome.step.__name__, "failed", spent, str(error), ends_action=True)


def _close(row: Living, status: str, error: PaddockError | None = None) -> None:
    """End the action that is being carried out."""
    if row.action_id is None:
        return
    changes: dict[str, object] = {"status": status, "finished": Now(), "progress": 100}
    if error is not None:
        changes |= {"error_code": error.code, "error_message": error.message, "error_hint": error.hint}
    Action.objects.filter(id=row.action_id, status="running").update(**changes)


def _event(flow: Flow[R], row: R, step: str, outcome: str, spent: float, detail: str) -> int:
    event = Event(
        kind=flow.kind,
        row_id=row.pk,
        action_id=row.action_id,
        step=step,
        outcome=outcome,
        detail=detail,
        seconds=spent,
        started=row.step_since,
        correlation_id=row.correlation_id,
        epoch=row.epoch,
    )
    event.save(force_insert=True)
    return int(event.pk)


def _write(row: Living, changes: dict[str, object], wakes: int | None = None) -> bool:
    """Write the columns if the row is still ours. False: somebody woke it meanwhile (only with `wakes`)."""
    mine = type(row)._default_manager.filter(pk=row.pk, epoch=row.epoch)
    if mine.filter(**({} if wakes is None else {"wakes": wakes})).update(**{**row.pending, **changes}):
        row.pending.clear()
        return True
    if wakes is not None and mine.exists():
        mine.update(**row.pending, next_at=Now())
        row.pending.clear()
        return False
    raise LeaseLost(f"epoch {row.epoch} is over")


def _persist(write: Callable[[], T]) -> T:
    """Do a write; while PostgreSQL is away, again and again. The step itself is not repeated for that."""
    give_up = clock.monotonic() + DATABASE_PATIENCE
    while True:
        try:
            return write()
        except OperationalError:
            if clock.monotonic() > give_up:
                raise
            log.warning("PostgreSQL does not answer; the step's outcome waits for it")
            connection.close()
            clock.sleep(1)


def _take(flow: Flow[R], row_id: int) -> R:
    """Raise the row's epoch: from now on all older workers are refused."""
    if not flow.model._default_manager.filter(pk=row_id).update(epoch=F("epoch") + 1):
        raise LeaseLost("it is gone")
    return _read(flow, row_id)


def _fresh(flow: Flow[R], row: R) -> R:
    """The row as it is now, wishes included. Raises LeaseLost when it is no longer ours."""
    fresh = _persist(lambda: _read(flow, row.pk))
    if fresh.epoch != row.epoch:
        raise LeaseLost(f"epoch {row.epoch} is over")
    return fresh


def _read(flow: Flow[R], row_id: int) -> R:
    row = flow.rows().annotate(database_now=Now()).filter(pk=row_id).first()
    if row is None:
        raise LeaseLost("it is gone")
    row.now = row.database_now
    return row  # type: ignore[return-value]  # rows() are of flow.model


def from_now(seconds: float) -> "ExpressionWrapper[CombinedExpression]":
    """A moment that many seconds from now, by PostgreSQL's clock."""
    return ExpressionWrapper(Now() + timedelta(seconds=seconds), output_field=fields.DateTimeField())


def wake(row: Living, kind: str, *, urgent: bool = False) -> None:
    """Have the row looked at now: call it in the transaction that writes the wish."""
    type(row)._default_manager.filter(pk=row.pk).update(wakes=F("wakes") + 1, next_at=Now())
    _defer(kind, row.pk, 0, urgent=urgent)


def wake_later(row: Living, kind: str, seconds: float) -> None:
    """Have the row looked at in some seconds."""
    _defer(kind, row.pk, seconds)


def _defer(kind: str, row_id: int, seconds: float, *, urgent: bool = False) -> None:
    later = {"seconds": seconds} if seconds else None
    task = app.configure_task("advance", queue="flows", priority=int(urgent), schedule_in=later)
    task.defer(kind=kind, row_id=row_id)


@contextmanager
def _locked(flow: Flow[R], row_id: int) -> Iterator[bool]:
    """The row's advisory lock, for this session; False when another worker that lives has it."""
    keys = (flow.lock_class, row_id % 2**31)
    ours = locks.take(keys) or (locks.evict_dead_holder(keys) and locks.take(keys))
    try:
        yield ours
    finally:
        if ours:
            locks.release(keys)
