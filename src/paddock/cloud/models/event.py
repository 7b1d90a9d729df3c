"""The timeline: every step's start, end, wait and failure, in one table."""

from django.db import models
from django.db.models.functions import Now


class Event(models.Model):
    """One thing that happened to a row. A wait that goes on is one event whose `seconds` and `times` grow."""

    kind = models.CharField(max_length=20)
    row_id = models.BigIntegerField()
    action_id = models.BigIntegerField(null=True)
    step = models.CharField(max_length=40)
    outcome = models.CharField(max_length=10)  # done, again, failed, note
    detail = models.TextField(default="")
    started = models.DateTimeField(null=True)
    at = models.DateTimeField(db_default=Now())
    seconds = models.FloatField(default=0)
    times = models.IntegerField(default=1)
    correlation_id = models.CharField(max_length=32, default="")
    epoch = models.BigIntegerField(default=0)

    class Meta:
        indexes = [
            models.Index(fields=["kind", "row_id", "id"], name="event_of_row"),
            models.Index(fields=["action_id"], name="event_of_action"),
        ]
