"""Quotas: what a project may have, what it has, and the check that holds between two requests that race.

The check locks the project's row (only where a limit is set) until the transaction ends, so that the second of two
requests counts what the first has made.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction
from django.db.models import Count, Sum

from paddock.base.errors import LimitExceeded
from paddock.cloud.models import Image, Project, Server, Volume

WORDS = {
    "servers": "servers",
    "cores": "CPU cores",
    "memory_mib": "MiB of memory",
    "disk_gib": "GiB of disk",
    "volumes": "volumes",
    "volume_gib": "GiB of volumes",
    "snapshots": "snapshots, images and ISOs",
}
_OF_SERVERS = ("servers", "cores", "memory_mib", "disk_gib")
_OF_VOLUMES = ("volumes", "volume_gib")


def limits(project: Project) -> dict[str, int | None]:
    """What it may have, by name; None: as much as there is room for."""
    return {name: getattr(project, f"limit_{name}") for name in WORDS}


def usage(project: Project) -> dict[str, int]:
    """What it has, by name. What is being deleted counts until it is gone."""
    return _usage(project.pk, tuple(WORDS))


def check(project: Project | int, **more: int) -> None:
    """Raises LimitExceeded when the project, with this much more, would have more than it may.

    Call it in the transaction that creates, before it does. A project that was read already (with the token) and has
    no limit costs no query.
    """
    wanted = tuple(name for name, count in more.items() if count > 0)
    known = project if isinstance(project, Project) else Project.objects.get(pk=project)
    if not any(limits(known)[name] is not None for name in wanted):
        return
    # Not FOR UPDATE: whoever inserts a row of this project holds a key share lock on it, and would wait for us.
    locked = Project.objects.select_for_update(no_key=True).get(pk=known.pk)
    allowed = limits(locked)
    limited = tuple(name for name in wanted if allowed[name] is not None)
    has = _usage(locked.pk, limited)
    for name in limited:
        limit = allowed[name]
        if limit is not None and has[name] + more[name] > limit:
            needs = f"it has {has[name]}, and this needs {more[name]}"
            raise LimitExceeded(
                f"project {locked.name} may have {limit} {WORDS[name]}: {needs}",
                hint="delete something, or ask the operator for a higher limit",
                field=name,
            )


@contextmanager
def held(project_id: int) -> Iterator[None]:
    """A transaction that has the project's lock from its beginning: for a `check` that comes after another row was
    locked. Projects are locked first (see `actions.py`)."""
    with transaction.atomic():
        known = Project.objects.get(pk=project_id)
        if any(limit is not None for limit in limits(known).values()):
            Project.objects.select_for_update(no_key=True).get(pk=project_id)
        yield


def _usage(project_id: int, names: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    if any(name in _OF_SERVERS for name in names):
        found |= Server.objects.filter(project=project_id).aggregate(
            servers=Count("pk"), cores=Sum("cores"), memory_mib=Sum("memory_mib"), disk_gib=Sum("disk_gib")
        )
    if any(name in _OF_VOLUMES for name in names):
        rows = Volume.objects.filter(project=project_id)
        found |= rows.aggregate(volumes=Count("pk"), volume_gib=Sum("size_gib"))
    if "snapshots" in names:
        # Whatever of its own takes room in the store: what was taken, imported and put on a CD.
        found["snapshots"] = Image.objects.filter(project=project_id, deleted=None).count()
    return {name: found[name] or 0 for name in names}
