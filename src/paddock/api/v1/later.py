"""Families of resources that come later: their routes exist, list nothing, know no id, and refuse to make anything.

Clients ask for all of them in one go ("list everything") and give up at the first that is not there.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from ninja import Router
from pydantic import create_model

from paddock.api.errors import ApiError, missing
from paddock.api.labels import labels_match
from paddock.api.paging import Meta, described, many, page_of, query
from paddock.api.v1.actions import SORTABLE as ACTIONS_SORTABLE
from paddock.api.v1.actions import STATES, ManyActions
from paddock.api.v1.common import ErrorReply, Reply

router = Router(tags=["later"])
SORTABLE = ("id", "name", "created")
NOT_THERE = {404: ErrorReply}
NETWORKS = "nodes have no networks of their own yet: servers are reached through a port of their node, shown as x_ssh"


@dataclass(frozen=True)
class Family:
    """Resources that there are none of: what one is called, why, what can be asked of one, and what lies below it."""

    one: str
    why: str
    commands: tuple[str, ...] | None = ()  # None: has no actions at all
    below: tuple[str, ...] = ()  # more routes: "GET /metrics"
    key: str = "{int:id}"
    catalogue: bool = False  # nobody makes or changes these


PROTECT, DNS = "change_protection", "change_dns_ptr"
_ADDRESS = ("assign", "unassign", DNS, PROTECT)
_BALANCE = (
    "add_service", "add_target", "attach_to_network", "change_algorithm", DNS, PROTECT, "change_type", "delete_service",
    "detach_from_network", "disable_public_interface", "enable_public_interface", "remove_target", "update_service",
)  # fmt: skip
_RECORDS = "/rrsets/{rr_name}/{rr_type}"
_RECORD_COMMANDS = ("add_records", PROTECT, "change_ttl", "remove_records", "set_records", "update_records")
_SUBACCOUNT_COMMANDS = ("change_home_directory", "reset_subaccount_password", "update_access_settings")
_BOXES = "Paddock has no storage boxes: use volumes"

FAMILIES = {
    "networks": Family(
        "network",
        NETWORKS,
        ("add_route", "add_subnet", "change_ip_range", PROTECT, "delete_route", "delete_subnet"),
    ),
    "firewalls": Family("firewall", NETWORKS, ("apply_to_resources", "remove_from_resources", "set_rules")),
    "floating_ips": Family("floating IP", NETWORKS, _ADDRESS),
    "primary_ips": Family("primary IP", NETWORKS, _ADDRESS),
    "load_balancers": Family("load balancer", NETWORKS, _BALANCE, ("GET /metrics",)),
    "load_balancer_types": Family("load balancer type", NETWORKS, None, catalogue=True),
    "certificates": Family("certificate", "Paddock has no load balancers that could use one", ("retry",)),
    "zones": Family(
        "zone",
        "Paddock does not serve DNS",
        ("change_primary_nameservers", PROTECT, "change_ttl", "import_zonefile"),
        (
            "GET /zonefile", "GET /rrsets", "POST /rrsets", f"GET {_RECORDS}", f"PUT {_RECORDS}", f"DELETE {_RECORDS}",
            *(f"POST {_RECORDS}/actions/{command}" for command in _RECORD_COMMANDS),
        ),
        key="{id_or_name}",
    ),
    "storage_boxes": Family(
        "storage box",
        _BOXES,
        (
            PROTECT, "change_type", "disable_snapshot_plan", "enable_snapshot_plan", "reset_password",
            "rollback_snapshot", "update_access_settings",
        ),
        (
            "GET /folders",
            *(f"{method} /{part}" for part in ("snapshots", "subaccounts") for method in ("GET", "POST")),
            *(f"{method} /snapshots/{{int:snapshot_id}}" for method in ("GET", "PUT", "DELETE")),
            *(f"{method} /subaccounts/{{int:subaccount_id}}" for method in ("GET", "PUT", "DELETE")),
            *(f"POST /subaccounts/{{int:subaccount_id}}/actions/{command}" for command in _SUBACCOUNT_COMMANDS),
        ),
    ),
    "storage_box_types": Family("storage box type", _BOXES, None, catalogue=True),
}  # fmt: skip


def _empty(name: str) -> type[Reply]:
    """A page of nothing."""
    kind = "No" + name.title().replace("_", "")
    return create_model(kind, __base__=Reply, **{name: (tuple[()], ()), "meta": (Meta, ...)})  # type: ignore[call-overload,no-any-return]  # names are known only here


def _lister(name: str, reply: type[Reply]) -> Callable[[HttpRequest], Reply]:
    def list_none(request: HttpRequest) -> Reply:
        """There are none of these yet."""
        if selector := query(request, "label_selector"):
            labels_match(selector)
        return reply(**{name: (), "meta": page_of(request, (), SORTABLE)[1]})

    return list_none


def _no_actions(request: HttpRequest) -> ManyActions:
    """There are none of these yet, and so nothing was asked of one."""
    many(request, "status", STATES)
    return ManyActions(actions=[], meta=page_of(request, (), ACTIONS_SORTABLE)[1])


def _refuser(family: Family) -> Callable[[HttpRequest], None]:
    def refuse(request: HttpRequest) -> None:
        """Refused: there are none of these yet."""
        raise ApiError(422, "unsupported_error", f"{family.one}s can't be made here: {family.why}")

    return refuse


def _unknown(what: str, path: str) -> Callable[..., None]:
    """A view that knows none of the ids in its path."""
    names = re.findall(r"{(int:)?(\w+)}", path)

    def unknown(request: HttpRequest, **ids: int | str) -> None:
        """There are none of these yet, and so none of this id."""
        raise missing(f"{what} with ID '{ids[names[0][1]]}'")

    kinds = {name: int if number else str for number, name in names}
    keyword = inspect.Parameter.KEYWORD_ONLY
    given = [inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=HttpRequest)]
    given += [inspect.Parameter(name, keyword, annotation=kind) for name, kind in kinds.items()]
    unknown.__signature__ = inspect.Signature(given)  # type: ignore[attr-defined]  # ninja reads it
    return unknown


def _below(family: Family) -> list[str]:
    """The routes of one resource, below the list of all."""
    one, found = f"/{family.key}", []
    found += [f"GET {one}"] if family.catalogue else [f"{method} {one}" for method in ("GET", "PUT", "DELETE")]
    if family.commands is not None:
        found += [f"GET {one}/actions", f"GET {one}/actions/{{int:action_id}}"]
        found += [f"POST {one}/actions/{command}" for command in family.commands]
    return found + [f"{method} {one}{path}" for method, _, path in (b.partition(" ") for b in family.below)]


def _add(method: str, path: str, view: Callable[..., Any], **more: Any) -> None:
    named = re.sub(r"\W+", "_", f"{method.lower()}{path.replace('int:', '')}").strip("_")
    router.add_api_operation(path, [method], view, operation_id=named, **more)


def _serve(name: str, family: Family) -> None:
    reply, listed = _empty(name), described(SORTABLE, "name", "label_selector")
    _add("GET", f"/{name}", _lister(name, reply), response=reply, openapi_extra=listed)
    if not family.catalogue:
        _add("POST", f"/{name}", _refuser(family), response={422: ErrorReply})
    if family.commands is not None:
        asked = described(ACTIONS_SORTABLE, "id", status=STATES)
        _add("GET", f"/{name}/actions", _no_actions, response=ManyActions, openapi_extra=asked)
        _add("GET", f"/{name}/actions/{{int:id}}", _unknown("action", "{int:id}"), response=NOT_THERE)
    for method, _, path in (route.partition(" ") for route in _below(family)):
        _add(method, f"/{name}{path}", _unknown(family.one, path), response=NOT_THERE)


for _name, _family in FAMILIES.items():
    _serve(_name, _family)
