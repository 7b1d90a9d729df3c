"""Prepares the database before anything else runs: migrations, and the rows that a cloud begins with.

Running it again changes nothing, except that it takes over what was changed in paddock.toml.
"""

import logging
import os
from decimal import Decimal

os.environ["PADDOCK_ROLE"] = "prepare"
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "paddock.cloud.settings")

import django

django.setup()

from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction

from paddock.base import log
from paddock.base.errors import Refused
from paddock.base.files import write_private
from paddock.base.settings import NodeSettings
from paddock.cloud.models import Image, Node, Project, Server, ServerType, Token, Volume

logger = logging.getLogger(__name__)

DEFAULT_PROJECT = "default"
LOCK = 7480  # advisory: two that prepare at once do it one after another

# The plans of the WebOps addon (D21), with prices per hour in EUR, and one for trying things out.
SERVER_TYPES = (
    ("micro", "1 vCPU, 1 GB of memory, 20 GB of disk", 1, 1024, 20, "0.0050"),
    ("small", "2 vCPUs, 2 GB of memory, 40 GB of disk", 2, 2048, 40, "0.0100"),
    ("medium", "4 vCPUs, 4 GB of memory, 80 GB of disk", 4, 4096, 80, "0.0200"),
    ("large", "8 vCPUs, 8 GB of memory, 160 GB of disk", 8, 8192, 160, "0.0400"),
    ("nano", "1 vCPU, 128 MB of memory, 2 GB of disk: for tiny guests", 1, 128, 2, "0.0010"),
)
HOURS_PER_MONTH = 730


def main() -> None:
    """Migrate, and make what is missing."""
    log.setup("prepare")
    call_command("migrate", verbosity=0, interactive=False)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        _server_types()
        _images()
        for node in settings.PADDOCK.node:
            _node(node)
        _retire({node.name for node in settings.PADDOCK.node})
        token = _token()
    if token:
        write_private(settings.STATE.token, token + "\n")
    logger.info("the database is ready")


def _server_types() -> None:
    """The plans that a new cloud begins with. Later they are the operator's: what was deleted stays so."""
    if ServerType.objects.exists():
        return
    for name, description, cores, memory_mib, disk_gib, hourly in SERVER_TYPES:
        plan = {
            "description": description,
            "cores": cores,
            "memory_mib": memory_mib,
            "disk_gib": disk_gib,
            "price_hourly": hourly,
            "price_monthly": Decimal(hourly) * HOURS_PER_MONTH,
        }
        ServerType.objects.create(name=name, **plan)


def _images() -> None:
    """The rows of the catalogue's images. What is said of one may change; what was published under its name stays."""
    offered = settings.CATALOGUE.offered
    for entry in offered:
        about = {
            "description": entry.title,
            "os_flavor": entry.system,
            "os_version": entry.version,
            "default_user": entry.user,
            "cloud_init": entry.cloud_init,
            "type": entry.type,
            "url": entry.url,
            "catalogue": True,
        }
        defaults = {**about, "step": "rest", "next_at": None}
        row, new = Image.objects.get_or_create(project=None, name=entry.name, defaults=defaults)
        if not new and (row.catalogue or entry.built):
            Image.objects.filter(pk=row.pk).update(**about)
    over = Image.objects.filter(project=None, catalogue=True, state="absent", server=None)
    over.exclude(name__in=[entry.name for entry in offered]).delete()


def _node(said: NodeSettings) -> None:
    socket = settings.STATE.agent_socket(said.name)
    capacity = {"cpus": said.cpus, "memory_mib": said.memory_mib, "disk_gib": said.disk_gib}
    chosen = {**capacity, "shared": said.may_be_shared}
    Node.objects.update_or_create(
        name=said.name,
        defaults={
            "driver": said.driver,
            "url": f"unix://{socket}",
            "cpu_overcommit": said.cpu_overcommit,
            "memory_overcommit": said.memory_overcommit,
            "first_id": said.first_id,
            "first_ssh_port": said.first_ssh_port,
            "ssh_ports": said.ssh_ports,
            "ssh_address": said.ssh_address,
            "settings": chosen,
        },
    )


def _retire(names: set[str]) -> None:
    """Forget nodes that paddock.toml no longer has. Raises Refused while servers or volumes are on one."""
    for node in Node.objects.exclude(name__in=names):
        servers, volumes = Server.objects.filter(node=node).count(), Volume.objects.filter(node=node).count()
        if servers or volumes:
            raise Refused(
                f"paddock.toml no longer has node {node.name}, on which {servers} servers and {volumes} volumes are",
                hint="put it back, and delete or move them first",
            )
        node.delete()


def _token() -> str | None:
    """A token for the default project, unless the state directory has a valid one."""
    project, _ = Project.objects.get_or_create(name=DEFAULT_PROJECT)
    try:
        known = settings.STATE.token.read_text(encoding="ascii").strip()
    except OSError:
        known = ""
    if known and Token.objects.filter(digest=Token.digest_of(known), project=project).exists():
        return None
    return Token.issue(project, "made by paddock up", operator=True)


if __name__ == "__main__":
    main()
