# ruff: noqa: E402  (Django must be set up first)
"""`python -m bench.seed`: puts things into a stack's database that would take too long to make through its API.

Run in a process of its own, with the stack's environment, since Django reads its settings once.
"""

import argparse
import os
import shutil
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "paddock.cloud.settings")

import django

django.setup()

from django.conf import settings
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext

from paddock.cloud.models import Action, Image, Node, Project, Server, ServerType
from paddock.images.store import ImageStore

BATCH = 5000  # rows that are made at once
WRITTEN = 500  # of them in one statement, which takes 65,535 values


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", type=Path, help="directory of a built image of the catalogue")
    parser.add_argument("--servers", type=int, default=0, help="servers at rest, switched off")
    parser.add_argument("--projects", type=int, default=0, help="projects of others that have those servers, too")
    parser.add_argument("--queries", action="store_true", help="print the queries of a page of 10 and of 50 servers")
    options = parser.parse_args()
    if options.image:
        _image(options.image)
    if options.projects:
        _strangers(options.projects, options.servers)
    elif options.servers:
        _servers(Project.objects.get(name="default"), options.servers)
    if options.queries:
        print(*(_queries(size) for size in (10, 50)))


def _image(source: Path) -> None:
    target = settings.STATE.images / source.name
    if not target.exists():
        shutil.copytree(source, target)
    manifest = ImageStore(settings.STATE.images).get(source.name)
    Image.objects.filter(project=None, name=manifest.name).update(
        state="ready", sha256=manifest.sha256, manifest=manifest.model_dump(mode="json")
    )


def _strangers(projects: int, servers: int) -> None:
    """Servers of many projects, with an action each, as if they had been created in turns."""
    first = Project.objects.count()
    strangers = (Project(name=f"stranger-{first + n}", created=Now()) for n in range(projects))
    made = Project.objects.bulk_create(strangers, batch_size=WRITTEN)
    for n in range(0, servers, BATCH):
        _servers(made, min(BATCH, servers - n), n)
    _analyze()


def _servers(projects: Project | list[Project], count: int, first: int = 0) -> None:
    owners = projects if isinstance(projects, list) else [projects]
    plan, node = ServerType.objects.get(name="nano"), Node.objects.get()
    image, start = Image.objects.get(project=None, name="tiny"), Server.objects.count()
    rows = (
        Server(
            project=owners[n % len(owners)], name=f"seed-{n}", server_type=plan, image=image, image_sha256=image.sha256,
            node=node, number=10**6 + start + n, cores=plan.cores, memory_mib=plan.memory_mib, disk_gib=plan.disk_gib,
            step="rest", status="off", next_at=None, labels={"n": str(n % 7), "only": f"{n // 100}"}, created=Now(),
        )
        for n in range(first, first + count)
    )  # fmt: skip
    written = Server.objects.bulk_create(rows, batch_size=WRITTEN)
    done = (
        Action(project_id=r.project_id, kind="server", row_id=r.pk, command="create_server", status="success",
               started=Now(), finished=Now())
        for r in written
    )  # fmt: skip
    Action.objects.bulk_create(done, batch_size=WRITTEN)
    _analyze()


def _analyze() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def _queries(size: int) -> int:
    token = settings.STATE.token.read_text().strip()
    client = Client(headers={"Authorization": f"Bearer {token}"})
    assert client.get(f"/v1/servers?per_page={size}").status_code == 200
    with CaptureQueriesContext(connection) as found:
        assert len(client.get(f"/v1/servers?per_page={size}&page=100").json()["servers"]) == size
    return len(found)


if __name__ == "__main__":
    main()
