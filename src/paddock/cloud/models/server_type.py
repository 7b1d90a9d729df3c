"""Server types: the plans."""

from django.db import models


class ServerType(models.Model):
    """A plan: what a server of it has, and what it costs (in EUR, as exact decimals)."""

    name = models.CharField(max_length=63, unique=True)
    description = models.CharField(max_length=200, default="")
    cores = models.IntegerField()
    memory_mib = models.BigIntegerField()
    disk_gib = models.BigIntegerField()
    price_hourly = models.DecimalField(max_digits=12, decimal_places=4, default=0)
    price_monthly = models.DecimalField(max_digits=12, decimal_places=4, default=0)
    dedicated_cpus = models.BooleanField(default=False)  # each CPU has one of the host's for itself
    huge_pages = models.BooleanField(default=False)
    nested = models.BooleanField(default=False)  # its servers may run virtual machines themselves
    deprecated = models.DateTimeField(null=True)
