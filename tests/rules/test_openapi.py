"""openapi.json is what the code says, and what it says is well formed."""

import json
import re
import sys
from pathlib import Path

from paddock.api import openapi
from paddock.api.v1.common import Body, Reply
from tests.api.routes import all_routes

ROOT = Path(__file__).parents[2]


def test_no_drift() -> None:
    committed = (ROOT / "openapi.json").read_text(encoding="utf-8")
    assert committed == openapi.text(), "openapi.json drifted: run `python -m paddock.api.openapi > openapi.json`"


def test_every_route_is_described() -> None:
    said = {f"{method.upper()} {path}" for path, methods in openapi.described()["paths"].items() for method in methods}
    assert said == {route for route in all_routes() if not route.startswith("WS ")}


def test_references_lead_somewhere() -> None:
    schema = openapi.described()
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(schema)))
    assert names <= set(schema["components"]["schemas"])


def test_no_two_bodies_have_one_name() -> None:
    """In the description the last of them would take the place of the others."""
    models: dict[str, set[str]] = {}
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("paddock.api."):
            for one in vars(module).values():
                if isinstance(one, type) and issubclass(one, Reply | Body):
                    models.setdefault(one.__name__, set()).add(one.__module__)
    assert {name: sorted(places) for name, places in models.items() if len(places) > 1} == {}
