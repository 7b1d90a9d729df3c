"""docs/api.md says what the routes are, and what of them is refused."""

import os
import re
from pathlib import Path

from paddock.api import operations
from tests.api.routes import all_routes

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_no_drift() -> None:
    if os.environ.get("PADDOCK_WRITE_GOLDEN"):
        PAGE.write_text(operations.text(), encoding="utf-8")
    drifted = "docs/api.md drifted: run `python -m paddock.api.operations > docs/api.md`"
    assert PAGE.read_text(encoding="utf-8") == operations.text(), drifted


def test_every_route_is_on_it_once() -> None:
    said = re.findall(r"^\| `(\w+ /\S+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(said) == len(set(said))
    assert set(said) == {route for route in all_routes() if " /v1/" in route}
