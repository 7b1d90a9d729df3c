"""Lists: pages, order, filters by name and by label, as API clients expect them; and how they are described."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.db.models import Model, QuerySet, Value
from django.db.models.functions import Lower
from django.db.models.lookups import Exact
from django.http import HttpRequest

from paddock.api.errors import invalid, missing
from paddock.api.labels import labels_match
from paddock.api.v1.common import Reply

NAMED = ("id", "name")  # by what things can be sorted that are no table
DEFAULT_PER_PAGE, MAX_PER_PAGE = 25, 50
MAX_ID = 2**53  # ids that every client's JSON can hold


class Pagination(Reply):
    """Exactly these keys: clients refuse more."""

    page: int
    per_page: int
    previous_page: int | None
    next_page: int | None
    last_page: int | None
    total_entries: int | None


class Meta(Reply):
    """What a list says of itself."""

    pagination: Pagination


def page(request: HttpRequest, rows: "QuerySet[Any]", sortable: dict[str, str]) -> tuple[list[Any], Meta]:
    """One page of the rows, filtered and sorted as the query says. `sortable` maps API names to columns."""
    rows = _sorted(request, _filtered(request, rows), sortable)
    meta = _meta(request, rows.order_by().count())
    return list(rows[_slice(meta)]), meta


def page_of(request: HttpRequest, things: Iterable[Any], sortable: Iterable[str] = NAMED) -> tuple[Sequence[Any], Meta]:
    """One page of what is no table: things with a name and an id."""
    wanted = query(request, "name")
    found = [t for t in things if wanted in (None, t.name)]
    for field, down in reversed(order_of(request, sortable)):
        found.sort(key=lambda thing: getattr(thing, field), reverse=down)  # used at once
    meta = _meta(request, len(found))
    return found[_slice(meta)], meta


def _slice(meta: Meta) -> slice:
    at = meta.pagination
    return slice((at.page - 1) * at.per_page, at.page * at.per_page)


def _meta(request: HttpRequest, total: int) -> Meta:
    number, size = _number(request, "page", 1, 10**9), _number(request, "per_page", DEFAULT_PER_PAGE, MAX_PER_PAGE)
    last = max(1, -(-total // size))
    return Meta(
        pagination=Pagination(
            page=number,
            per_page=size,
            previous_page=number - 1 if number > 1 else None,
            next_page=number + 1 if number < last else None,
            last_page=last,
            total_entries=total,
        )
    )


def _number(request: HttpRequest, name: str, default: int, most: int) -> int:
    given = query(request, name)
    if not given:
        return default
    number = as_id(given)
    if number is None:
        raise invalid(name, "must be a positive integer")
    return min(number, most)


def as_id(given: int | str) -> int | None:
    """A positive integer that can be an id, or None."""
    text = str(given)
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 16 else 0
    return number if 0 < number < MAX_ID else None


def query(request: HttpRequest, name: str) -> str | None:
    """A parameter of the query; of several, the last."""
    given = many(request, name)
    return given[-1] if given else None


def flag(request: HttpRequest, name: str, *, default: bool = False) -> bool:
    """A yes or no of the query. Raises ApiError for anything else than true or false."""
    given = many(request, name, ("true", "false", "True", "False", ""))  # Python's clients write them its way
    return given[-1].lower() == "true" if given and given[-1] else default


def many(request: HttpRequest, name: str, among: Iterable[str] = ()) -> list[str]:
    """All values of a repeated parameter. Raises ApiError for one that is not `among` those known (if any are)."""
    given, known = request.GET.getlist(name), list(among)
    if any("\0" in value for value in given):
        raise invalid(name, "must not hold a zero character")
    if wrong := [value for value in given if known and value not in known]:
        raise invalid(name, f"must be one of {', '.join(known)}, not '{wrong[0]}'")
    return given


def _filtered(request: HttpRequest, rows: "QuerySet[Any]") -> "QuerySet[Any]":
    columns = {field.name for field in rows.model._meta.get_fields()}
    if "name" in columns and (name := query(request, "name")) is not None:
        rows = rows.filter(Exact(Lower("name"), Lower(Value(name))), name=name)  # by the index of unique names
    if "labels" in columns and (selector := query(request, "label_selector")):
        rows = rows.filter(labels_match(selector))
    return rows


def _sorted(request: HttpRequest, rows: "QuerySet[Any]", sortable: dict[str, str]) -> "QuerySet[Any]":
    order = [("-" if down else "") + sortable[field] for field, down in order_of(request, sortable)]
    return rows.order_by(*order, "id")  # by id at last, so that no row is on two pages


def order_of(request: HttpRequest, sortable: Iterable[str]) -> list[tuple[str, bool]]:
    """The fields to sort by, and whether each goes down. Raises ApiError for one that is not among the sortable."""
    known, order = list(sortable), []
    for given in many(request, "sort"):
        field, _, direction = given.partition(":")
        if field not in known or given.endswith(":") or direction not in ("", "asc", "desc"):
            raise invalid("sort", f"must be one of {', '.join(known)}, with :asc or :desc, not '{given}'")
        order.append((field, direction == "desc"))
    return order


def get(rows: "QuerySet[Any]", what: str, id: int) -> Any:
    """The row of that id among those the caller may see."""
    found: Model | None = rows.filter(pk=id).first() if 0 < id < MAX_ID else None
    if found is None:
        raise missing(f"{what} with ID '{id}'")
    return found


def by_id_or_name(rows: "QuerySet[Any]", wanted: int | str) -> Any:
    """The row of that id, else that of that name, else None."""
    number = as_id(wanted)
    by_id = rows.filter(pk=number).first() if number else None
    return by_id or rows.filter(name=str(wanted)).first()


def described(sortable: Iterable[str] = (), *texts: str, **choices: Iterable[str]) -> dict[str, Any]:
    """What the query of a list may hold, for the API's own description: pages, order, texts, and repeated choices."""
    orders = [f"{field}{way}" for field in sortable for way in ("", ":asc", ":desc")]
    parameters = [
        _parameter("page", {"type": "integer", "minimum": 1, "default": 1}),
        _parameter("per_page", {"type": "integer", "minimum": 1, "default": DEFAULT_PER_PAGE}),
        *(_parameter(name, {"type": "string"}) for name in texts),
    ]
    for name, among in {"sort": orders, **choices}.items():
        if given := list(among):
            parameters.append(_parameter(name, {"type": "array", "items": {"type": "string", "enum": given}}))
    return {"parameters": parameters}


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"in": "query", "name": name, "required": False, "schema": schema}
