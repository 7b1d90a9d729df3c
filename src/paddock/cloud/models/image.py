"""Images, and on which nodes they lie."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from paddock.cloud.models.living import Living, due_index
from paddock.cloud.models.node import Node
from paddock.cloud.models.project import Project
from paddock.machine.image import ImageManifest


class Image(Living):
    """An image. Those of the catalogue (project null) exist from the start and are built at first use."""

    project = models.ForeignKey(Project, null=True, on_delete=models.CASCADE)
    name = models.CharField(max_length=63)
    description = models.CharField(max_length=200, default="")
    type = models.CharField(max_length=10, default="system")
    os_flavor = models.CharField(max_length=20, default="unknown")
    os_version = models.CharField(max_length=20, default="")
    default_user = models.CharField(max_length=32, default="root")
    cloud_init = models.BooleanField(default=False)
    expected_sha256 = models.CharField(max_length=64, default="")  # of an upload, when the user gave it
    labels = models.JSONField(default=dict)
    state = models.CharField(max_length=10, default="absent")  # absent, building, ready, failed
    percent = models.IntegerField(default=0)
    doing = models.CharField(max_length=200, default="")
    sha256 = models.CharField(max_length=64, default="")  # of the manifest, once ready
    manifest = models.JSONField(default=dict)
    delete_requested = models.BooleanField(default=False)
    created = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="image_name"),
            models.UniqueConstraint(fields=["name"], name="image_catalogue_name", condition=Q(project__isnull=True)),
        ]
        indexes = [due_index("image_due")]

    @property
    def made_of(self) -> ImageManifest:
        """The manifest of a ready image."""
        return ImageManifest.model_validate(self.manifest)


class ImageCopy(models.Model):
    """That a node has a whole copy of an image."""

    image = models.ForeignKey(Image, on_delete=models.CASCADE)
    node = models.ForeignKey(Node, on_delete=models.CASCADE)
    sha256 = models.CharField(max_length=64)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["node", "sha256"], name="image_copy")]
