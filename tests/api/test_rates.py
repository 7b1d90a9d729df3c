"""The rate limit: a bucket for each project, and what answers say of it."""

import os
from pathlib import Path
from typing import Any

import pytest

from paddock.api import rates
from paddock.api.errors import from_paddock
from paddock.api.rates import HOUR, Buckets
from paddock.base import clock
from paddock.base.errors import LimitExceeded
from tests.api.caller import Caller
from tests.api.live import LiveApi


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> Buckets:
    """A limit that is soon reached."""
    buckets = Buckets(3)
    monkeypatch.setattr(rates, "buckets", buckets)
    return buckets


def test_a_bucket_leaks_steadily() -> None:
    buckets = Buckets(36000)  # ten a second
    assert all(buckets.take(1)[0] for _ in range(36000))
    taken, start = 0, clock.monotonic()
    while (spent := clock.monotonic() - start) < 0.5:
        taken += buckets.take(1)[0]
        clock.sleep(0.001)
    assert spent * 10 - 2 <= taken <= spent * 10 + 2
    assert buckets.take(2) == (True, 1.0), "others have a bucket of their own"


def test_buckets_that_are_empty_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "EMPTYING", 0.01)
    buckets = Buckets(10**9)  # leaks 277 a millisecond
    for project in range(200):
        buckets.take(project)
    clock.sleep(0.02)
    buckets.take(200)
    assert list(buckets._filled) == [200]


def test_every_answer_to_a_token_says_what_is_left(ask: Caller, three: Buckets) -> None:
    left = [int(ask("GET", path)["RateLimit-Remaining"]) for path in ("/v1/servers", "/v1/servers/99", "/v1/images")]
    assert left == [2, 1, 0]
    response = ask("POST", "/v1/servers", {})
    assert (response.status_code, response.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert (response["RateLimit-Limit"], response["RateLimit-Remaining"]) == ("3", "0")
    assert HOUR - 5 < int(response["RateLimit-Reset"]) - clock.now().timestamp() < HOUR + 5
    assert 0 < int(response["Retry-After"]) <= HOUR / 3
    assert ask("GET", "/x/v1/version").status_code == 200, "what needs no token is not counted"
    assert Caller("another")("GET", "/v1/servers").status_code == 200
    assert Caller()("GET", "/v1/servers").status_code == 429, "another token of the project does not help"


def test_no_limit(ask: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "buckets", Buckets(0))
    assert "RateLimit-Limit" not in ask("GET", "/v1/servers")


def test_streams_count_too(ask: Caller, live: LiveApi) -> None:
    headers = {"Authorization": f"Bearer {ask.token}"}

    def left(method: str, path: str) -> Any:
        return int(live.http.request(method, path, headers=headers, json={}).headers["RateLimit-Remaining"])

    before, began = left("GET", "/v1/servers"), clock.monotonic()
    after = [left("POST", "/x/v1/servers/999999/exec") for _ in range(20)][-1]
    came_back = 10 * (clock.monotonic() - began) + 1  # 36,000 in an hour
    assert after <= before - 20 + came_back
    assert left("PUT", "/x/v1/images/999999/content") < 36000


def test_a_quota_is_named() -> None:
    error = from_paddock(LimitExceeded("the project may have 2 servers", field="servers"))
    assert (error.status, error.code) == (403, "resource_limit_exceeded")
    assert error.details == {"limits": [{"name": "servers"}]}


def test_ids_are_in_the_log(ask: Caller, live: LiveApi) -> None:
    log = Path(live.log)
    begin = os.stat(log).st_size
    response = live.http.post("/v1/servers", headers={"Authorization": f"Bearer {ask.token}"}, json={})
    id = response.headers["X-Correlation-Id"]
    assert f"{id} POST /v1/servers 422" in log.read_text()[begin:]
