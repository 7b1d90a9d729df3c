"""What several resources of /v1 show."""

from datetime import datetime
from typing import Annotated

from ninja import Schema
from pydantic import AfterValidator, PlainSerializer

Time = Annotated[datetime, PlainSerializer(lambda t: t.isoformat(timespec="seconds"), return_type=str)]
LABEL_LIMIT = 63


class Resource(Schema):
    """A resource that an action is about."""

    id: int
    type: str


class Protection(Schema):
    """Whether it may be deleted."""

    delete: bool = False


class Location(Schema):
    """Where things are. A cloud on one machine has one."""

    id: int = 1
    name: str = "local"
    description: str = "This machine"
    country: str = "ZZ"
    city: str = "here"
    latitude: float = 0.0
    longitude: float = 0.0
    network_zone: str = "local"


class Supported(Schema):
    """Which server types a datacenter has."""

    supported: list[int] = []
    available: list[int] = []
    available_for_migration: list[int] = []


class Datacenter(Schema):
    """The older name for a place in a location."""

    id: int = 1
    name: str = "local-dc1"
    description: str = "This machine"
    location: Location = Location()
    server_types: Supported = Supported()


def _check_labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        if not 0 < len(key) <= 2 * LABEL_LIMIT or len(value) > LABEL_LIMIT:
            raise ValueError(f"label {key[:20]!r} is too long")
    return labels


Labels = Annotated[dict[str, str], AfterValidator(_check_labels)]
