"""A description of the API that clients of other clouds are made for, and what it says against an answer of ours.

It is no part of this project: a checkout without a copy beside it validates nothing, and says so (`MISSING`).
Stricter than its schemas: an integer is written as one, a time has a zone, and a field that it does not know must be
one of those that we add on purpose.
"""

import functools
import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import jsonschema

FILE = Path(__file__).parents[2].parent / "shared" / "hcloud" / "openapi.json.gz"
MISSING = "" if FILE.is_file() else f"answers are not validated: there is no description of the API at {FILE}"
OURS = re.compile(r"x_\w+")
FORMATS = jsonschema.FormatChecker(())
CORRELATION_ID = re.compile(r"[0-9a-f]{16,64}")
# Fields of other versions of it than this one: by the path's end.
OTHERS = re.compile(r"\$\.meta|\.locations\[\d+\]\.(available|recommended)|\.datacenter(\..+)?")


@FORMATS.checks("date-time", raises=ValueError)
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def _is_integer(_checker: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_extend: Any = jsonschema.validators.extend  # whose types nobody wrote down
Validator: Any = _extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


@dataclass(frozen=True)
class Answer:
    """What came back. `path` begins after the version: `/servers/42`."""

    method: str
    path: str
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


class Specification:
    """The description, ready to be asked."""

    def __init__(self, described: dict[str, Any]) -> None:
        self._plain: dict[str, Any] = _plain(described)
        self._components = {"components": self._plain["components"]}
        paths = sorted(described["paths"], key=_generality)
        self._operations: list[tuple[re.Pattern[str], str]] = [(_pattern(path), path) for path in paths]
        self._validators: dict[str, Any] = {}

    @classmethod
    @functools.cache
    def load(cls) -> "Specification | None":
        """The copy beside this checkout, if there is one."""
        return None if MISSING else cls(json.loads(gzip.decompress(FILE.read_bytes())))

    def operations(self) -> Iterator[str]:
        """All that it knows: `GET /servers/{id}` and so on."""
        for _, template in self._operations:
            methods = self._plain["paths"][template]
            yield from (f"{m.upper()} {template}" for m in ("get", "post", "put", "delete") if m in methods)

    def template(self, method: str, path: str) -> str | None:
        """The operation's path, such as `/servers/{id}`; None: no such route."""
        for pattern, template in self._operations:
            if pattern.fullmatch(path) and method.lower() in self._plain["paths"][template]:
                return template
        return None

    def violations(self, answer: Answer) -> list[str]:
        """What is wrong with it, each in a line of its own; empty when nothing is."""
        where = f"{answer.method} {answer.path} → {answer.status}"
        found = [*_headers(answer), *self._contents(answer)]
        return [f"{where}: {what}" for what in found]

    def _contents(self, answer: Answer) -> Iterator[str]:
        template = self.template(answer.method, answer.path)
        if template is None:
            known_path = any(pattern.fullmatch(answer.path) for pattern, _ in self._operations)
            if answer.status < 400 and not known_path:
                yield "there is no such route"
            schema: dict[str, Any] | None = {"$ref": "#/components/schemas/error_response"}
        else:
            responses = self._plain["paths"][template][answer.method.lower()]["responses"]
            said = responses.get(str(answer.status)) or responses.get(f"{answer.status // 100}xx")
            if said is None:
                yield f"the status is none of {', '.join(responses)}"
                return
            schema = said.get("content", {}).get("application/json", {}).get("schema")
        yield from self._body(answer, schema)

    def _body(self, answer: Answer, schema: dict[str, Any] | None) -> Iterator[str]:
        if schema is None:
            if answer.body:
                yield f"a body where there is none: {answer.body[:100]!r}"
            return
        try:
            body = json.loads(answer.body)
        except ValueError:
            yield f"no JSON: {answer.body[:100]!r}"
            return
        for error in self._validator(schema).iter_errors(body):
            yield f"{error.json_path}: {error.message[:200]}"
        yield from self._unknown(body, schema, "$")

    def _validator(self, schema: dict[str, Any]) -> Any:
        key = json.dumps(schema, sort_keys=True)
        if key not in self._validators:
            self._validators[key] = Validator({**schema, **self._components}, format_checker=FORMATS)
        return self._validators[key]

    # Fields that it does not know

    def _unknown(self, value: Any, schema: dict[str, Any], where: str) -> Iterator[str]:
        if isinstance(value, list):
            items = self._merged(schema, "items")
            for number, one in enumerate(value):
                yield from self._unknown(one, items, f"{where}[{number}]")
        elif isinstance(value, dict) and (known := self._merged(schema, "properties")):
            for name, inner in value.items():
                if name in known:
                    yield from self._unknown(inner, known[name], f"{where}.{name}")
                elif where.endswith(".pagination") or not (OURS.fullmatch(name) or OTHERS.search(f"{where}.{name}")):
                    yield f"{where}.{name}: not a field that clients know"

    def _merged(self, schema: dict[str, Any], what: str) -> dict[str, Any]:
        """`properties` or `items` of a schema, of what it refers to and of all its alternatives."""
        if "$ref" in schema:
            schema = self._plain["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        merged = dict(schema.get(what) or {})
        for word in ("allOf", "anyOf", "oneOf"):
            for one in schema.get(word, ()):
                merged |= self._merged(one, what)
        return merged


def _headers(answer: Answer) -> Iterator[str]:
    kind = answer.headers.get("content-type", "")
    if answer.body and not kind.startswith("application/json"):
        yield f"Content-Type {kind!r} does not start with application/json"
    if not CORRELATION_ID.fullmatch(answer.headers.get("x-correlation-id", "")):
        yield f"X-Correlation-Id {answer.headers.get('x-correlation-id')!r} is not hexadecimal"


def _plain(value: Any) -> Any:
    """OpenAPI 3.0 as JSON Schema: what is `nullable` there may be null here."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if not isinstance(value, dict):
        return value
    plain = {k: _plain(v) for k, v in value.items() if k != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if value.get("nullable") is True else plain


def _generality(template: str) -> tuple[int, str]:
    """Paths with fewer holes come first: `/servers/actions` before `/servers/{id}`."""
    return template.count("{"), template


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template)))


def hold_against_specification(method: str, path: str, response: Any) -> None:
    """Fails for an answer that clients would not understand."""
    known, bare = Specification.load(), re.sub("/{2,}", "/", path.partition("?")[0]).rstrip("/")
    if known is None or not bare.startswith("/v1/") or method not in ("GET", "POST", "PUT", "DELETE"):
        return
    headers = {name.lower(): value for name, value in response.headers.items()}
    answer = Answer(method, bare.removeprefix("/v1"), response.status_code, headers, response.content)
    violations = known.violations(answer)
    assert violations == [], violations


def judge(response: httpx.Response) -> None:
    """The same for httpx, as its hook for responses; what has been said before is not judged again."""
    request = response.request
    if not request.url.path.startswith("/v1/"):
        return
    said = hash((request.method, request.url.path, response.status_code, response.read()))
    if said not in _judged:
        hold_against_specification(request.method, request.url.path, response)
        _judged.add(said)


_judged: set[int] = set()
