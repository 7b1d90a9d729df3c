"""What there is none of yet: lists of nothing, no id that is known, and a refusal that says why."""

from typing import Any

import pytest

from paddock.api.v1.later import FAMILIES
from paddock.cloud.models import Action
from tests.api.caller import Caller

MADE = sorted(name for name, family in FAMILIES.items() if not family.catalogue)
ACTING = sorted(name for name, family in FAMILIES.items() if family.commands is not None)
NOTHING = {"page": 1, "per_page": 25, "previous_page": None, "next_page": None, "last_page": 1, "total_entries": 0}


@pytest.fixture(scope="module")
def ask(_schema: None) -> Caller:
    """A caller who needs no cloud."""
    return Caller()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_list_of_nothing(family: str, ask: Caller) -> None:
    assert ask.ok("GET", f"/v1/{family}?sort=id:asc") == {family: [], "meta": {"pagination": NOTHING}}
    assert ask.ok("GET", f"/v1/{family}?per_page=50&page=2&name=x")["meta"]["pagination"]["next_page"] is None
    error = ask.refused("GET", f"/v1/{family}/{'example.com' if family == 'zones' else 7}", None, 404, "not_found")
    assert error["message"].startswith(FAMILIES[family].one)


@pytest.mark.parametrize("family", MADE)
@pytest.mark.parametrize("body", [{"name": "mine", "type": "ipv4", "ip_range": "10.0.0.0/8"}, None, b"{"])
def test_nothing_is_made(family: str, body: Any, ask: Caller) -> None:
    before = Action.objects.count()
    error = ask.refused("POST", f"/v1/{family}", body, 422, "unsupported_error")
    assert FAMILIES[family].why in error["message"]
    assert Action.objects.count() == before


@pytest.mark.parametrize("family", ACTING)
def test_nothing_was_asked_of_it(family: str, ask: Caller) -> None:
    assert ask.ok("GET", f"/v1/{family}/actions?status=running&sort=started:desc")["actions"] == []
    ask.refused("GET", f"/v1/{family}/actions/7", None, 404, "not_found")
    for command in FAMILIES[family].commands or ():
        ask.refused("POST", f"/v1/{family}/7/actions/{command}", {}, 404, "not_found")
    for method in ("PUT", "DELETE"):
        ask.refused(method, f"/v1/{family}/7", None, 404, "not_found")


def test_what_lies_below_is_not_there_either(ask: Caller) -> None:
    for path in ("load_balancers/7/metrics", "zones/example.com/rrsets/www/A", "zones/example.com/zonefile",
                 "storage_boxes/7/snapshots/1", "storage_boxes/7/folders"):  # fmt: skip
        ask.refused("GET", f"/v1/{path}", None, 404, "not_found")
    error = ask.refused("POST", "/v1/zones/example.com/rrsets", {"name": "www"}, 404, "not_found")
    assert error["message"] == "zone with ID 'example.com' not found"
