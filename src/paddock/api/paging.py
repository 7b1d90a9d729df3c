"""Lists: pages, order, filters by name and by label, as API clients expect them."""

import re
from typing import Any

from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from ninja import Schema

from paddock.api.errors import ApiError

DEFAULT_PER_PAGE, MAX_PER_PAGE = 25, 50
_TERM = re.compile(
    r"\s*(?:(?P<absent>!)\s*)?(?P<key>[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?)\s*"
    r"(?:(?P<op>==|=|!=)\s*(?P<value>[A-Za-z0-9._-]*)|\s(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?\s*"
)


class Pagination(Schema):
    """Exactly these keys: clients refuse more."""

    page: int
    per_page: int
    previous_page: int | None
    next_page: int | None
    last_page: int | None
    total_entries: int | None


class Meta(Schema):
    """What a list says of itself."""

    pagination: Pagination


def page(request: HttpRequest, rows: "QuerySet[Any]", sortable: dict[str, str]) -> tuple[list[Any], Meta]:
    """One page of the rows, filtered and sorted as the query says. `sortable` maps API names to columns."""
    rows = _sorted(request, _filtered(request, rows), sortable)
    number, size = _number(request, "page", 1, 10**9), _number(request, "per_page", DEFAULT_PER_PAGE, MAX_PER_PAGE)
    total = rows.order_by().count()
    last = max(1, -(-total // size))
    found = list(rows[(number - 1) * size : number * size])
    pagination = Pagination(
        page=number,
        per_page=size,
        previous_page=number - 1 if number > 1 else None,
        next_page=number + 1 if number < last else None,
        last_page=last,
        total_entries=total,
    )
    return found, Meta(pagination=pagination)


def _number(request: HttpRequest, name: str, default: int, most: int) -> int:
    given = request.GET.get(name, "")
    if not given:
        return default
    if not given.isdecimal() or int(given) < 1:
        raise invalid(name, "must be a positive integer")
    return min(int(given), most)


def _filtered(request: HttpRequest, rows: "QuerySet[Any]") -> "QuerySet[Any]":
    if (name := request.GET.get("name")) is not None:
        rows = rows.filter(name=name)
    if selector := request.GET.get("label_selector"):
        rows = rows.filter(labels_match(selector))
    return rows


def _sorted(request: HttpRequest, rows: "QuerySet[Any]", sortable: dict[str, str]) -> "QuerySet[Any]":
    order = []
    for given in request.GET.getlist("sort"):
        field, _, direction = given.partition(":")
        if field not in sortable or direction not in ("", "asc", "desc"):
            raise invalid("sort", f"must be one of {', '.join(sortable)}, with :asc or :desc")
        order.append(("-" if direction == "desc" else "") + sortable[field])
    return rows.order_by(*order or ["id"])


def labels_match(selector: str) -> Q:
    """A label selector (`k=v`, `k!=v`, `k`, `!k`, `k in (a,b)`, `k notin (a,b)`, joined by commas) as a condition."""
    wanted, position = Q(), 0
    while position < len(selector):
        match = _TERM.match(selector, position)
        if match is None or (match.end() < len(selector) and selector[match.end()] != ","):
            raise invalid("label_selector", f"can't be read from character {position + 1} on")
        wanted &= _condition(match)
        position = match.end() + 1
    return wanted


def _condition(match: "re.Match[str]") -> Q:
    key, value = match["key"], match["value"]
    has = Q(labels__has_key=key)
    if match["absent"]:
        return ~has
    if match["set"]:
        values = [v.strip() for v in match["values"].split(",")]
        among = Q(labels__contains={key: values[0]})
        for one in values[1:]:
            among |= Q(labels__contains={key: one})
        return among if match["set"] == "in" else ~(has & among)
    if match["op"] in ("=", "=="):
        return Q(labels__contains={key: value})
    if match["op"] == "!=":
        return ~Q(labels__contains={key: value})
    return has


def invalid(field: str, message: str) -> ApiError:
    """The error of a wrong field."""
    return ApiError(
        422,
        "invalid_input",
        f"invalid input in field '{field}': {message}",
        {"fields": [{"name": field, "messages": [message]}]},
    )


def missing(what: str) -> ApiError:
    """The error of a thing that is not there, or is somebody else's."""
    return ApiError(404, "not_found", f"{what} not found")


def uniqueness(field: str) -> ApiError:
    """The error of a name, or another field, that is taken."""
    return ApiError(409, "uniqueness_error", f"{field} is already used", {"fields": [{"name": field}]})


def get(rows: "QuerySet[Any]", what: str, id: int) -> Any:
    """The row of that id among those the caller may see."""
    found: Model | None = rows.filter(pk=id).first() if 0 < id < 2**53 else None
    if found is None:
        raise missing(f"{what} with ID '{id}'")
    return found
