"""Writes sent again: done once, answered alike, whatever became of the first one's sender or server."""

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from paddock.base import clock
from paddock.base.run import spawn
from paddock.base.statedir import STATE_ENV
from paddock.cloud import housekeeping
from paddock.cloud.models import Action, IdempotencyKey, Project, Server, SSHKey
from tests.api.caller import Caller
from tests.api.keys import ed25519
from tests.api.live import LiveApi
from tests.cloud.harness import Cloud

GOOD = {"name": "web-1", "server_type": "nano", "image": "tiny"}
KEY = {"Idempotency-Key": "of-this-test"}


@pytest.fixture(autouse=True)
def no_keys(cloud: Cloud) -> Iterator[None]:
    IdempotencyKey.objects.all().delete()
    yield
    IdempotencyKey.objects.all().delete()


def test_the_same_answer_again_without_its_secrets(ask: Caller) -> None:
    first, second = (ask("POST", "/v1/servers", GOOD, headers=KEY) for _ in range(2))
    assert first.status_code == second.status_code == 201
    assert len(first.json()["root_password"]) == 20
    assert second.json() == {**first.json(), "root_password": None}
    assert ("Idempotent-Replayed" in first, second["Idempotent-Replayed"]) == (False, "true")
    assert (Server.objects.count(), Action.objects.count()) == (1, 1)
    assert first.json()["root_password"] not in IdempotencyKey.objects.get().body
    secret = ask("POST", "/x/v1/tokens", {}, headers={"Idempotency-Key": "t"}).json()["secret"]
    again = ask("POST", "/x/v1/tokens", {}, headers={"Idempotency-Key": "t"}).json()
    assert (len(secret), again["secret"]) == (64, None)
    assert secret not in IdempotencyKey.objects.get(key="t").body


def test_a_delete_that_was_done(ask: Caller) -> None:
    key = ask.ok("POST", "/v1/ssh_keys", {"name": "a", "public_key": ed25519("a")})["ssh_key"]["id"]
    assert [ask("DELETE", f"/v1/ssh_keys/{key}", headers=KEY).status_code for _ in range(2)] == [204, 204]
    assert ask("DELETE", f"/v1/ssh_keys/{key}").status_code == 404


@pytest.mark.parametrize(("method", "path", "body"), [
    ("POST", "/v1/servers", {**GOOD, "name": "web-2"}), ("POST", "/v1/ssh_keys", GOOD),
    ("POST", "/v1/servers?x=1", GOOD),
])  # fmt: skip
def test_another_request_with_the_same_key(method: str, path: str, body: Any, ask: Caller) -> None:
    assert ask("POST", "/v1/servers", GOOD, headers=KEY).status_code == 201
    other = ask(method, path, body, headers=KEY)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
    assert "came with another request" in other.json()["error"]["message"]
    assert Server.objects.count() == 1


def test_what_was_refused_may_be_tried_again(ask: Caller) -> None:
    taken = ask.ok("POST", "/v1/servers", GOOD)["server"]["id"]
    assert ask("POST", "/v1/servers", GOOD, headers=KEY).status_code == 409
    assert not IdempotencyKey.objects.exists()
    ask.ok("PUT", f"/v1/servers/{taken}", {"name": "elsewhere"})
    assert ask("POST", "/v1/servers", GOOD, headers=KEY).status_code == 201


def test_keys_are_a_projects_own(ask: Caller) -> None:
    other = Caller("another")
    made = [who("POST", "/v1/servers", GOOD, headers=KEY).json()["server"]["id"] for who in (ask, other)]
    assert made[0] != made[1]


def test_a_kept_answer_opens_nothing(ask: Caller) -> None:
    operator, plain = Caller(operator=True), Caller()
    body = {"name": "p1", "cores": 1, "memory_mib": 64, "disk_gib": 1}
    made = operator("POST", "/admin/v1/server_types", body, headers=KEY)
    assert made.status_code == 201
    assert plain("POST", "/admin/v1/server_types", body, headers=KEY).status_code == 403
    reader = Caller(read_only=True)
    assert ask("POST", "/v1/servers", GOOD, headers={"Idempotency-Key": "r"}).status_code == 201
    assert reader("POST", "/v1/servers", GOOD, headers={"Idempotency-Key": "r"}).status_code == 401
    operator.ok("DELETE", f"/admin/v1/server_types/{made.json()['server_type']['id']}")


@pytest.mark.parametrize("key", ["", "x" * 256, "\x7f", "schlüssel"])
def test_what_is_no_key(key: str, ask: Caller) -> None:
    response = ask("POST", "/v1/servers", GOOD, headers={"Idempotency-Key": key})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_input")
    assert not Server.objects.exists()


def test_reads_and_unknown_routes_take_no_notice(ask: Caller) -> None:
    assert ask("GET", "/v1/servers", headers=KEY).status_code == 200
    assert ask("POST", "/v1/nothing", {}, headers=KEY).status_code == 404
    assert not IdempotencyKey.objects.exists()


def test_twins_get_one_server(ask: Caller, live: LiveApi) -> None:
    """Sent at the same moment over real connections: all get the answer of the one that was first."""
    gate = threading.Barrier(6)

    def send(_: int) -> Any:
        gate.wait(10)
        headers = {"Authorization": f"Bearer {ask.token}", **KEY}
        return live.http.post("/v1/servers", headers=headers, json=GOOD)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(send, range(6)))
    assert {a.status_code for a in answers} == {201}
    assert len({a.json()["server"]["id"] for a in answers}) == 1
    assert sum(a.json()["root_password"] is not None for a in answers) == 1
    assert Server.objects.count() == 1


def test_a_twin_waits_for_the_first_and_goes_on_when_that_fails(ask: Caller, live: LiveApi) -> None:
    headers = {"Authorization": f"Bearer {ask.token}", **KEY}
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():  # the first one, under way: it holds the key
            IdempotencyKey.objects.create(project=ask.project, key=KEY["Idempotency-Key"], request="x")
            second = pool.submit(live.http.post, "/v1/servers", headers=headers, json=GOOD)
            _until(_somebody_waits)
            assert not second.done()
            transaction.set_rollback(True)
        assert second.result(10).status_code == 201


def _somebody_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return bool(cursor.fetchone()[0])


def test_an_answer_that_was_lost(ask: Caller, live: LiveApi) -> None:
    with _sent(live.port, ask):
        _until(Server.objects.exists)
    again = live.http.post("/v1/servers", headers={"Authorization": f"Bearer {ask.token}", **KEY}, json=GOOD)
    assert (again.status_code, again.json()["server"]["id"]) == (201, Server.objects.get().pk)


@pytest.mark.slow
def test_an_api_that_is_killed_at_any_moment(ask: Caller, live: LiveApi) -> None:
    """It dies before, in and after the transaction; the retry at another API process gives the one server there is."""
    headers = {"Authorization": f"Bearer {ask.token}"}
    for moment in (0.0, 0.01, 0.02, 0.03, 0.05, 0.1):
        name, key = f"web-{int(moment * 1000)}", {"Idempotency-Key": f"k{moment}"}
        port, victim = _another_api(live)
        try:
            body = {**GOOD, "name": name}
            with _sent(port, ask, body, key["Idempotency-Key"]):
                clock.sleep(moment)
                victim.kill()
        finally:
            victim.kill()
            victim.wait(10)
        again = live.http.post("/v1/servers", headers={**headers, **key}, json=body)
        assert again.status_code == 201, again.text
        assert [s.pk for s in Server.objects.filter(name=name)] == [again.json()["server"]["id"]]
        assert Action.objects.filter(row_id=again.json()["server"]["id"], kind="server").count() == 1


def _another_api(live: LiveApi) -> tuple[int, Any]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    before = live.state.config.read_text()
    live.state.config.write_text(f"[api]\nport = {port}\n")
    env = {**os.environ, STATE_ENV: str(live.state.root)}
    try:
        process = spawn([sys.executable, "-m", "paddock.api"], output=live.state.log / "victim.log", env=env)
        _until(lambda: _answers(port), 30)
    finally:
        live.state.config.write_text(before)
    return port, process


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def _sent(port: int, ask: Caller, body: Any = GOOD, key: str = KEY["Idempotency-Key"]) -> Iterator[None]:
    """A request whose answer nobody reads."""
    content = json.dumps(body, separators=(",", ":")).encode()  # as httpx writes it
    head = (
        f"POST /v1/servers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ask.token}\r\nIdempotency-Key: {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
        line.sendall(head.encode() + content)
        yield


def test_keys_are_kept_for_a_day(ask: Caller) -> None:
    ask("POST", "/v1/servers", GOOD, headers=KEY)
    IdempotencyKey.objects.update(created=Now() - timedelta(hours=23, minutes=59))
    housekeeping.tidy()
    assert ask("POST", "/v1/servers", GOOD, headers=KEY)["Idempotent-Replayed"]
    IdempotencyKey.objects.update(created=Now() - timedelta(hours=24, minutes=1))
    housekeeping.tidy()
    assert not IdempotencyKey.objects.exists()
    assert ask("POST", "/v1/servers", GOOD, headers=KEY).status_code == 409  # the name is taken: asked as if new


def test_a_project_that_goes_takes_its_keys_along() -> None:
    caller = Caller("goes-away")
    assert caller("POST", "/v1/ssh_keys", {"name": "a", "public_key": ed25519("a")}, headers=KEY).status_code == 201
    SSHKey.objects.filter(project=caller.project).delete()
    Project.objects.get(pk=caller.project.pk).delete()
    assert not IdempotencyKey.objects.exists()


def _until(true: Any, seconds: float = 30) -> None:
    end = clock.monotonic() + seconds
    while not true():
        assert clock.monotonic() < end, "it did not come to that"
        clock.sleep(0.01)
