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

from paddock.cloud.models import Image, Node, Project, Server, ServerType
from paddock.images.store import ImageStore


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", type=Path, help="directory of a built image `tiny`")
    parser.add_argument("--servers", type=int, default=0, help="servers at rest, switched off")
    parser.add_argument("--queries", action="store_true", help="print the queries of a page of 10 and of 50 servers")
    options = parser.parse_args()
    if options.image:
        _image(options.image)
    if options.servers:
        _servers(options.servers)
    if options.queries:
        print(*(_queries(size) for size in (10, 50)))


def _image(source: Path) -> None:
    target = settings.STATE.images / source.name
    if not target.exists():
        shutil.copytree(source, target)
    manifest = ImageStore(settings.STATE.images).get(source.name)
    Image.objects.filter(project=None, name="tiny").update(
        state="ready", sha256=manifest.sha256, manifest=manifest.model_dump(mode="json")
    )


def _servers(count: int) -> None:
    plan, node = ServerType.objects.get(name="nano"), Node.objects.get()
    project, image = Project.objects.get(), Image.objects.get(project=None, name="tiny")
    Server.objects.bulk_create(
        Server(
            project=project, name=f"seed-{n}", server_type=plan, image=image, image_sha256=image.sha256, node=node,
            number=10**6 + n, cores=plan.cores, memory_mib=plan.memory_mib, disk_gib=plan.disk_gib, step="rest",
            status="off", next_at=None, labels={"n": str(n % 7)}, created=Now(),
        )
        for n in range(count)
    )  # fmt: skip
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
