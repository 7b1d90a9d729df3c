"""What a request about a server names, as rows: plan, image, ISO, group, volumes. Others' things are not there."""

from django.db.models import F
from django.http import HttpRequest

from paddock.api.auth import check_rights, project
from paddock.api.errors import invalid
from paddock.api.paging import by_id_or_name
from paddock.api.v1 import images, isos, placement_groups, server_types
from paddock.cloud.flows import origin
from paddock.cloud.models import Image, Node, PlacementGroup, ServerType, Token, Volume
from paddock.machine.spec import GIB, UEFI_FROM_MIB

MAX_NAMED = 20  # names that an error lists


def plan_of(wanted: int | str) -> ServerType:
    """The server type of that id or name, also one that is over. Raises ApiError."""
    found: ServerType | None = by_id_or_name(ServerType.objects.all(), wanted)
    if found is None:
        names = ", ".join(ServerType.objects.order_by("id").values_list("name", flat=True)[:MAX_NAMED])
        raise invalid("server_type", f"there is no server type '{wanted}'; there are {names}")
    return found


def new_plan_of(wanted: int | str) -> ServerType:
    """The server type of that id or name, for a new server. Raises ApiError."""
    plan = plan_of(wanted)
    if server_types.is_over(plan):
        raise invalid("server_type", f"server type {plan.name} is deprecated: no new servers are made of it")
    return plan


def image_of(request: HttpRequest, wanted: int | str) -> Image:
    """The image of that id or name, if it can be used; a project's own comes first. Raises ApiError."""
    visible = images.visible(request)
    found: Image | None = by_id_or_name(visible.order_by(F("project").asc(nulls_last=True)), wanted)
    if found is None:
        if (entry := origin.catalogue().find(str(wanted))) and entry.refused:
            raise invalid("image", f"image '{entry.name}' is refused: {entry.refused}")
        names = visible.exclude(name="").order_by("id").values_list("name", flat=True)[:MAX_NAMED]
        raise invalid("image", f"there is no image '{wanted}'; there are {', '.join(names)}")
    if found.project_id is not None and found.state != "ready":
        why = found.problem or found.doing or "nothing was uploaded"
        raise invalid("image", f"image '{found.name or found.pk}' can't be used yet: {why}")
    return found


def image_for(request: HttpRequest, wanted: int | str | None, iso: int | str | None) -> Image:
    """The image of a new server: an empty disk where there is only an ISO. Raises ApiError."""
    if wanted is not None:
        return image_of(request, wanted)
    if iso is None:
        raise invalid("image", "is required, unless there is x_iso to install from")
    return Image.objects.get(type="blank", project=None)


def node_of(request: HttpRequest, wanted: str | None) -> str:
    """The name of the node that shall have a new server, which is an operator's to say; empty: any. Raises ApiError."""
    if wanted is None:
        return ""
    token: Token = request.auth  # type: ignore[attr-defined]  # set by ninja
    check_rights(token, writes=True, operator=True)
    names = list(Node.objects.order_by("name").values_list("name", flat=True))
    if wanted not in names:
        raise invalid("x_node", f"there is no node '{wanted}'; there are {', '.join(names[:MAX_NAMED]) or 'none'}")
    return wanted


def check_fits(image: Image, plan: ServerType) -> None:
    """Raises ApiError when the image is larger than a plan's disk; one that was never built tells later."""
    if image.manifest and image.made_of.disk_size > plan.disk_gib * GIB:
        needs = -(-image.made_of.disk_size // GIB)
        what = f"image {image.name or image.pk} needs {needs} GB of disk, {plan.name} has {plan.disk_gib}"
        raise invalid("server_type", what)


def check_kernel_args(image: Image, arguments: str) -> None:
    """Raises ApiError when there are any and the image boots a kernel of its own; one that was never built tells
    later."""
    if arguments and image.manifest and not image.made_of.direct_boot:
        what = f"image {image.name or image.pk} boots a kernel of its own: change them inside the server"
        raise invalid("x_kernel_args", what)


def check_firmware(image: Image, plan: ServerType, asked: str | None) -> None:
    """Raises ApiError when a plan has too little memory for UEFI; where an image that is not here yet asks for that, it
    is told later."""
    firmware = asked or (image.made_of.firmware if image.manifest else "")
    if firmware == "uefi" and plan.memory_mib < UEFI_FROM_MIB:
        what = f"to boot by UEFI takes {UEFI_FROM_MIB} MiB of memory, {plan.name} has {plan.memory_mib}"
        raise invalid("server_type", what)


def iso_of(request: HttpRequest, wanted: int | str) -> Image:
    """The ISO of that id or name, if it can be used. Raises ApiError."""
    visible = isos.visible(request)
    found: Image | None = by_id_or_name(visible.order_by(F("project").asc(nulls_last=True)), wanted)
    if found is None:
        raise invalid("iso", f"there is no ISO '{wanted}'")
    if found.state != "ready":
        raise invalid("iso", f"ISO '{found.name}' can't be used yet: {found.problem or found.doing or found.state}")
    return found


def group_of(request: HttpRequest, wanted: int) -> PlacementGroup:
    """The project's placement group of that id. Raises ApiError."""
    group = placement_groups.visible(request).filter(pk=wanted).first() if 0 < wanted < 2**53 else None
    if group is None:
        raise invalid("placement_group", f"there is no placement group '{wanted}'")
    return group


def volumes_of(request: HttpRequest, wanted: list[int]) -> list[Volume]:
    """The project's volumes of those ids, each once. Raises ApiError naming the first that is not there."""
    can_be = [id for id in wanted if 0 < id < 2**53]
    own = Volume.objects.filter(project=project(request), delete_requested=False, pk__in=can_be)
    known = {volume.pk: volume for volume in own}
    for id in wanted:
        if id not in known:
            raise invalid("volumes", f"there is no volume '{id}'")
    return [known[id] for id in dict.fromkeys(wanted)]
