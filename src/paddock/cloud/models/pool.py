"""Pools: how many guests of an image nodes hold ready, for servers of a type to begin from."""

from django.db import models
from django.db.models.functions import Now

from paddock.cloud.models.image import Image
from paddock.cloud.models.node import Node
from paddock.cloud.models.server_type import ServerType


class Pool(models.Model):
    """An operator's setting, for one node or for each (`node` is none); the one for a node wins."""

    image = models.ForeignKey(Image, on_delete=models.CASCADE)
    server_type = models.ForeignKey(ServerType, on_delete=models.CASCADE)
    node = models.ForeignKey(Node, on_delete=models.CASCADE, null=True)
    count = models.IntegerField()
    created = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["image", "server_type", "node"], name="pool_once", nulls_distinct=False),
            models.CheckConstraint(name="pool_count", condition=models.Q(count__gte=0)),
        ]
