"""Console sessions: addresses of a server's screen that open once, and for a minute."""

from django.db import models

from paddock.cloud.models.server import Server


class ConsoleSession(models.Model):
    """One address. Only the hash of its secret is kept; the VNC password follows from the secret and our key."""

    server = models.ForeignKey(Server, on_delete=models.CASCADE)
    digest = models.CharField(max_length=64, unique=True)
    expires = models.DateTimeField()
