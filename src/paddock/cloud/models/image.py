"""Images, and on which nodes they lie."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from paddock.cloud.models.living import Living, due_index
from paddock.cloud.models.node import Node
from paddock.cloud.models.project import Project
from paddock.machine.image import ImageManifest, Role
from paddock.machine.spec import Frozen


class OwnKernel(Frozen):
    """That an image which is still to come brings a kernel: its files with the sha256 that each must have, empty where
    none was said, and the kernel's arguments."""

    files: dict[Role, str]
    cmdline: str


class Image(Living):
    """An image. Those of the catalogue (project null) exist from the start and are built at first use.

    A deleted one stays as a row, hidden from everybody, while servers stand on it. ISOs and the rescue system are
    images too, which /v1/images does not show.
    """

    project = models.ForeignKey(Project, null=True, on_delete=models.CASCADE)
    name = models.CharField(max_length=63, default="", blank=True)  # empty: a snapshot, known by its description
    description = models.CharField(max_length=200, default="")
    type = models.CharField(max_length=10, default="system")  # system, snapshot, backup, app; iso, rescue
    os_flavor = models.CharField(max_length=20, default="unknown")
    os_version = models.CharField(max_length=20, default="")
    default_user = models.CharField(max_length=32, default="root")
    cloud_init = models.BooleanField(default=False)
    expected_sha256 = models.CharField(max_length=64, default="")  # of an upload, when the user gave it
    firmware = models.CharField(max_length=4, default="", blank=True)  # bios or uefi; empty: as its disk is found to be
    labels = models.JSONField(default=dict)
    state = models.CharField(max_length=10, default="absent")  # absent, building, ready, failed
    percent = models.IntegerField(default=0)
    doing = models.CharField(max_length=200, default="")
    sha256 = models.CharField(max_length=64, default="")  # of the manifest, once ready
    manifest = models.JSONField(default=dict)  # once ready; before, only what was `announced`
    url = models.TextField(default="")  # where its content is to be fetched from
    version = models.CharField(max_length=63, default="", blank=True)  # of what was fetched, as its publisher names it
    catalogue = models.BooleanField(default=False)  # it comes from the catalogue: built or fetched, and so again
    verified = models.CharField(max_length=300, default="", blank=True)  # what proves that its publisher made it
    fetched_at = models.DateTimeField(null=True)
    newer = models.CharField(max_length=63, default="", blank=True)  # the version that its publisher has by now
    looked_at = models.DateTimeField(null=True)  # when its publisher was last asked for that
    used_at = models.DateTimeField(null=True)  # when a node last got it, or had it, for a server
    protect_delete = models.BooleanField(default=False)
    created_from_id = models.BigIntegerField(null=True)  # the server that a snapshot is of; it may be gone
    created_from_name = models.CharField(max_length=253, default="")
    uuid = models.UUIDField(unique=True, null=True)  # a snapshot's name on its node, while it is made
    kernel_of = models.CharField(max_length=64, default="")  # the image whose kernel and initrd a snapshot boots by
    frozen = models.BooleanField(null=True)  # a snapshot: whether the file systems were held still for it
    not_frozen = models.CharField(max_length=200, default="")  # why not
    cleaned = models.JSONField(null=True)  # what of one server was removed from it; null: it is as its server was
    shared = models.JSONField(default=list)  # what of it all servers share that are made of it
    delete_requested = models.BooleanField(default=False)
    deleted = models.DateTimeField(null=True)
    created = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "name"], name="image_name", condition=~Q(name="") & Q(deleted__isnull=True)
            ),
            models.UniqueConstraint(fields=["name"], name="image_catalogue_name", condition=Q(project__isnull=True)),
        ]
        indexes = [due_index("image_due")]

    @property
    def title(self) -> str:
        """What it is, and its name; of a snapshot without one, its id and description."""
        return f"{'ISO' if self.type == 'iso' else 'image'} {self.name or f'{self.pk} ({self.description})'}"

    @property
    def made_of(self) -> ImageManifest:
        """The manifest of a ready image."""
        return ImageManifest.model_validate(self.manifest)

    @property
    def announced(self) -> OwnKernel | None:
        """The kernel that is to come with it; None for most images, and for one that is ready."""
        said = self.manifest.get("announced")
        return OwnKernel.model_validate(said) if said else None


class ImageCopy(models.Model):
    """That a node has a whole copy of an image."""

    image = models.ForeignKey(Image, on_delete=models.CASCADE)
    node = models.ForeignKey(Node, on_delete=models.CASCADE)
    sha256 = models.CharField(max_length=64)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["node", "sha256"], name="image_copy")]
