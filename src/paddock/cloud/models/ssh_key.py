"""SSH keys of a project."""

from django.db import models
from django.db.models.functions import Now

from paddock.cloud.models.project import Project


class SSHKey(models.Model):
    """A public key. Its fingerprint is unique in the project, as API clients expect."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    name = models.CharField(max_length=200)
    public_key = models.TextField()
    fingerprint = models.CharField(max_length=47)  # MD5 as colon-separated hex
    labels = models.JSONField(default=dict)
    created = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="ssh_key_name"),
            models.UniqueConstraint(fields=["project", "fingerprint"], name="ssh_key_fingerprint"),
        ]
