"""Actions: what was asked of a resource, and what became of it."""

from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models.functions import Now

from paddock.cloud.models.project import Project


class Action(models.Model):
    """An asynchronous operation. It names its resource by kind and id, since it outlives a deleted one.

    Running actions of a row are its wishes: a flow at rest takes the oldest.
    """

    project = models.ForeignKey(Project, null=True, on_delete=models.CASCADE)
    command = models.CharField(max_length=40)
    kind = models.CharField(max_length=20)  # server, image, volume
    row_id = models.BigIntegerField()
    status = models.CharField(max_length=10, default="running")  # running, success, error
    progress = models.IntegerField(default=0)
    argument = models.CharField(max_length=60, default="")  # of run_step: the step's name
    arguments = models.JSONField(default=dict)  # what was asked for, for the flow; nothing secret but hashes
    more = models.JSONField(default=list)  # other resources that it is about: [{"id": 1, "type": "volume"}]
    started = models.DateTimeField(db_default=Now())
    finished = models.DateTimeField(null=True)
    error_code = models.CharField(max_length=40, default="")
    error_message = models.TextField(default="")
    error_hint = models.TextField(default="")
    correlation_id = models.CharField(max_length=32, default="")

    class Meta:
        indexes = [
            models.Index(fields=["kind", "row_id", "id"], name="action_of_row"),
            GinIndex(fields=["more"], name="action_more", opclasses=["jsonb_path_ops"]),
            models.Index(fields=["kind", "row_id"], name="action_running", condition=models.Q(status="running")),
        ]
