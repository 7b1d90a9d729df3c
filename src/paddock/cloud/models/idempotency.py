"""Answers that were given, by the caller's Idempotency-Key: a retried write gets the same one again."""

from django.db import models
from django.db.models.functions import Now

from paddock.cloud.models.project import Project


class IdempotencyKey(models.Model):
    """A write that was done once. Written in the transaction that did it; kept for a day."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    key = models.CharField(max_length=255)
    request = models.CharField(max_length=64)  # sha256 of method, path and body: another request is refused
    status = models.IntegerField(default=0)
    body = models.TextField(default="")  # without secrets: a replay shows null for a password
    created = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "key"], name="idempotency_key")]
        indexes = [models.Index(fields=["created"], name="idempotency_age")]
