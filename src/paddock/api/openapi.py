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

BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
RECEIVED = {
    "type": "object",
    "required": ["received", "state"],
    "properties": {
        "received": {"type": "integer"},
        "state": {"type": "string"},
        "sha256": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "What the whole is to have."},
    },
}
OFFSET = {
    "in": "query",
    "name": "offset",
    "description": "The byte that the body begins at; all the rest follows.",
    "schema": {"type": "integer", "minimum": 0},
}
FILE = {
    "in": "query",
    "name": "file",
    "description": "What of it: its disk without this, or the kernel or initrd that was announced.",
    "schema": {"type": "string", "enum": ["disk", "kernel", "initrd"]},
}
Answers = dict[str, tuple[str, dict[str, Any]]]


def _whole(kind: str, schema: str) -> dict[str, Any]:
    """What is answered to an upload that is whole."""
    known = {
        kind: {"$ref": f"#/components/schemas/{schema}"},
        "action": {"$ref": "#/components/schemas/ActionReply"},
        "received": {"type": "integer"},
    }
    return {"type": "object", "required": list(known), "properties": known}


def _content(kind: str, schema: str) -> dict[str, Answers]:
    """The answers to GET and PUT of an upload."""
    here = ("How many bytes are here", RECEIVED)
    return {"GET": {"200": here}, "PUT": {"200": here, "202": ("All of it is here", _whole(kind, schema))}}


COPIED = {
    "type": "object",
    "required": ["path", "size"],
    "properties": {"path": {"type": "string"}, "size": {"type": "integer"}},
}


def _query(name: str, about: str, required: bool = False) -> dict[str, Any]:
    return {"in": "query", "name": name, "description": about, "required": required, "schema": {"type": "string"}}


PARAMETERS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "image_content": {"GET": [FILE], "PUT": [FILE, OFFSET]},
    "iso_content": {"PUT": [OFFSET]},
    "guest_file": {
        "GET": [_query("path", "Of the guest, absolute.", True), _query("tar", "1: a directory too, as a tar.")],
        "PUT": [
            _query("path", "Of the guest, absolute. A directory takes it under its `name`.", True),
            _query("name", "Its name, where `path` is a directory."),
            _query("mode", "Octal, of a file; 0644 without it."),
            _query("tar", "1: the body is a tar of a directory."),
            _query("replace", "1: a directory takes the place of what is there."),
        ],
    },
}
BODIES = {
    "guest_file": BYTES,
    "run_in_guest": {"application/json": {"schema": Exec.model_json_schema()}},
    "image_content": BYTES,
    "iso_content": BYTES,
}
ANSWERS: dict[str, dict[str, Answers]] = {
    "guest_file": {"GET": {"200": ("The file", {})}, "PUT": {"201": ("It is there", COPIED)}},
    "run_in_guest": {"POST": {"200": ("OK", GuestResult.model_json_schema())}},
    "image_content": _content("image", "ImageReply"),
    "iso_content": _content("iso", "IsoReply"),
}


def described() -> dict[str, Any]:
    """The whole of it, with what Starlette serves."""
    schema: dict[str, Any] = json.loads(json.dumps(api.get_openapi_schema(path_prefix="")))
    schema["openapi"] = "3.1.0"
    for route in app.routes:
        if isinstance(route, Route):
            _add(schema, route)
    _describe_errors(schema)
    return schema


def _describe_errors(schema: dict[str, Any]) -> None:
    """Every operation may be refused, in one shape."""
    shape = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorReply"}}}
    for methods in schema["paths"].values():
        for operation in methods.values():
            operation["responses"] |= {
                "4XX": {"description": "Refused", "content": shape},
                "5XX": {"description": "Failed", "content": shape},
            }


def text() -> str:
    """As it is committed: sorted, so that a change of code is a small change here."""
    return json.dumps(described(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _json(content: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": content}}


def _add(schema: dict[str, Any], route: Route) -> None:
    name, path = route.endpoint.__name__, route.path.replace(":int", "")
    for method, answers in ANSWERS[name].items():
        said: dict[str, Any] = {
            "operationId": f"paddock_api_streams_{name}_{method.lower()}",
            "summary": f"{name.replace('_', ' ').title()}",
            "description": route.endpoint.__doc__,
            "tags": ["x: streams"],
            "parameters": [{"in": "path", "name": "id", "required": True, "schema": {"type": "integer"}}],
            "responses": {
                status: {"description": about, "content": _json(content) if content else BYTES}
                for status, (about, content) in answers.items()
            },
            "security": [{"Bearer": []}],
        }
        if method != "GET":
            said["requestBody"] = {"required": True, "content": BODIES[name]}
        said["parameters"] += PARAMETERS.get(name, {}).get(method, [])
        schema["paths"].setdefault(path, {})[method.lower()] = said


if __name__ == "__main__":
    sys.stdout.write(text())
