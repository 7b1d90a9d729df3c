"""Volumes: disks with a life of their own, which servers only borrow."""

from uuid import UUID

from django.db import models
from django.db.models.functions import Lower, Now

from paddock.base.ids import new_uuid
from paddock.cloud.models.living import Living, due_index
from paddock.cloud.models.node import Node
from paddock.cloud.models.project import Project
from paddock.cloud.models.server import Server
from paddock.machine.spec import GIB, Attached
from paddock.machine.spec import Volume as Spec


class Volume(Living):
    """A volume. It takes its place on a node at its first attachment, and stays there."""

    project = models.ForeignKey(Project, on_delete=models.PROTECT)
    uuid = models.UUIDField(unique=True, default=new_uuid)
    name = models.CharField(max_length=200)
    size_gib = models.IntegerField()
    format = models.CharField(max_length=4, default="", blank=True)  # ext4, xfs or none
    labels = models.JSONField(default=dict)
    node = models.ForeignKey(Node, null=True, on_delete=models.PROTECT)
    server = models.ForeignKey(Server, null=True, on_delete=models.PROTECT, related_name="volumes")
    detaching = models.BooleanField(default=False)  # its server's machine is to be told without it
    automount = models.BooleanField(default=False)  # mount it in the guest once it is attached
    made_gib = models.IntegerField(default=0)  # what is there on the node; 0: nothing
    status = models.CharField(max_length=10, default="creating")  # creating, available
    protect_delete = models.BooleanField(default=False)
    delete_requested = models.BooleanField(default=False)
    created = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint("project", Lower("name"), name="volume_name")]
        indexes = [due_index("volume_due"), models.Index(fields=["project", "id"], name="volume_of_project")]

    @property
    def volume_id(self) -> UUID:
        """Its name on nodes."""
        return self.uuid

    def spec(self) -> Spec:
        """What its node is told of it."""
        return Spec(uuid=self.uuid, size=self.size_gib * GIB, format=self.format)

    def attached(self) -> Attached:
        """How its server's machine has it: API clients look for a serial that is its id."""
        return Attached(volume=self.uuid, serial=str(self.pk))

    @property
    def linux_device(self) -> str:
        """Where the guest finds it."""
        return f"/dev/disk/by-id/scsi-0HC_Volume_{self.pk}"
