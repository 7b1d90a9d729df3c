"""Workers that live: by their heartbeat others judge whether a lock is held by the living."""

from django.db import models
from django.db.models.functions import Now


class Worker(models.Model):
    """A worker process. Its connections carry its tag in their application name."""

    tag = models.CharField(max_length=16, unique=True)
    host = models.CharField(max_length=100)
    pid = models.IntegerField()
    started = models.DateTimeField(db_default=Now())
    seen = models.DateTimeField(db_default=Now())
