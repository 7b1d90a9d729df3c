"""The engine: moves a row on, step by step, until it must wait.

The row is the truth; a job is only a wake-up. A worker holds a session advisory lock while it works on a row (free
within milliseconds of its death) and raises the row's epoch; every write is conditional on that epoch and every call
to a node carries it, so that a worker that was paused and went on is refused everywhere.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, partial
from typing import ClassVar, Generic, TypeVar, assert_never

from django.db import OperationalError, connection
from django.db.models import ExpressionWrapper, F, QuerySet, fields
from django.db.models.expressions import CombinedExpression
from django.db.models.functions import Now
from procrastinate.contrib.django import app

from paddock.base import clock
from paddock.base.errors import PaddockError, Refused, Removed, StaleEpoch, Unavailable
from paddock.base.log import correlation_id
from paddock.cloud.flows import locks
from paddock.cloud.flows.outcome import Closed, Told, write
from paddock.cloud.flows.steps import Again, Done, Gone, Next, R, StepInfo, Then
from paddock.cloud.models import Living

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
    @cache
    def steps(cls) -> dict[str, StepInfo]:
        """What is known of each step, in the order of its file, and those of the classes that it stands on after."""
        names = dict.fromkeys(name for base in cls.__mro__ for name in vars(base))
        return {name: getattr(cls, name).info for name in names if hasattr(getattr(cls, name), "info")}

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
        row.set(problem=error.message)
        return Then(self.rest)

    def rows(self) -> "QuerySet[Living]":
        """The flow's rows, with what its steps look at."""
        return self.model._default_manager.select_related(*self.related)


def register(flow: type[Flow[R]]) -> type[Flow[R]]:
    """Make a flow known by its kind."""
    Flow.registry[flow.kind] = flow()  # type: ignore[assignment]  # kept by kind, used only with its own rows
    return flow


def advance(flow: Flow[R], row_id: int, *, if_due: bool = False) -> float | None:
    """Move a row on until it must wait, unless another living worker has it (or, with `if_due`, it need not move yet).

    Returns the seconds after which to call again; None: not until somebody wakes it. Who forgets to call leaves it to
    the sweep.
    """
    with _locked(flow, row_id) as ours:
        if not ours:
            return None
        try:
            return _drive(flow, _take(flow, row_id, if_due))
        except LeaseLost as e:
            log.info("%s %d is somebody else's now: %s", flow.kind, row_id, e)
            return None


def _drive(flow: Flow[R], row: R) -> float | None:
    token = correlation_id.set(row.correlation_id or "-")
    began = clock.monotonic()
    try:
        while True:
            if (urgent := flow.divert(row)) is not None:
                row = _persist(partial(_enter, flow, row, urgent.__name__, "note", 0.0, "interrupted"))
            started = clock.monotonic()
            outcome = _attempt(flow, row)
            if isinstance(outcome, Gone):
                return None
            moved = _persist(partial(_record, flow, row, outcome, clock.monotonic() - started))
            if moved is None:
                return outcome.seconds if isinstance(outcome, Again) else None
            # A call that got no answer may still arrive: what comes next must come under a higher epoch.
            if row.failures or clock.monotonic() - began > FAIR:
                return 0.0
            row = moved
    finally:
        correlation_id.reset(token)


def _attempt(flow: Flow[R], row: R) -> Next[R] | PaddockError:
    """Run the step. Only what this very step can't get over is returned as an error."""
    try:
        outcome = flow.step(row)(row)
    except (LeaseLost, OperationalError):
        raise
    except StaleEpoch as e:
        return _refused_by_node(row, e)
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


def _refused_by_node(row: Living, error: StaleEpoch) -> PaddockError:
    """A node that knows a newer epoch: another worker's, so this one stops; or, after the database was restored from a
    backup, one of a time that the database does not know, which only a person can judge."""
    if not type(row)._default_manager.filter(pk=row.pk, epoch=row.epoch).exists():
        raise LeaseLost(error.message) from error
    hint = "was the database restored from a backup? deleting this row leaves what is on the node alone"
    return error if isinstance(error, Removed) else Refused(f"the node knows better: {error.message}", hint=hint)


def _backoff(row: Living, error: Exception) -> Again:
    row.set(failures=row.failures + 1)
    return Again(min(2.0 ** min(row.failures - 1, 6), MAX_BACKOFF), f"another try after: {error}")


def _limit(flow: Flow[R], row: R) -> float:
    return flow.steps()[row.step].seconds


def _record(flow: Flow[R], row: R, outcome: Next[R] | PaddockError, spent: float) -> R | None:
    """Write a step's outcome, its event and its action, together. Returns the row to go on with; None: it waits."""
    match outcome:
        case PaddockError():
            return _fail(flow, row, outcome, spent)
        case Then(step, finishes):
            closed = Closed("success") if finishes else None
            return _enter(flow, row, step.__name__, "done", spent, row.waiting_for, closed)
        case Again(seconds, waiting_for):
            changes = {"next_at": from_now(seconds), "waiting_for": waiting_for}
            return _rest(row, changes, Told(flow.kind, "again", spent, waiting_for))
        case Done():
            return _rest(row, {"next_at": None, "waiting_for": "", "failures": 0}, None)
        case Gone():
            return None
        case other:
            assert_never(other)


def _enter(
    flow: Flow[R], row: R, step: str, outcome: str, spent: float, detail: str, closed: Closed | None = None
) -> R:
    """Begin a step: from here on it is what a new worker would run."""
    changes = {
        "step": step,
        "step_since": Now(),
        "deadline": from_now(flow.steps()[step].seconds),
        "next_at": Now(),
        "failures": 0,
        "waiting_for": "",
        "wait_event": None,
    }
    if closed:
        changes["action_id"] = None
    told = Told(flow.kind, outcome, spent, detail) if row.step != "rest" or row.wait_event else None
    return _kept(row, write(row, changes, told=told, closed=closed))


def _rest(row: R, changes: dict[str, object], told: Told | None) -> R | None:
    """Wait, unless somebody woke the row while the step ran: then go on with it as it is now."""
    if write(row, changes, wakes=row.wakes, told=told):
        return None
    return _kept(row, write(row, {"next_at": Now()}))


def _kept(old: R, row: R | None) -> R:
    if row is None:
        raise LeaseLost(f"epoch {old.epoch} is over")
    return row


def _fail(flow: Flow[R], row: R, error: PaddockError, spent: float) -> R:
    log.warning("step %s of %s %d failed: %s", row.step, flow.kind, row.pk, error)
    row.set(only_step="")
    outcome = flow.failed(row, error)
    if not isinstance(outcome, Then):
        raise TypeError(f"BUG: {flow.kind}.failed() must say which step comes next")
    return _enter(flow, row, outcome.step.__name__, "failed", spent, str(error), Closed("error", error))


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


def _take(flow: Flow[R], row_id: int, if_due: bool = False) -> R:
    """Raise the row's epoch: from now on all older workers are refused."""
    rows = flow.model._default_manager.filter(pk=row_id, **({"next_at__lte": Now()} if if_due else {}))
    if not rows.update(epoch=F("epoch") + 1):
        raise LeaseLost("it is gone, or has been done")
    return _read(flow, row_id)


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
    defer(kind, row.pk, urgent=urgent)


def defer(kind: str, row_id: int, *, urgent: bool = False) -> None:
    """Put a wake-up into the queue."""
    app.configure_task("advance", queue="flows", priority=int(urgent)).defer(kind=kind, row_id=row_id)


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
