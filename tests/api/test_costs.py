"""What a create costs: statements and calls to the node, counted, so that more of either is noticed when it comes.

Time is not measured here: it is another on each machine. `make bench` does, and these counts are what it follows.
"""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from paddock.cloud.flows.engine import Flow, advance
from paddock.cloud.models import Server
from paddock.hypervisor.remote import Link
from tests.api.caller import Caller
from tests.cloud.harness import Cloud

OF_THE_REQUEST = 12  # statements, BEGIN and COMMIT among them
OF_THE_STEPS = 20
CALLS = ["PUT disks", "PUT", "POST power", "GET readiness"]
ASKED = {"server_type": "nano", "image": "tiny"}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What agents are asked, as it goes out."""
    seen: list[str] = []
    send = Link._request

    def counted(link: Link, method: str, path: str, *more: Any) -> Any:
        seen.append(f"{method} {path.partition('?')[0].partition('/machines/')[2].partition('/')[2]}".strip())
        return send(link, method, path, *more)

    monkeypatch.setattr(Link, "_request", counted)
    return seen


def _created(ask: Caller, name: str) -> Server:
    made = ask.ok("POST", "/v1/servers", {**ASKED, "name": name})
    return Server.objects.get(pk=made["server"]["id"])


def test_what_a_create_costs(cloud: Cloud, ask: Caller, calls: list[str]) -> None:
    """Whoever needs one more knows why, and says so here."""
    warm = _created(ask, "warm")  # brings the image to the node, and notes the token's use
    cloud.settle()
    assert Server.objects.get(pk=warm.pk).status == "running"
    with CaptureQueriesContext(connection) as of_request:
        row = ask.ok("POST", "/v1/servers", {**ASKED, "name": "web-1"})["server"]
    calls.clear()
    with CaptureQueriesContext(connection) as of_steps:
        advance(Flow.registry["server"], row["id"])
    assert Server.objects.get(pk=row["id"]).status == "running"
    statements = [q["sql"][:100] for q in [*of_request, *of_steps]]
    assert (len(of_request), len(of_steps)) == (OF_THE_REQUEST, OF_THE_STEPS), statements
    assert calls == CALLS


def test_statements_are_planned_once(cloud: Cloud, ask: Caller) -> None:
    for _ in range(8):
        ask.ok("GET", "/v1/servers")
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%cloud_server%'")
        assert cursor.fetchone()[0] > 0
