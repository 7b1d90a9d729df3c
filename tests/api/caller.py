"""Who asks the API in tests: Django's own client with a token, and the few words that tests ask with.

Every answer under /v1, errors included, is held against the description of the API that clients are made for, where a
copy of that lies.
"""

import json
from typing import Any

from django.test import Client

from paddock.cloud.models import Project, Token
from tests.clients.specification import hold_against_specification


class Caller:
    """A client with a token of a project."""

    def __init__(self, project: str = "default", **rights: bool) -> None:
        self.project, _ = Project.objects.get_or_create(name=project)
        self.token = Token.issue(self.project, "of a test", **rights)
        self.client = Client(raise_request_exception=False)
        self.judges = True  # a test that measures time has it off: judging takes longer than answering

    def __call__(self, method: str, path: str, body: Any = None, **extra: Any) -> Any:
        """The response, which must be as clients know it; `body` is JSON unless it is bytes."""
        response = self.client.generic(
            method,
            path,
            body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode(),
            "application/json",
            headers={"Authorization": f"Bearer {self.token}", **extra.pop("headers", {})},
            **extra,
        )
        if self.judges:
            hold_against_specification(method, path, response)
        return response

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer that must be good."""
        response = self(method, path, body)
        assert response.status_code < 300, response.content
        return response.json() if response.content else {}

    def refused(self, method: str, path: str, body: Any, status: int, code: str) -> dict[str, Any]:
        """The error of an answer that must be that one, in the shape that clients know."""
        response = self(method, path, body)
        said = response.json()
        assert (response.status_code, said["error"]["code"]) == (status, code), said
        assert set(said) == {"error"}
        assert set(said["error"]) == {"code", "message", "details"}
        error: dict[str, Any] = said["error"]
        return error


def fields(error: dict[str, Any]) -> dict[str, list[str]]:
    """What an error complains of, field by field."""
    return {f["name"]: f["messages"] for f in error["details"]["fields"]}
