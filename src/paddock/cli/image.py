"""`paddock image`: what servers are made from."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from paddock.cli import arrival, catalogue, follow, image_warm, lookup, progress
from paddock.cli.client import Json
from paddock.cli.complete import names_of
from paddock.cli.fail import say
from paddock.cli.output import (
    Column,
    Format,
    Output,
    Quiet,
    age,
    clean,
    gigabytes,
    show_one,
    show_rows,
)
from paddock.cli.session import api_of
from paddock.cli.wait import Changes, NewName, NoWait, changed_labels, delete_each, tell

BUILD = 3600.0  # seconds
KERNEL_ARGS = "root=/dev/sda console=ttyS0"  # of an image with a kernel of its own, whose disk is one file system
Image = Annotated[
    str,
    typer.Argument(metavar="IMAGE", help="Name or id.", show_default=False, autocompletion=names_of("images")),
]

app = typer.Typer(no_args_is_help=True, help="Images: what servers are made from.")
catalogue.register(app)
image_warm.register(app)


def label_of(image: Json) -> str:
    """Its name; of a snapshot that has none, its id."""
    return str(image.get("name") or image["id"])


def _state(image: Json) -> str:
    """Of the catalogue one that is absent is built when somebody wants it; one of a project waits for its upload."""
    state = str(image.get("x_state") or image["status"])
    if state == "building":
        return f"building {image.get('x_progress') or 0} %"
    return "incomplete" if state == "absent" and image.get("status") == "creating" else state


def _only_published(image: Json) -> bool:
    """Nothing of it is here: its publisher has it."""
    return bool(image.get("x_published")) and image.get("x_state") == "absent"


def _disk(image: Json) -> str:
    return gigabytes(image["disk_size"]) if image.get("disk_size") else "-"


COLUMNS = (
    Column("NAME", lambda i: i["name"], least=14),
    Column("ID", lambda i: i["id"], right=True),
    Column("STATE", _state),
    Column("DISK", _disk, right=True),
    Column("SIZE", lambda i: gigabytes(i["image_size"]) if i.get("image_size") else "-", right=True),
    Column("LOGIN", lambda i: i.get("x_default_user")),
    Column("AGE", lambda i: age(i["created"]), drop=3, right=True),
    Column("USED", lambda i: catalogue.last_use(i.get("x_used_at")), drop=1, right=True),
    Column("DESCRIPTION", lambda i: i.get("description"), drop=2, least=20),
)


@app.command("list")
def list_images(
    ctx: typer.Context,
    type: Annotated[
        Literal["system", "snapshot"] | None, typer.Option(help="Only the catalogue's, or only yours.")
    ] = None,
    selector: Annotated[str, typer.Option("-l", "--selector", help="Only with these labels: env=prod.")] = "",
    available: Annotated[
        bool, typer.Option("--available", help="The whole catalogue: all that can be built or fetched.")
    ] = False,
    output: Output = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Show the images. One that is absent is built when it is first used; --available shows what can be fetched.

    Examples:
      paddock image list
      paddock image list --available
      paddock image list --type snapshot
    """
    if available:
        catalogue.available(api_of(ctx), output, quiet=quiet)
        return
    asked = {"type": type or "", "label_selector": selector, "sort": "id:asc", "include_deprecated": "true"}
    rows = api_of(ctx).list("/v1/images", {k: v for k, v in asked.items() if v})
    show_rows([i for i in rows if not _only_published(i)], COLUMNS, output, quiet=quiet)


@app.command("show")
def show_image(ctx: typer.Context, image: Image, output: Output = Format.TABLE) -> None:
    """Show everything about one image.

    Examples:
      paddock image show debian-12
    """
    i = lookup.find(api_of(ctx), "images", image)
    show_one([
        ("Name", i["name"]), ("ID", i["id"]), ("Type", i["type"]), ("Description", i.get("description")),
        ("State", _state(i)),
        ("Doing", i.get("x_doing")), ("Problem", i.get("x_problem")), ("System", i.get("os_flavor")),
        ("Version", i.get("os_version")), ("Login", i.get("x_default_user")), ("cloud-init", i.get("x_cloud_init")),
        ("Removed", "; ".join(i.get("x_cleaned") or ())), ("Shared", "; ".join(i.get("x_shared") or ())),
        ("Firmware", i.get("x_firmware")), ("Kernel arguments", i.get("x_cmdline")),
        ("Disk", _disk(i)), ("Size", gigabytes(i["image_size"]) if i.get("image_size") else None),
        ("Made of", (i.get("created_from") or {}).get("name")), ("Content", i.get("x_sha256")),
        ("Published at", i.get("x_published")), ("Verified", i.get("x_verified")),
        ("Protected", (i.get("protection") or {}).get("delete")), ("Labels", i.get("labels")),
        ("Created", i["created"]), ("Last used", catalogue.last_use(i["x_used_at"]) if i.get("x_used_at") else None),
    ], i, output)  # fmt: skip


@app.command("build")
def build(
    ctx: typer.Context,
    image: Image,
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Build an image of the catalogue now, rather than when it is first used.

    Examples:
      paddock image build debian-12
    """
    api = api_of(ctx)
    thing = lookup.find(api, "images", image)
    action = api.post(f"/x/v1/images/{thing['id']}/build")["action"]
    if no_wait:
        tell(action, f"image {thing['name']}: accepted; `paddock image list` shows how far it is", output)
        return
    job = follow.Job(str(thing["name"]), action, thing, collection="images")
    try:
        follow.follow(api, [job], progress.view(f"Waiting until image {job.label} is built"), BUILD)
    except KeyboardInterrupt:
        say(f"stopped waiting; image {thing['name']} goes on", "`paddock image list` shows how far it is")
        raise typer.Exit(130) from None
    if job.problem:
        say(f"image {job.label}: {job.problem}", job.hint)
        raise typer.Exit(1)
    tell(job.action, f"image {job.label} is built; use it: paddock launch {job.label}", output)


@app.command("import")
def import_image(
    ctx: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A disk: qcow2, raw, VMDK, VHDX, VHD, VDI; with --disk: a name.",
            show_default=False,
        ),
    ] = "",
    disk: Annotated[str, typer.Option(help="The disk, where FILE is a name.", show_default=False)] = "",
    kernel: Annotated[
        Path | None, typer.Option(help="A kernel of its own, which QEMU loads.", show_default=False)
    ] = None,
    initrd: Annotated[Path | None, typer.Option(help="The kernel's initrd.", show_default=False)] = None,
    kernel_args: Annotated[
        str | None, typer.Option(help=f"For the kernel; else '{KERNEL_ARGS}'.", show_default=False)
    ] = None,
    url: Annotated[str, typer.Option(help="Fetch it from there: the cloud does.", show_default=False)] = "",
    name: Annotated[str, typer.Option("-n", "--name", help="Else made of the file's.", show_default=False)] = "",
    sha256: Annotated[str, typer.Option(help="What its SHA-256 must be.", show_default=False)] = "",
    description: Annotated[str, typer.Option("-d", "--description", help="For people.", show_default=False)] = "",
    os_flavor: Annotated[str, typer.Option(help="debian, ubuntu, fedora, ...")] = "unknown",
    os_version: Annotated[str, typer.Option(help="Such as 12.", show_default=False)] = "",
    user: Annotated[str, typer.Option(help="Who logs in.")] = "root",
    cloud_init: Annotated[bool, typer.Option(help="Whether it has cloud-init.")] = True,
    firmware: Annotated[
        Literal["bios", "uefi"] | None, typer.Option(help="What boots it; else found out.", show_default=False)
    ] = None,
    no_wait: NoWait = False,
    output: Output = Format.TABLE,
) -> None:
    """Make an image of a disk: a file of this machine, or what an address has.

    A disk with a --kernel beside it is started by that, without a boot loader.

    An upload that was cut off, or stopped with Ctrl-C, goes on when you give the same command again.

    Examples:
      paddock image import debian-12.qcow2 --name my-debian --user debian
      paddock image import disk.raw --no-cloud-init
      paddock image import https://example.com/disk.qcow2.xz --sha256 9f86d...
      paddock image import mine --disk root.img --kernel vmlinuz --initrd initrd
    """
    if disk:
        name, file = name or file, disk
    path, address = arrival.place(file, url)
    boot = _own_kernel(path, kernel, initrd, kernel_args)
    name = name or arrival.name_of(path, address)
    given: Json = {"description": description or name, "os_flavor": os_flavor}
    given |= {"x_default_user": user, "x_cloud_init": cloud_init}
    about: Json = {"name": name, "url": address, "os_version": os_version}
    about |= {"firmware": firmware} if firmware else {}
    if boot:
        about["boot"] = {"cmdline": KERNEL_ARGS if kernel_args is None else kernel_args}
        given["x_cmdline"] = about["boot"]["cmdline"]
    about |= {key.removeprefix("x_"): value for key, value in given.items() if key != "x_cmdline"}
    arrival.bring(api_of(ctx), arrival.Wish(arrival.IMAGE, about, given, not no_wait, output, boot), path, sha256)


def _own_kernel(disk: Path | None, kernel: Path | None, initrd: Path | None, arguments: str | None) -> dict[str, Path]:
    """The files of a kernel that comes beside the disk, by name. Raises typer.BadParameter for half of one."""
    if kernel is None:
        if initrd or arguments is not None:
            raise typer.BadParameter("--initrd and --kernel-args need --kernel")
        return {}
    if disk is None:
        raise typer.BadParameter("with --kernel the disk must be a file of this machine")
    return {"kernel": kernel, **({"initrd": initrd} if initrd else {})}


@app.command("rename")
def rename(
    ctx: typer.Context,
    image: Image,
    name: NewName,
    output: Output = Format.TABLE,
) -> None:
    """Give an image of yours another name, or a snapshot its first.

    Examples:
      paddock image rename 17 before-the-upgrade
    """
    api = api_of(ctx)
    thing = lookup.find(api, "images", image)
    changed = api.put(f"/v1/images/{thing['id']}", {"x_name": name})["image"]
    tell(changed, f"image {label_of(thing)} is now {name}", output)


@app.command("set")
def set_image(
    ctx: typer.Context,
    image: Image,
    description: Annotated[str, typer.Option("-d", "--description", help="What it is.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Change the description of an image of yours.

    Examples:
      paddock image set my-debian --description "Debian 12 with our tools"
    """
    api = api_of(ctx)
    thing = lookup.find(api, "images", image)
    changed = api.put(f"/v1/images/{thing['id']}", {"description": description})["image"]
    tell(changed, f"image {label_of(thing)} is now described as: {clean(description)}", output)


@app.command("label")
def label(
    ctx: typer.Context,
    image: Image,
    labels: Changes,
    output: Output = Format.TABLE,
) -> None:
    """Set or remove labels.

    Examples:
      paddock image label my-debian env=prod old-
    """
    api = api_of(ctx)
    thing = lookup.find(api, "images", image)
    changed = api.put(f"/v1/images/{thing['id']}", {"labels": changed_labels(thing["labels"], labels)})["image"]
    tell(changed, f"image {label_of(thing)} is labelled", output)


@app.command("protect")
def protect(
    ctx: typer.Context,
    image: Image,
    off: Annotated[bool, typer.Option("--off", help="Take the protection away.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Protect an image of yours from being deleted.

    Examples:
      paddock image protect my-debian
      paddock image protect my-debian --off
    """
    api = api_of(ctx)
    thing = lookup.find(api, "images", image)
    action = api.post(f"/v1/images/{thing['id']}/actions/change_protection", {"delete": not off})["action"]
    tell(action, f"image {label_of(thing)} {'may be deleted' if off else 'is protected'}", output)


@app.command("delete")
def delete(
    ctx: typer.Context,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Names or ids.", show_default=False)],
    output: Output = Format.TABLE,
) -> None:
    """Delete images. Servers made from them keep running.

    Examples:
      paddock image delete my-debian
    """
    api = api_of(ctx)
    found = [lookup.find(api, "images", ref) for ref in images]
    delete_each(api, [(f"image {label_of(i)}", f"/v1/images/{i['id']}", i) for i in found], output)
