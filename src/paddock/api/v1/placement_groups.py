"""Placement groups: servers that shall not share a node."""

from collections.abc import Sequence
from typing import Any, Literal

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from ninja import Router, Status

from paddock.api.auth import project
from paddock.api.errors import uniqueness
from paddock.api.paging import Meta, described, get, many, page
from paddock.api.v1.common import Body, Labels, Reply, Time, Title
from paddock.cloud.models import PlacementGroup, Server

router = Router(tags=["placement groups"])
SORTABLE = {"id": "id", "name": "name", "created": "created"}
TYPES = ("spread",)


class PlacementGroupReply(Reply):
    """A placement group."""

    id: int
    name: str
    labels: dict[str, str]
    type: str
    created: Time
    servers: list[int]


class OnePlacementGroup(Reply):
    placement_group: PlacementGroupReply


class CreatedPlacementGroup(OnePlacementGroup):
    """It is there at once: there is no action to wait for."""

    action: None = None


class ManyPlacementGroups(Reply):
    placement_groups: list[PlacementGroupReply]
    meta: Meta


class CreatePlacementGroup(Body):
    name: Title
    type: Literal["spread"]
    labels: Labels = {}


class ChangePlacementGroup(Body):
    name: Title | None = None
    labels: Labels | None = None


def shown_all(groups: Sequence[PlacementGroup]) -> list[PlacementGroupReply]:
    """Groups as they go out, with who is in them: one query, or none where there are no groups."""
    members: dict[int | None, list[int]] = {}
    inside = Server.objects.filter(placement_group_id__in=[group.pk for group in groups]).order_by("id")
    for group_id, server_id in inside.values_list("placement_group_id", "id"):
        members.setdefault(group_id, []).append(server_id)
    return [_shown(group, members.get(group.pk, [])) for group in groups]


def _shown(group: PlacementGroup, servers: list[int]) -> PlacementGroupReply:
    return PlacementGroupReply(
        id=group.pk, name=group.name, labels=group.labels, type=group.type, created=group.created, servers=servers
    )


def visible(request: HttpRequest) -> "QuerySet[PlacementGroup]":
    """The project's placement groups."""
    return PlacementGroup.objects.filter(project=project(request))


def _one(group: PlacementGroup) -> OnePlacementGroup:
    return OnePlacementGroup(placement_group=shown_all([group])[0])


QUERY = described(SORTABLE, "name", "label_selector", type=TYPES)


@router.get("/placement_groups", response=ManyPlacementGroups, openapi_extra=QUERY)
def list_placement_groups(request: HttpRequest) -> ManyPlacementGroups:
    """The project's placement groups."""
    rows = visible(request)
    if kinds := many(request, "type", TYPES):
        rows = rows.filter(type__in=kinds)
    found, meta = page(request, rows, SORTABLE)
    return ManyPlacementGroups(placement_groups=shown_all(found), meta=meta)


@router.post("/placement_groups", response={201: CreatedPlacementGroup})
def create_placement_group(request: HttpRequest, body: CreatePlacementGroup) -> Status[CreatedPlacementGroup]:
    """Make a group, empty at first."""
    group = PlacementGroup(project=project(request), name=body.name, type=body.type, labels=body.labels)
    try:
        with transaction.atomic():
            group.save()
    except IntegrityError as e:
        raise uniqueness("name") from e
    group.refresh_from_db()
    return Status(201, CreatedPlacementGroup(placement_group=_shown(group, [])))


@router.get("/placement_groups/{int:id}", response=OnePlacementGroup)
def show_placement_group(request: HttpRequest, id: int) -> OnePlacementGroup:
    """One placement group."""
    return _one(get(visible(request), "placement group", id))


@router.put("/placement_groups/{int:id}", response=OnePlacementGroup)
def change_placement_group(request: HttpRequest, id: int, body: ChangePlacementGroup) -> OnePlacementGroup:
    """Rename or relabel a group."""
    group: PlacementGroup = get(visible(request), "placement group", id)
    changes: dict[str, Any] = body.model_dump(exclude_unset=True)
    try:
        with transaction.atomic():
            if changes:
                PlacementGroup.objects.filter(pk=group.pk).update(**changes)
    except IntegrityError as e:
        raise uniqueness("name") from e
    return _one(get(visible(request), "placement group", id))


@router.delete("/placement_groups/{int:id}", response={204: None})
def delete_placement_group(request: HttpRequest, id: int) -> HttpResponse:
    """Delete a group. Its servers stay where they are, and belong to none."""
    group: PlacementGroup = get(visible(request), "placement group", id)
    group.delete()
    return HttpResponse(status=204)
