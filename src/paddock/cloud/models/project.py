"""Projects (tenants) and the tokens that open them."""

import hashlib

from django.db import models
from django.db.models.functions import Now

from paddock.base.ids import new_token


class Project(models.Model):
    """A tenant: everything a customer owns belongs to one."""

    name = models.CharField(max_length=63, unique=True)
    limit_servers = models.IntegerField(null=True)  # of all limits: null is no limit
    limit_cores = models.IntegerField(null=True)
    limit_memory_mib = models.BigIntegerField(null=True)
    limit_disk_gib = models.BigIntegerField(null=True)  # of system disks
    limit_volumes = models.IntegerField(null=True)
    limit_volume_gib = models.BigIntegerField(null=True)
    limit_snapshots = models.IntegerField(null=True)
    created = models.DateTimeField(db_default=Now())


class Token(models.Model):
    """A bearer token. Only its hash is kept: 381 random bits need no salt and no slow hash."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    description = models.CharField(max_length=200, default="")
    digest = models.CharField(max_length=64, unique=True)
    read_only = models.BooleanField(default=False)
    operator = models.BooleanField(default=False)  # may use /admin/v1
    created = models.DateTimeField(db_default=Now())
    last_used = models.DateTimeField(null=True)

    @staticmethod
    def digest_of(token: str) -> str:
        """What is stored for a token."""
        return hashlib.sha256(token.encode()).hexdigest()

    @classmethod
    def issue(cls, project: Project, description: str, *, operator: bool = False, read_only: bool = False) -> str:
        """Make a token and return it, for the only time."""
        token = new_token()
        cls.objects.create(
            project=project,
            description=description,
            digest=cls.digest_of(token),
            operator=operator,
            read_only=read_only,
        )
        return token
