"""What several resources of /v1 show, and how bodies are read."""

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from paddock.api.errors import invalid
from paddock.api.labels import check_labels

_DATE_TIME = WithJsonSchema({"type": "string", "format": "date-time"})
Time = Annotated[datetime, PlainSerializer(lambda t: t.isoformat(timespec="seconds"), return_type=str), _DATE_TIME]
Moment = Annotated[
    datetime, PlainSerializer(lambda t: t.isoformat(timespec="microseconds"), return_type=str), _DATE_TIME
]


class Reply(BaseModel):
    """What goes out. Pydantic's own base: ninja's is four times slower, for lists of things that are all ours.

    Frozen, with tuples for defaults: pydantic copies what can't be hashed, for each of fifty servers.
    """

    model_config = ConfigDict(frozen=True)


class Problem(Reply):
    """What went wrong: a code for programs, a sentence for people, and more (wrong fields, limits, a hint)."""

    code: str
    message: str
    details: dict[str, Any] | None


class ErrorReply(Reply):
    """Every error's shape."""

    error: Problem


class Body(BaseModel):
    """What comes in: no "yes" for a true, no "1" for a 1; null is the same as left out."""

    model_config = ConfigDict(strict=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, given: Any) -> Any:
        return {k: v for k, v in given.items() if v is not None} if isinstance(given, dict) else given


def _id_or_name(given: Any) -> Any:
    if isinstance(given, bool) or not isinstance(given, int | str) or given == "":
        raise ValueError("must be an id or a name")
    return given


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


IdOrName = Annotated[int | str, BeforeValidator(_id_or_name)]
Line = Annotated[str, AfterValidator(_one_line)]
Labels = Annotated[dict[str, str], AfterValidator(check_labels), Field(max_length=100)]


def _resource_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("must be 1 to 64 of A-Z a-z 0-9 - _ . and begin and end with a letter or a digit")
    return name


_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
ResourceName = Annotated[str, AfterValidator(_resource_name)]
DATACENTER = "local-dc1"
Title = Annotated[Line, Field(min_length=1, max_length=200)]


def check_place(location: int | str | None, datacenter: int | str | None = None) -> None:
    """There is one place; older clients name its datacenter instead. Raises ApiError for any other, and for both."""
    if location is not None and datacenter is not None:
        raise invalid("location", "must not be given together with datacenter")
    if location is not None and str(location) not in (Location().name, str(Location().id)):
        raise invalid("location", f"there is no location '{location}'; there is {Location().name}")
    if datacenter is not None and str(datacenter) not in (DATACENTER, "1"):
        raise invalid("datacenter", f"there is no datacenter '{datacenter}'; there is {DATACENTER}")


class Resource(Reply):
    """A resource that an action is about."""

    id: int
    type: str


class Protection(Reply):
    """Whether it may be deleted."""

    delete: bool = False


class Location(Reply):
    """Where things are. A cloud on one machine has one."""

    id: int = 1
    name: str = "local"
    description: str = "This machine"
    country: str = "ZZ"
    city: str = "here"
    latitude: float = 0.0
    longitude: float = 0.0
    network_zone: str = "local"


class Supported(Reply):
    """Which server types a datacenter has."""

    supported: list[int]
    available: list[int]
    available_for_migration: list[int]


class Datacenter(Reply):
    """The older name for a place in a location."""

    id: int = 1
    name: str = DATACENTER
    description: str = "This machine"
    location: Location = Location()
    server_types: Supported


class Deprecation(Reply):
    """From when on a thing is no longer to be had."""

    announced: Time
    unavailable_after: Time
