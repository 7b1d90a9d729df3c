"""What every row that a flow moves on has: where it is, until when, and who may write it."""

from datetime import datetime

from django.db import models
from django.db.models.functions import Now
from django.utils.functional import cached_property


class Living(models.Model):
    """A row with a life. The engine (`flows/engine.py`) is the only writer of these columns."""

    step = models.CharField(max_length=40)  # the step it is in: a method of its flow; empty: nothing to do
    step_since = models.DateTimeField(db_default=Now())
    deadline = models.DateTimeField(null=True)  # of the step, by PostgreSQL's clock
    next_at = models.DateTimeField(null=True, db_default=Now())  # when it is due; null: only when somebody wakes it
    epoch = models.BigIntegerField(default=0)  # grows with every worker that takes the row: fences the older ones
    wakes = models.BigIntegerField(default=0)  # grows with every wake-up, so that none is lost while a worker is busy
    failures = models.IntegerField(default=0)  # of the step, one after another
    waiting_for = models.TextField(default="", blank=True)
    problem = models.TextField(default="", blank=True)  # why its last action failed, or what is wrong with it
    action_id = models.BigIntegerField(null=True)  # the action that is being carried out
    only_step = models.CharField(max_length=40, default="", blank=True)  # run this one by hand, and none that follows
    wait_event = models.BigIntegerField(null=True)  # the timeline's event of the wait that goes on
    correlation_id = models.CharField(max_length=32, default="")  # of the request that the action came from

    now: datetime | None = None  # PostgreSQL's time when the engine read the row

    class Meta:
        abstract = True

    def set(self, **fields: object) -> None:
        """Change columns; they are written together with the step's outcome, or not at all."""
        for name, value in fields.items():
            setattr(self, name, value)
        self.pending.update(fields)

    @property
    def waited(self) -> float:
        """Seconds that it has been in this step, when it was read."""
        return (self.now - self.step_since).total_seconds() if self.now else 0.0

    @property
    def overdue(self) -> bool:
        """Whether its step's deadline had passed when it was read."""
        return bool(self.now and self.deadline and self.deadline < self.now)

    @cached_property
    def pending(self) -> dict[str, object]:
        """What `set` changed and the engine has not yet written."""
        return {}


def due_index(name: str) -> models.Index:
    """The index by which the sweep finds due rows."""
    return models.Index(fields=["next_at"], name=name, condition=models.Q(next_at__isnull=False))
