"""The content of images and ISOs: whole, in parts, cut off and gone on with, wrong."""

import functools
import hashlib
import io
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import pycdlib
import pytest
from django.conf import settings
from starlette.requests import ClientDisconnect

from paddock.api import uploads
from paddock.base import clock
from paddock.cloud import housekeeping
from paddock.cloud.models import Action, Image
from tests.api.caller import Caller, fields
from tests.api.live import LiveApi
from tests.api.test_streams import Stream
from tests.cloud.harness import Cloud

CONTENT = b"a disk" * 100_000


@pytest.fixture
def stream(live: LiveApi, ask: Caller) -> Stream:
    return Stream(live, ask)


@pytest.fixture
def image(ask: Caller) -> Iterator[Image]:
    """One that waits for its content."""
    made = ask.ok("POST", "/x/v1/images", {"name": "mine", "description": "of a test"})
    assert made["action"] is None
    yield Image.objects.get(pk=made["image"]["id"])
    upload_of(made["image"]["id"]).unlink(missing_ok=True)


def upload_of(id: int) -> Any:
    return settings.STATE.uploads / f"image-{id}"


def content_of(image: Image) -> str:
    return f"/x/v1/images/{image.pk}/content"


def received(stream: Stream, image: Image) -> int:
    answer, head = stream("GET", content_of(image)), stream("HEAD", content_of(image))
    assert answer.headers["Upload-Offset"] == head.headers["Upload-Offset"] == str(answer.json()["received"])
    return int(head.headers["Upload-Offset"])


def test_upload(stream: Stream, image: Image) -> None:
    answer = stream("PUT", content_of(image), content=CONTENT)
    assert answer.status_code == 202, answer.text
    assert (answer.json()["image"]["x_state"], answer.json()["action"]["status"]) == ("building", "running")
    assert upload_of(image.pk).read_bytes() == CONTENT
    assert upload_of(image.pk).stat().st_mode & 0o777 == 0o600
    stream.refused("PUT", content_of(image), 409, "conflict", content=b"more")
    assert upload_of(image.pk).read_bytes() == CONTENT
    assert stream("GET", content_of(image)).json() == {"received": len(CONTENT), "state": "building", "sha256": None}


def test_upload_in_parts(stream: Stream, image: Image) -> None:
    third, total = len(CONTENT) // 3, len(CONTENT)
    for start in (0, third, 2 * third):
        assert received(stream, image) == start
        part = CONTENT[start : start + third]
        header = {"Content-Range": f"bytes {start}-{start + third - 1}/{total}"}
        answer = stream("PUT", content_of(image), content=part, headers=header)
        assert (answer.status_code, answer.json()["received"]) == (
            202 if start else 200,
            start + third,
        ) or start == third
    assert answer.status_code == 202
    assert upload_of(image.pk).read_bytes() == CONTENT


def test_parts_of_an_unknown_whole(stream: Stream, image: Image) -> None:
    answer = stream("PUT", content_of(image), content=b"abc", headers={"Content-Range": "bytes 0-2/*"})
    assert (answer.status_code, answer.json()) == (200, {"received": 3, "state": "absent"})
    assert stream("PUT", f"{content_of(image)}?offset=3", content=b"def").status_code == 202
    assert upload_of(image.pk).read_bytes() == b"abcdef"


def test_a_part_may_come_twice(stream: Stream, image: Image) -> None:
    """Its answer was lost, so it is sent again: what lies after its beginning is taken anew."""
    for _ in range(2):
        stream("PUT", content_of(image), content=b"abc", headers={"Content-Range": "bytes 0-2/6"})
    assert received(stream, image) == 3
    assert stream("PUT", f"{content_of(image)}?offset=1", content=b"BC").status_code == 202
    assert upload_of(image.pk).read_bytes() == b"aBC"


def test_a_part_that_leaves_a_gap(stream: Stream, image: Image) -> None:
    stream("PUT", content_of(image), content=b"abc", headers={"Content-Range": "bytes 0-2/9"})
    header = {"Content-Range": "bytes 6-8/9"}
    error = stream.refused("PUT", content_of(image), 409, "conflict", content=b"ghi", headers=header)
    assert error["details"]["received"] == 3
    assert received(stream, image) == 3


@pytest.mark.parametrize(("header", "query"), [
    ("bytes 0-2", ""), ("bytes 3-2/9", ""), ("bytes 0-9/9", ""), ("bytes 0-3/9", ""), ("items 0-2/9", ""),
    ("bytes 0-2/9", "?offset=0"), ("", "?offset=-1"), ("", "?offset=x"),
])  # fmt: skip
def test_what_is_no_part(header: str, query: str, stream: Stream, image: Image) -> None:
    headers = {"Content-Range": header} if header else {}
    path = content_of(image) + query
    stream.refused("PUT", path, 422, "invalid_input", content=b"abc", headers=headers)
    assert received(stream, image) == 0


def test_more_than_there_is_room_for(stream: Stream, image: Image) -> None:
    header = {"Content-Range": f"bytes 0-2/{2**50}"}
    stream.refused("PUT", content_of(image), 507, "disk_full", content=b"abc", headers=header)


def test_an_upload_that_is_cut_off_is_gone_on_with(stream: Stream, image: Image, live: LiveApi) -> None:
    Image.objects.filter(pk=image.pk).update(expected_sha256=hashlib.sha256(CONTENT).hexdigest())
    with socket.create_connection(("127.0.0.1", live.port)) as line:
        head = f"PUT {content_of(image)} HTTP/1.1\r\nHost: x\r\nAuthorization: {stream.headers['Authorization']}\r\n"
        line.sendall(f"{head}Content-Length: {len(CONTENT)}\r\n\r\n".encode() + CONTENT[:123_456])
        _until(lambda: upload_of(image.pk).exists() and upload_of(image.pk).stat().st_size >= 65536)
    _until(lambda: received(stream, image) == 123_456)
    _until(lambda: stream("PUT", f"{content_of(image)}?offset=123456", content=CONTENT[123_456:]).status_code == 202)
    assert upload_of(image.pk).read_bytes() == CONTENT


def test_a_sender_that_falls_silent_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "SILENCE", 0.05)
    came: list[bytes] = []

    async def silent() -> AsyncIterator[bytes]:
        yield b"some"
        await anyio.sleep(10)
        yield b"more"

    async def receive() -> None:
        async for chunk in uploads._arriving(silent()):
            came.append(chunk)

    with pytest.raises(ClientDisconnect):
        anyio.run(receive)
    assert came == [b"some"]


def test_upload_with_another_checksum(stream: Stream, image: Image) -> None:
    Image.objects.filter(pk=image.pk).update(expected_sha256=hashlib.sha256(b"one").hexdigest())
    error = stream.refused("PUT", content_of(image), 422, "invalid_input", content=b"other")
    assert hashlib.sha256(b"other").hexdigest() in fields(error)["sha256"][0]
    assert not upload_of(image.pk).exists()
    assert stream("GET", content_of(image)).json()["sha256"] == hashlib.sha256(b"one").hexdigest()
    assert stream("PUT", content_of(image), content=b"one").status_code == 202


def test_what_was_found_bad_is_no_beginning(stream: Stream, image: Image) -> None:
    upload_of(image.pk).write_bytes(b"bad")
    Image.objects.filter(pk=image.pk).update(state="failed", problem="it is no disk")
    assert received(stream, image) == 0
    stream.refused("PUT", f"{content_of(image)}?offset=3", 409, "conflict", content=b"more")
    assert stream("PUT", content_of(image), content=b"good").status_code == 202
    assert upload_of(image.pk).read_bytes() == b"good"


def test_two_uploads_at_once(stream: Stream, image: Image) -> None:
    def slowly() -> Iterator[bytes]:
        yield b"first "
        _until(lambda: upload_of(image.pk).exists() and _locked_out(stream, image))
        yield b"wins"

    assert stream("PUT", content_of(image), content=slowly()).status_code == 202
    assert upload_of(image.pk).read_bytes() == b"first wins"


def _locked_out(stream: Stream, image: Image) -> bool:
    response = Stream.__call__(stream, "PUT", content_of(image), content=b"second")
    return response.status_code == 409 and "somebody else" in response.text


def test_an_image_that_is_deleted_while_it_comes(stream: Stream, image: Image) -> None:
    def late() -> Iterator[bytes]:
        yield b"begins"
        _until(upload_of(image.pk).exists)
        Image.objects.filter(pk=image.pk).delete()
        yield b"ends"

    stream.refused("PUT", content_of(image), 404, "not_found", content=late())
    assert not upload_of(image.pk).exists()
    assert not Action.objects.filter(kind="image", row_id=image.pk).exists()


def test_uploads_given_up_are_removed(image: Image) -> None:
    path = upload_of(image.pk)
    path.write_bytes(b"begun")
    housekeeping.tidy()
    assert path.exists()
    _make_old(path)
    housekeeping.tidy()
    assert not path.exists()
    path.write_bytes(b"checked")
    _make_old(path)
    Image.objects.filter(pk=image.pk).update(state="building")
    housekeeping.tidy()
    assert path.exists(), "its flow reads it"


def _make_old(path: Any) -> None:

    before = clock.now().timestamp() - 90_000
    os.utime(path, (before, before))


def test_a_project_counts_what_it_uploads(ask: Caller) -> None:
    few = Caller("few")
    few.project.limit_snapshots = 1
    few.project.save()
    try:
        few.ok("POST", "/x/v1/images", {"name": "one"})
        error = few.refused("POST", "/x/v1/images", {"name": "two"}, 403, "resource_limit_exceeded")
        assert error["details"]["limits"] == [{"name": "snapshots"}]
        few.refused("POST", "/x/v1/isos", {"name": "cd"}, 403, "resource_limit_exceeded")
        Image.objects.filter(project=few.project).delete()
        few.ok("POST", "/x/v1/isos", {"name": "cd"})
        assert few.ok("GET", "/x/v1/limits")["limits"]["snapshots"] == {"limit": 1, "used": 1}
        few.refused("POST", "/x/v1/isos", {"name": "another"}, 403, "resource_limit_exceeded")
        few.refused("POST", "/x/v1/images", {"name": "two"}, 403, "resource_limit_exceeded")
    finally:
        Image.objects.filter(project=few.project).delete()
        few.project.delete()


@pytest.mark.parametrize(("body", "field"), [
    ({"name": "a", "url": "ftp://example.com/x"}, "url"), ({"name": "a", "url": "file:///etc/passwd"}, "url"),
    ({"name": "a", "url": "https://"}, "url"), ({"name": "a", "sha256": "00"}, "sha256"), ({"name": "A B"}, "name"),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["images", "isos"])
def test_what_can_not_be_announced(kind: str, body: Any, field: str, ask: Caller) -> None:
    assert next(iter(fields(ask.refused("POST", f"/x/v1/{kind}", body, 422, "invalid_input")))) == field


@functools.cache  # an ISO says when it was made, so two are not the same
def iso() -> bytes:
    """A CD with one file."""
    disc, out = pycdlib.PyCdlib(), io.BytesIO()
    disc.new()
    disc.add_fp(io.BytesIO(b"hello"), 5, "/HELLO.TXT;1")
    disc.write_fp(out)
    disc.close()
    return out.getvalue()


def test_the_life_of_an_iso(stream: Stream, ask: Caller, cloud: Cloud) -> None:
    made = ask.ok("POST", "/x/v1/isos", {"name": "tools", "description": "of a test"})["iso"]
    assert (made["type"], made["x_state"]) == ("private", "absent")
    ask.refused("POST", "/x/v1/isos", {"name": "tools"}, 409, "uniqueness_error")
    path = f"/x/v1/isos/{made['id']}"
    stream.refused("PUT", f"/x/v1/images/{made['id']}/content", 404, "not_found", content=b"x")
    answer = stream("PUT", f"{path}/content", content=iso())
    assert answer.status_code == 202, answer.text
    cloud.settle()
    shown = ask.ok("GET", path)["iso"]
    assert (shown["x_state"], shown["x_problem"]) == ("ready", None)
    assert shown in ask.ok("GET", "/x/v1/isos")["isos"]
    assert shown in ask.ok("GET", "/v1/isos")["isos"]
    assert shown["id"] not in [i["id"] for i in ask.ok("GET", "/v1/images")["images"]]
    stranger = Caller("strangers")
    stranger.refused("GET", path, None, 404, "not_found")
    assert stranger.ok("GET", "/v1/isos?name=tools")["isos"] == []
    assert stranger.ok("POST", "/x/v1/isos", {"name": "tools"})["iso"]["name"] == "tools"
    assert ask("DELETE", path).status_code == 204
    cloud.settle()
    ask.refused("GET", path, None, 404, "not_found")


@pytest.fixture
def shelf() -> Iterator[str]:
    """The address of a web server that has one ISO."""
    content = iso()

    class Shelf(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Shelf) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/tools.iso"
        server.shutdown()


def test_an_iso_is_fetched(shelf: str, ask: Caller, cloud: Cloud) -> None:
    operator = Caller(operator=True)
    body = {"name": "tools", "url": shelf, "sha256": hashlib.sha256(iso()).hexdigest()}
    made = operator.ok("POST", "/x/v1/isos", body)
    assert (made["iso"]["x_state"], made["action"]["status"]) == ("building", "running")
    cloud.settle()
    assert operator.ok("GET", f"/x/v1/isos/{made['iso']['id']}")["iso"]["x_state"] == "ready"
    assert operator.ok("GET", f"/v1/actions/{made['action']['id']}")["action"]["status"] == "success"


def test_a_tenant_fetches_nothing_from_inside(shelf: str, ask: Caller, cloud: Cloud) -> None:
    """Our own network's services would answer us, not the tenant."""
    said = ask("POST", "/x/v1/isos", {"name": "tools", "url": shelf})
    if said.status_code == 201:
        cloud.settle()
        action = ask.ok("GET", f"/v1/actions/{said.json()['action']['id']}")["action"]
        assert action["status"] == "error"
    else:
        assert said.status_code == 422
        assert not Image.objects.filter(name="tools").exists()


def _until(true: Any) -> None:
    end = clock.monotonic() + 10
    while not true():
        assert clock.monotonic() < end, "it did not come to that"
        clock.sleep(0.02)
