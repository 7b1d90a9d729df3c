"""Servers: what customers own and run."""

from uuid import UUID

from django.db import models
from django.db.models.functions import Lower, Now

from paddock.base.ids import mac_address, new_uuid
from paddock.cloud.models.image import Image
from paddock.cloud.models.living import Living, due_index
from paddock.cloud.models.node import Node
from paddock.cloud.models.placement_group import PlacementGroup
from paddock.cloud.models.project import Project
from paddock.cloud.models.server_type import ServerType
from paddock.machine.spec import GIB, Attached, Disk, Machine, Rescue, Seed, UserNetwork
from paddock.machine.warm import scope_of


class Status(models.TextChoices):
    """The nine of the API plus `paused` and `hibernated`: one axis. `x_status` there."""

    INITIALIZING = "initializing"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    OFF = "off"
    DELETING = "deleting"
    REBUILDING = "rebuilding"
    MIGRATING = "migrating"
    UNKNOWN = "unknown"
    PAUSED = "paused"
    HIBERNATED = "hibernated"


class Server(Living):
    """A server. `node`, `number` and `ssh_port` are what placement decided; they are no part of its identity."""

    project = models.ForeignKey(Project, on_delete=models.PROTECT)
    uuid = models.UUIDField(unique=True, default=new_uuid)
    name = models.CharField(max_length=253)
    server_type = models.ForeignKey(ServerType, on_delete=models.PROTECT)
    image = models.ForeignKey(Image, on_delete=models.PROTECT)
    image_sha256 = models.CharField(max_length=64, default="")  # of the image it was made from, once known
    iso = models.ForeignKey(Image, null=True, on_delete=models.PROTECT, related_name="+")
    placement_group = models.ForeignKey(PlacementGroup, null=True, on_delete=models.SET_NULL)
    node = models.ForeignKey(Node, null=True, on_delete=models.PROTECT)
    number = models.IntegerField(null=True)
    ssh_port = models.IntegerField(null=True)
    port_tries = models.IntegerField(default=0)  # SSH ports that were taken by others, one after another
    cores = models.IntegerField()
    memory_mib = models.BigIntegerField()
    disk_gib = models.BigIntegerField()
    machine_type = models.CharField(max_length=40, default="pc-q35-7.2")
    layout = models.IntegerField(default=2)
    max_cores = models.IntegerField(default=0)  # up to which a running one can be given more; 0: as many as it has
    max_memory_mib = models.BigIntegerField(default=0)
    generation = models.IntegerField(default=0)  # of its system disk: each rebuild is another one
    public_keys = models.JSONField(default=list)
    user_data = models.TextField(default="")
    base_config = models.BooleanField(default=True)  # gets the cloud's base configuration, as it is at each new disk
    vendor_data = models.TextField(default="")  # that configuration, as it got it
    password_hash = models.CharField(max_length=200, default="")
    rescue_until = models.DateTimeField(null=True)  # the next start before then is into the rescue system
    rescue_keys = models.JSONField(default=list)
    rescue_password_hash = models.CharField(max_length=200, default="")
    rescue_sha256 = models.CharField(max_length=64, default="")  # the rescue system's image, once it is on the node
    in_rescue = models.BooleanField(default=False)  # what runs now, or is just being started, is the rescue system
    revision = models.BigIntegerField(default=0)  # grows with every change of what its machine shall be; 0: no volumes
    told = models.BigIntegerField(default=0)  # the revision that its node was last told
    protect_delete = models.BooleanField(default=False)
    protect_rebuild = models.BooleanField(default=False)
    description = models.CharField(max_length=500, default="", blank=True)
    firmware = models.CharField(max_length=4, default="", blank=True)  # bios or uefi; empty until its image says it
    kernel_args = models.CharField(max_length=1024, default="", blank=True)
    autostart = models.BooleanField(default=False)  # when its node starts
    autostart_order = models.IntegerField(default=0)  # lower ones first
    autostart_delay = models.IntegerField(default=0)  # seconds that the next ones wait after it
    autostart_at = models.DateTimeField(null=True)  # its node came up, and it waits for its turn
    labels = models.JSONField(default=dict)
    group = models.CharField(max_length=63, default="", blank=True)
    role = models.CharField(max_length=63, default="", blank=True)
    restart = models.CharField(max_length=12, default="no")  # no, on-failure
    start_after_create = models.BooleanField(default=True)
    start_paused = models.BooleanField(default=False)
    warm = models.BooleanField(default=True)  # a new disk's first start may begin from a warm image
    began = models.CharField(max_length=4, default="", blank=True)  # how that start began: warm, pool, cold or fork
    not_warm = models.TextField(default="", blank=True)  # why it was a cold one
    fork = models.UUIDField(null=True, db_index=True)  # the fork point that its first start begins from, until it has
    forked_by = models.BigIntegerField(null=True)  # the action, of the server that it is a fork of
    status = models.CharField(max_length=14, choices=Status, default=Status.INITIALIZING)
    delete_requested = models.BooleanField(default=False)
    observed = models.CharField(max_length=10, default="")  # the phase that its node last reported
    accelerator = models.CharField(max_length=4, default="")
    started_at = models.DateTimeField(null=True)  # when QEMU was last started
    restarts = models.IntegerField(default=0)  # by itself, since somebody last asked for a start
    ready_at = models.DateTimeField(null=True)
    ready_by = models.JSONField(default=list)
    created = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint("project", Lower("name"), name="server_name"),
            models.UniqueConstraint(fields=["node", "ssh_port"], name="server_ssh_port"),
            models.UniqueConstraint(fields=["node", "number"], name="server_number"),
        ]
        indexes = [
            due_index("server_due"),
            models.Index(fields=["project", "id"], name="server_of_project"),
            models.Index(fields=["project", "group"], name="server_of_group"),
        ]

    @property
    def machine_id(self) -> UUID:
        """Its name on nodes."""
        return self.uuid

    @property
    def x_name(self) -> str | None:
        """kvm-cloud's name for it: node and number (K22)."""
        return f"{self.node.name}/{self.number}" if self.node and self.number is not None else None

    def system_disk(self) -> Disk:
        """The disk it boots from. Raises ValueError (BUG) before its image is known."""
        return Disk(size=self.disk_gib * GIB, image=self.image_sha256, generation=self.generation)

    def rescue(self) -> Rescue | None:
        """The rescue system, if what runs, or is just being started, is that."""
        if not self.in_rescue:
            return None
        keys = tuple(self.rescue_keys)
        return Rescue(image=self.rescue_sha256, ssh_keys=keys, password_hash=self.rescue_password_hash)

    def attached(self) -> tuple[Attached, ...]:
        """The volumes that its machine shall have."""
        return tuple(v.attached() for v in self.volumes.filter(detaching=False, made_gib__gt=0).order_by("pk"))

    def machine(self) -> Machine:
        """The whole of it, as a node is told."""
        if self.node is None or self.ssh_port is None:
            raise ValueError(f"BUG: server {self.id} has no place yet")
        return Machine(
            uuid=self.uuid,
            name=self.name,
            cpus=self.cores,
            memory_mib=self.memory_mib,
            machine_type=self.machine_type,
            layout=self.layout,
            max_cpus=self.max_cores,
            max_memory_mib=self.max_memory_mib,
            image=self.image_sha256,
            system_disk=self.system_disk(),
            network=UserNetwork(mac=mac_address(self.uuid), ssh_port=self.ssh_port, ssh_address=self.node.ssh_address),
            seed=Seed(
                instance_id=str(self.uuid),
                hostname=self.name,
                ssh_keys=tuple(self.public_keys),
                user_data=self.user_data,
                password_hash=self.password_hash,
                vendor_data=self.vendor_data,
            ),
            volumes=self.attached() if self.revision else (),
            iso=self.iso.sha256 if self.iso else None,
            iso_first=self.image.type != "blank",  # an installation is gone on with from the disk
            rescue=self.rescue(),
            firmware=self.firmware or "bios",
            kernel_args=self.kernel_args,
            nested=self.server_type.nested,
            dedicated_cpus=self.server_type.dedicated_cpus,
            huge_pages=self.server_type.huge_pages,
            warm=scope_of(self.image.project_id) if self.warm else "",
            fork=self.fork,
        )
