"""`paddock image`: what servers are made from."""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from paddock.base.errors import Invalid, PaddockError
from paddock.cli import follow, lookup, progress
from paddock.cli.client import Api, Json
from paddock.cli.fail import say
from paddock.cli.output import (
    Column,
    Format,
    Output,
    Quiet,
    age,
    gigabytes,
    show_one,
    show_rows,
    stderr,
    stdout,
)
from paddock.cli.session import api_of

CHUNK = 1 << 20
BUILD = 3600.0  # seconds
Image = Annotated[str, typer.Argument(metavar="IMAGE", help="Name or id.", show_default=False)]

app = typer.Typer(no_args_is_help=True, help="Images: what servers are made from.")


def _state(image: Json) -> str:
    state = str(image.get("x_state") or image["status"])
    return f"building {image.get('x_progress') or 0} %" if state == "building" else state


def _disk(image: Json) -> str:
    return gigabytes(image["disk_size"]) if image.get("disk_size") else "-"


COLUMNS = (
    Column("NAME", lambda i: i["name"], least=14),
    Column("ID", lambda i: i["id"], right=True),
    Column("STATE", _state),
    Column("DISK", _disk, right=True),
    Column("SIZE", lambda i: gigabytes(i["image_size"]) if i.get("image_size") else "-", right=True),
    Column("LOGIN", lambda i: i.get("x_default_user")),
    Column("AGE", lambda i: age(i["created"]), drop=2, right=True),
    Column("DESCRIPTION", lambda i: i.get("description"), drop=1, least=20),
)


@app.command("list")
def list_images(ctx: typer.Context, output: Output = Format.TABLE, quiet: Quiet = False) -> None:
    """Show the images. One that is absent is built when it is first used.

    Examples:
      paddock image list
    """
    show_rows(api_of(ctx).list("/v1/images", {"sort": "id:asc"}), COLUMNS, output, quiet=quiet)


@app.command("show")
def show_image(ctx: typer.Context, image: Image, output: Output = Format.TABLE) -> None:
    """Show everything about one image.

    Examples:
      paddock image show debian-12
    """
    i = lookup.find(api_of(ctx), "images", image)
    show_one([
        ("Name", i["name"]), ("ID", i["id"]), ("Description", i.get("description")), ("State", _state(i)),
        ("Doing", i.get("x_doing")), ("Problem", i.get("x_problem")), ("System", i.get("os_flavor")),
        ("Version", i.get("os_version")), ("Login", i.get("x_default_user")), ("cloud-init", i.get("x_cloud_init")),
        ("Disk", _disk(i)), ("SHA-256", i.get("x_sha256")), ("Labels", i.get("labels")),
        ("Created", i["created"]),
    ], i, output)  # fmt: skip


@app.command("build")
def build(
    ctx: typer.Context,
    image: Image,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return when it is accepted.")] = False,
) -> None:
    """Build an image of the catalogue now, rather than when it is first used.

    Examples:
      paddock image build debian-12
    """
    api = api_of(ctx)
    thing = lookup.find(api, "images", image)
    action = api.post(f"/x/v1/images/{thing['id']}/build")["action"]
    if no_wait:
        stdout().print(f"image {thing['name']}: accepted; `paddock image list` shows how far it is")
        return
    try:
        job = _follow(api, thing, action, "built")
    except KeyboardInterrupt:
        say(f"stopped waiting; image {thing['name']} goes on", "`paddock image list` shows how far it is")
        raise typer.Exit(130) from None
    _tell(job, "built")


@app.command("import")
def import_image(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A disk: qcow2 or raw.", show_default=False)],
    name: Annotated[str, typer.Option("-n", "--name", help="What it will be called.", show_default=False)],
    sha256: Annotated[str, typer.Option(help="What the file's SHA-256 must be.", show_default=False)] = "",
    description: Annotated[str, typer.Option(help="For people.")] = "",
    os_flavor: Annotated[str, typer.Option(help="debian, ubuntu, fedora, ...")] = "unknown",
    os_version: Annotated[str, typer.Option(help="Such as 12.")] = "",
    user: Annotated[str, typer.Option(help="Who logs in.")] = "root",
    cloud_init: Annotated[bool, typer.Option(help="Whether it has cloud-init.")] = True,
) -> None:
    """Make an image from a disk file of this machine.

    Examples:
      paddock image import debian-12.qcow2 --name my-debian --user debian
      paddock image import disk.raw --name old --no-cloud-init --sha256 9f86d081884c7d65...
    """
    size = _size(file)
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise Invalid(f"{sha256!r} is no SHA-256: that has 64 hex digits", field="sha256")
    api = api_of(ctx)
    body = {
        "name": name, "description": description or name, "os_flavor": os_flavor, "os_version": os_version or None,
        "default_user": user, "cloud_init": cloud_init, "size": size, "sha256": sha256.lower() or None,
    }  # fmt: skip
    image: Json = api.post("/x/v1/images", {k: v for k, v in body.items() if v is not None})["image"]
    try:
        answer = _upload(api, image, file, size, sha256.lower())
        job = _follow(api, answer.get("image") or image, answer["action"], "imported")
    except (PaddockError, KeyboardInterrupt):
        _forget(api, image)
        raise
    if job.problem:
        _forget(api, image)
    _tell(job, "imported")


@app.command("delete")
def delete(
    ctx: typer.Context,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Names or ids.", show_default=False)],
) -> None:
    """Delete images. Servers made from them keep running.

    Examples:
      paddock image delete my-debian
    """
    api = api_of(ctx)
    for image in [lookup.find(api, "images", ref) for ref in images]:
        api.delete(f"/v1/images/{image['id']}")
        stdout().print(f"image {image['name']} is deleted")


def _follow(api: Api, image: Json, action: Json, done: str) -> follow.Job:
    job = follow.Job(str(image["name"]), action, image, collection="images")
    follow.follow(api, [job], progress.view(f"Waiting until image {job.label} is {done}"), BUILD)
    return job


def _tell(job: follow.Job, done: str) -> None:
    if job.problem:
        say(f"image {job.label}: {job.problem}", job.hint)
        raise typer.Exit(1)
    stdout().print(f"image {job.label} is {done}; use it: paddock launch {job.label}")


def _size(file: Path) -> int:
    try:
        status = file.stat()
        readable = os.access(file, os.R_OK)
    except OSError as e:
        raise Invalid(f"{file} can't be read: {e.strerror}", field="file") from e
    if not stat.S_ISREG(status.st_mode):
        raise Invalid(f"{file} is not a regular file", field="file")
    if not readable:
        raise Invalid(f"{file} can't be read: permission denied", field="file")
    if not status.st_size:
        raise Invalid(f"{file} is empty", field="file")
    return status.st_size


def _upload(api: Api, image: Json, file: Path, size: int, sha256: str) -> Json:
    """Send the file's bytes, counted; a wrong checksum is found while we read, before the end is sent."""
    bar = Progress(
        TextColumn("Uploading {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(), console=stderr(), disable=not stderr().is_terminal,
    )  # fmt: skip
    if bar.disable:
        stderr().print(f"uploading {file.name}, {size} bytes")
    with bar:
        task = bar.add_task(file.name, total=size)
        chunks = _chunks(file, size, sha256, lambda count: bar.advance(task, count))
        return api.upload(f"/x/v1/images/{image['id']}/content", chunks, size)


def _chunks(file: Path, size: int, sha256: str, count: Callable[[int], None]) -> Iterator[bytes]:
    digest, left, held = hashlib.sha256(), size, b""
    with file.open("rb") as source:
        while left and (chunk := source.read(min(CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
            if held:
                yield held
            held = chunk
            count(len(chunk))
    if left:
        raise Invalid(f"{file} became shorter while it was read", field="file")
    if sha256 and digest.hexdigest() != sha256:
        raise Invalid(f"{file} has SHA-256 {digest.hexdigest()}, not {sha256}", field="sha256")
    yield held


def _forget(api: Api, image: Json) -> None:
    """Leave nothing of an upload that failed; it may be gone already."""
    try:
        api.delete(f"/v1/images/{image['id']}")
    except PaddockError as error:
        say(f"image {image['name']} is left over: {error.message}", f"paddock image delete {image['name']}")
