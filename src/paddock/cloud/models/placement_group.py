"""Placement groups: servers that shall not share a node."""

from django.db import models
from django.db.models.functions import Lower, Now

from paddock.cloud.models.project import Project


class PlacementGroup(models.Model):
    """A group of a project's servers. `spread`: no two of them on one node."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    name = models.CharField(max_length=200)
    type = models.CharField(max_length=10, default="spread")
    labels = models.JSONField(default=dict)
    created = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint("project", Lower("name"), name="placement_group_name")]
