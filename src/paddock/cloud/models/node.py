"""Nodes: the hosts that servers run on, what they have, and what of it is claimed."""

from django.db import models
from django.db.models import F, Q, Subquery
from django.db.models.functions import Now


class Node(models.Model):
    """A host. Claims are made by one conditional UPDATE; the constraints hold even against a wrong one."""

    name = models.CharField(max_length=32, unique=True)
    driver = models.CharField(max_length=20, default="qemu")
    url = models.CharField(max_length=300)  # unix:///path of its agent
    state = models.CharField(max_length=10, default="new")  # new, up, down
    problem = models.TextField(default="")
    cpus = models.IntegerField(default=0)
    memory_mib = models.BigIntegerField(default=0)
    disk_gib = models.BigIntegerField(default=0)
    cpu_overcommit = models.FloatField(default=4.0)
    memory_overcommit = models.FloatField(default=1.0)
    claimed_cpus = models.IntegerField(default=0)
    claimed_memory_mib = models.BigIntegerField(default=0)
    claimed_disk_gib = models.BigIntegerField(default=0)
    first_id = models.IntegerField(default=1000)
    last_number = models.IntegerField(default=0)  # of the servers' numbers on this node; never used twice
    first_ssh_port = models.IntegerField(default=2200)
    ssh_ports = models.IntegerField(default=100)
    ssh_address = models.CharField(max_length=64, default="127.0.0.1")
    last_placed = models.BigIntegerField(default=0)  # of a counter: round-robin takes the lowest
    facts = models.JSONField(default=dict)
    settings = models.JSONField(default=dict)  # capacity that the operator set, which wins over the host's own
    last_seen = models.DateTimeField(null=True)
    created = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="node_claims_not_negative",
                condition=Q(claimed_cpus__gte=0, claimed_memory_mib__gte=0, claimed_disk_gib__gte=0),
            ),
            models.CheckConstraint(
                name="node_not_overfull",
                condition=Q(
                    claimed_cpus__lte=F("cpus") * F("cpu_overcommit"),
                    claimed_memory_mib__lte=F("memory_mib") * F("memory_overcommit"),
                    claimed_disk_gib__lte=F("disk_gib"),
                ),
            ),
        ]

    def claim(self, cpus: int, memory_mib: int, disk_gib: int) -> bool:
        """Take room, a number and a turn, if there is room: one statement, so that workers never overfill a node."""
        last = Node.objects.order_by("-last_placed").values("last_placed")[:1]
        return bool(
            Node.objects.filter(
                Q(claimed_cpus__lte=F("cpus") * F("cpu_overcommit") - cpus),
                Q(claimed_memory_mib__lte=F("memory_mib") * F("memory_overcommit") - memory_mib),
                Q(claimed_disk_gib__lte=F("disk_gib") - disk_gib),
                id=self.id,
                state="up",
            ).update(
                claimed_cpus=F("claimed_cpus") + cpus,
                claimed_memory_mib=F("claimed_memory_mib") + memory_mib,
                claimed_disk_gib=F("claimed_disk_gib") + disk_gib,
                last_placed=Subquery(last) + 1,
                last_number=F("last_number") + 1,
            )
        )

    def claim_disk(self, disk_gib: int) -> bool:
        """Take room on its disk alone, as volumes do, if there is room; whether it answers now does not matter."""
        fits = Node.objects.filter(Q(claimed_disk_gib__lte=F("disk_gib") - disk_gib), id=self.id)
        return bool(fits.update(claimed_disk_gib=F("claimed_disk_gib") + disk_gib))

    def release(self, cpus: int, memory_mib: int, disk_gib: int) -> None:
        """Give room back."""
        Node.objects.filter(id=self.id).update(
            claimed_cpus=F("claimed_cpus") - cpus,
            claimed_memory_mib=F("claimed_memory_mib") - memory_mib,
            claimed_disk_gib=F("claimed_disk_gib") - disk_gib,
        )
