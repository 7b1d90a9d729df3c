"""The base configuration that servers get beneath their own user data, where the operator chose another than ours."""

from django.db import models
from django.db.models.functions import Now


class BaseConfiguration(models.Model):
    """The cloud's own, in one row; without it, the default is in force."""

    text = models.TextField()
    changed = models.DateTimeField(db_default=Now())
