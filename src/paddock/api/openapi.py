"""`python -m paddock.api.openapi > openapi.json`: the description of the API, made from its code."""

import json
import os
import sys
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "paddock.cloud.settings")

import django

django.setup()

from starlette.routing import Route

from paddock.api.streams import Exec, app
from paddock.api.urls import api
from paddock.machine.state import GuestResult

BODIES = {
    "run_in_guest": {"application/json": {"schema": Exec.model_json_schema()}},
    "upload": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}
ANSWERS = {
    "run_in_guest": ("200", {"schema": GuestResult.model_json_schema()}),
    "upload": (
        "202",
        {
            "schema": {
                "type": "object",
                "required": ["image", "action"],
                "properties": {
                    "image": {"$ref": "#/components/schemas/ImageReply"},
                    "action": {"$ref": "#/components/schemas/ActionReply"},
                },
            }
        },
    ),
}


def described() -> dict[str, Any]:
    """The whole of it, with what Starlette serves."""
    schema: dict[str, Any] = json.loads(json.dumps(api.get_openapi_schema(path_prefix="")))
    schema["openapi"] = "3.1.0"
    for route in app.routes:
        if isinstance(route, Route):
            _add(schema, route)
    return schema


def text() -> str:
    """As it is committed: sorted, so that a change of code is a small change here."""
    return json.dumps(described(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _add(schema: dict[str, Any], route: Route) -> None:
    name, path = route.endpoint.__name__, route.path.replace(":int", "")
    status, content = ANSWERS[name]
    for method in route.methods or ():
        schema["paths"].setdefault(path, {})[method.lower()] = {
            "operationId": f"paddock_api_streams_{name}",
            "summary": name.replace("_", " ").title(),
            "description": route.endpoint.__doc__,
            "tags": ["x: streams"],
            "parameters": [{"in": "path", "name": "id", "required": True, "schema": {"type": "integer"}}],
            "requestBody": {"required": True, "content": BODIES[name]},
            "responses": {status: {"description": "OK", "content": {"application/json": content}}},
            "security": [{"Bearer": []}],
        }


if __name__ == "__main__":
    sys.stdout.write(text())
