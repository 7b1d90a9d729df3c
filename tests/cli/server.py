"""A small cloud in memory that answers the API's shapes over real HTTP: servers live through their steps by the clock.

Everything takes fractions of a second. Faults are asked for by attributes of `Cloud`.
"""

import base64
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any
from uuid import UUID

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

Json = dict[str, Any]
TOKEN = "t" * 64
BASE = "#cloud-config\nruncmd:\n  - [echo, hello]\n"
STATUS_AFTER = {
    "poweron": "running", "resume": "running", "wake": "running", "pause": "paused", "hibernate": "hibernated",
}  # fmt: skip
SHOWN = {"paused": "running", "hibernated": "off"}
STEPS = ("place", "image", "clone", "cloud_init", "start")


class Problem(Exception):
    """An error as the API says it."""

    def __init__(self, status: int, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error": {"code": code, "message": message, "details": details or None}}


class Cloud:
    """What is true in this cloud, and how it shall misbehave."""

    def __init__(self) -> None:
        self.step_seconds = 0.03
        self.ready_seconds = 0.1
        self.build_seconds = 0.2
        self.fail_step = ""
        self.refuse_shutdown = False
        self.never_ready = False
        self.broken_answers = 0
        self.damaged = ""
        self.base = BASE
        self.requests: list[tuple[str, str, Any]] = []
        self.uploads: dict[int, bytes] = {}
        self.born = datetime.now(UTC) - timedelta(hours=3, minutes=5)
        self.actions: dict[int, Json] = {}
        self.servers: dict[int, Json] = {}
        self.keys: dict[int, Json] = {}
        self.types = {
            n: {"id": n, "name": name, "description": f"{cores} CPUs", "cores": cores, "memory": memory, "disk": disk}
            for n, name, cores, memory, disk in (
                (1, "micro", 1, 0.5, 10),
                (2, "small", 2, 2.0, 40),
                (3, "medium", 4, 4.0, 80),
            )
        }
        self.nodes = [dict(node) for node in NODES]
        self.operator = True
        self.locations = {1: {"id": 1, "name": "local", "description": "This machine"}}
        self.images = {
            1: self._image(1, "tiny", "Linux and busybox", 0.0, "root", "ready"),
            2: self._image(2, "debian-12", "Debian 12 (bookworm)", 2.0, "debian", "absent"),
        }

    def _image(self, id: int, name: str, description: str, disk: float, user: str, state: str) -> Json:
        return {
            "id": id, "name": name, "type": "system", "status": "available", "description": description,
            "disk_size": disk, "image_size": None, "created": self.born.isoformat(), "os_flavor": "debian",
            "os_version": "12", "labels": {}, "architecture": "x86", "x_sha256": None, "x_state": state,
            "x_progress": 0, "x_doing": "", "x_default_user": user, "x_cloud_init": True, "x_problem": None,
        }  # fmt: skip

    def new_action(self, command: str, kind: str, id: int, seconds: float) -> Json:
        """An action that succeeds after `seconds`, or fails if it shall."""
        number = len(self.actions) + 1
        self.actions[number] = {
            "id": number, "command": command, "status": "running", "progress": 0, "started": _now(), "finished": None,
            "resources": [{"id": id, "type": kind}], "error": None, "x_steps": [], "x_waiting_for": "",
            "_start": time.monotonic(), "_seconds": seconds,
        }  # fmt: skip
        return self.actions[number]

    def add(self, name: str, **more: Any) -> Json:
        """A server that has been there for a while."""
        number = len(self.servers) + 1
        self.servers[number] = server = {
            "id": number, "name": name, "status": "running", "created": self.born.isoformat(),
            "server_type": self.types[1], "image": self.images[1], "labels": {}, "primary_disk_size": 10,
            "x_name": f"n1/{999 + number}", "x_node": "n1", "x_uuid": str(UUID(int=number)), "x_group": "",
            "x_role": "", "x_restart": "no", "x_problem": None, "x_waiting_for": "", "x_step": "rest",
            "x_accelerator": "tcg", "x_ssh": {"host": "127.0.0.1", "port": 2199 + number, "user": "root"},
            "x_ready": _ready(),
            **more,
        }  # fmt: skip
        return server

    def create(self, body: Json) -> Json:
        """Make a server of a request."""
        if any(s["name"].lower() == body["name"].lower() for s in self.servers.values()):
            raise Problem(409, "uniqueness_error", "name is already used", fields=[{"name": "name"}])
        if not all(c.isascii() and (c.isalnum() or c in "-.") for c in body["name"]):
            what = "must be a host name: letters a-z, digits, - and . only"
            raise _invalid("name", what)
        type = next(t for t in self.types.values() if body["server_type"] in (t["id"], t["name"]))
        image = self.images[body["image"]]
        server = self.add(
            body["name"], created=_now(), status="initializing", server_type=type, image=image, labels=body["labels"],
            x_group=body.get("x_group", ""), x_role=body.get("x_role", ""), x_restart=body["x_restart"], x_ssh=None,
            x_ready=_not_ready("place"), primary_disk_size=type["disk"], x_name=None,
        )  # fmt: skip
        action = self.new_action("create_server", "server", server["id"], self.step_seconds * len(STEPS))
        server["_create"], server["_on"] = action, body["start_after_create"]
        if image["x_state"] == "absent":
            image.update(x_state="building", x_doing="unpacking packages", _until=time.monotonic() + self.build_seconds)
        password = None if body["ssh_keys"] else "correct-horse"
        return {"server": server, "action": action, "next_actions": [], "root_password": password}

    def tick(self) -> None:
        """Let everything be as far as the clock says."""
        for image in self.images.values():
            if image["x_state"] == "building":
                left = image["_until"] - time.monotonic()
                image["x_progress"] = max(0, min(99, int(100 - 100 * left / self.build_seconds)))
                if left <= 0:
                    image.update(x_state="ready", x_doing="", x_progress=100)
        for action in self.actions.values():
            if action["status"] == "running":
                self._tick(action)
        for server in list(self.servers.values()):
            self._become_ready(server)

    def _tick(self, action: Json) -> None:
        id = action["resources"][0]["id"]
        if action["command"] == "create_server" and id not in self.servers:
            gone = {"code": "conflict", "message": "the server was deleted before this was done"}
            action.update(status="error", error=gone)
        elif action["command"] == "create_server":
            self._creation(action, self.servers[id])
        elif time.monotonic() - action["_start"] >= action["_seconds"]:
            action.update(status="success", progress=100, finished=_now())
            if action.get("_then"):
                action["_then"]()
            if action.get("_fails"):
                action.update(status="error", error={"code": "timeout", "message": action["_fails"]})

    def _creation(self, action: Json, server: Json) -> None:
        if server["image"]["x_state"] == "building":
            action["x_waiting_for"] = f"image {server['image']['name']}"
            action["_start"] = time.monotonic()
            return
        action["x_waiting_for"] = ""
        done = min(len(STEPS), int((time.monotonic() - action["_start"]) / self.step_seconds))
        action["x_steps"] = [_step(name, "done") for name in STEPS[:done]]
        if self.fail_step in STEPS[:done]:
            action["x_steps"] = [*action["x_steps"][: STEPS.index(self.fail_step)], _step(self.fail_step, "failed")]
            hint = "free some disk"
            action.update(status="error", error={"code": "disk_full", "message": "no room on n1", "x_hint": hint})
            server.update(status="off", x_problem="no room on n1")
        elif done == len(STEPS):
            action.update(status="success", progress=100, finished=_now())
            server.update(status="running" if server["_on"] else "off", x_name=f"n1/{999 + server['id']}")
            server["x_ssh"] = {"host": "127.0.0.1", "port": 2199 + server["id"], "user": "root"}
            server.update(_ready_at=time.monotonic() + self.ready_seconds, x_ready=_not_ready("ssh"))

    def _become_ready(self, server: Json) -> None:
        if self.never_ready or server["status"] != "running" or time.monotonic() < server.get("_ready_at", 1e18):
            return
        server["x_ready"] = _ready()
        server.pop("_ready_at")


def _entry(name: str, signer: str | None, checked: bool | None, package: str | None, refused: str = "") -> Json:
    return {
        "name": name, "description": f"{name} of the publisher", "state": "refused" if refused else "absent",
        "default_user": "me", "firmware": ["bios"], "cloud_init": True, "guest_agent": None, "grows": True,
        "signed_by": signer, "signature_checked": checked, "keys_in": package, "refused": refused or None,
        "ended": None, "note": None,
    }  # fmt: skip


CATALOGUE = [
    _entry("centos-6", None, None, None, "nobody could log in"),
    _entry("ubuntu-24.04", "ubuntu", True, "ubuntu-keyring"),
    _entry("fedora-44", "fedora", False, "distribution-gpg-keys"),
    _entry("alma-10", "alma", False, "distribution-gpg-keys"),
    _entry("arch", "arch", False, None),
]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _not_ready(what: str) -> Json:
    return {"ready": False, "since": None, "by": [], "waiting_for": what, "after_seconds": None}


def _ready() -> Json:
    return {"ready": True, "since": _now(), "by": ["ssh", "agent"], "waiting_for": "", "after_seconds": 14.0}


def _step(name: str, outcome: str) -> Json:
    return {
        "name": name, "started": _now(), "finished": _now(), "seconds": 0.1, "outcome": outcome, "waiting_for": "",
        "detail": "no room on n1" if outcome == "failed" else "", "times": 1,
    }  # fmt: skip


def _invalid(field: str, what: str) -> Problem:
    message = f"invalid input in field '{field}': {what}"
    return Problem(422, "invalid_input", message, fields=[{"name": field, "messages": [what]}])


def _public(value: Any) -> Any:
    """Without what only we know; a server's state in the words of clients too."""
    if isinstance(value, dict):
        if "x_uuid" in value:
            value = {**value, "x_status": value["status"], "status": SHOWN.get(value["status"], value["status"])}
        return {k: _public(v) for k, v in value.items() if not str(k).startswith("_")}
    return [_public(v) for v in value] if isinstance(value, list) else value


class Routes:
    """The API's paths, on a cloud."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    @property
    def tables(self) -> dict[str, dict[int, Json]]:
        """What /v1 has."""
        return {
            "servers": self.cloud.servers, "images": self.cloud.images, "ssh_keys": self.cloud.keys,
            "server_types": self.cloud.types, "actions": self.cloud.actions,
            "locations": self.cloud.locations,
        }  # fmt: skip

    async def answer(self, request: Request) -> Response:
        """Any request: who asks, what the cloud has become, the path."""
        body = await self._body(request)
        self.cloud.requests.append((request.method, request.url.path, body))
        if self.cloud.broken_answers:
            self.cloud.broken_answers -= 1
            return JSONResponse({}, 503)
        try:
            if request.url.path == "/x/v1/version":
                return JSONResponse({"name": "paddock", "version": "0.0.9"})
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                raise Problem(401, "unauthorized", "the token you have provided is invalid")
            self.cloud.tick()
            return self._routed(request, body)
        except Problem as problem:
            return JSONResponse(problem.body, problem.status)

    async def _body(self, request: Request) -> Any:
        if request.url.path.endswith("/content") and request.method == "PUT":
            data = await request.body()
            self.cloud.uploads[int(request.url.path.split("/")[-2])] = data
            return len(data)
        return await request.json() if await request.body() else None

    def _routed(self, request: Request, body: Any) -> Response:
        area, _, rest = request.url.path.strip("/").partition("/")
        parts = rest.split("/")
        if area == "v1":
            return self._v1(request, parts, body)
        return self._ours(request, parts[1:] if area in ("x", "admin") else parts, body)

    def _v1(self, request: Request, parts: list[str], body: Any) -> Response:
        kind, table = parts[0], self.tables.get(parts[0])
        if table is None:
            raise Problem(404, "not_found", "api route not found")
        if len(parts) == 1:
            return self._list(request, kind, list(table.values())) if request.method == "GET" else self._new(kind, body)
        thing = table.get(int(parts[1]))
        if thing is None:
            raise Problem(404, "not_found", f"{kind.rstrip('s')} with ID '{parts[1]}' not found")
        if request.method == "PUT":
            thing.update({field: body[field] for field in ("name", "labels") if field in body})
        if len(parts) == 2:
            return self._delete(kind, thing) if request.method == "DELETE" else _one(kind, thing)
        if request.method == "GET":
            about = [a for a in self.cloud.actions.values() if a["resources"][0]["id"] == thing["id"]]
            return self._list(request, "actions", about)
        return self._power(thing, parts[3])

    def _list(self, request: Request, key: str, things: list[Json]) -> Response:
        for field in ("name", "status"):
            if wanted := request.query_params.get(field):
                things = [t for t in things if t.get(field) == wanted]
        if wanted := request.query_params.get("x_status"):
            things = [t for t in things if t["status"] == wanted]
        if selector := request.query_params.get("label_selector"):
            name, _, value = selector.partition("=")
            things = [t for t in things if t["labels"].get(name) == value]
        number, size = int(request.query_params.get("page", 1)), int(request.query_params.get("per_page", 25))
        last = max(1, -(-len(things) // size))
        pagination = {
            "page": number, "per_page": size, "previous_page": number - 1 or None, "last_page": last,
            "next_page": number + 1 if number < last else None, "total_entries": len(things),
        }  # fmt: skip
        shown = _public(things[(number - 1) * size : number * size])
        return JSONResponse({key: shown, "meta": {"pagination": pagination}})

    def _new(self, kind: str, body: Json) -> Response:
        if kind == "servers":
            return JSONResponse(_public(self.cloud.create(body)), 201)
        if any(k["name"] == body["name"] for k in self.cloud.keys.values()):
            raise Problem(409, "uniqueness_error", "name is already used", fields=[{"name": "name"}])
        words = body["public_key"].split()
        if len(words) < 2:
            raise _invalid("public_key", "must begin with a key type such as ssh-ed25519, then the key in base64")
        digest = hashlib.md5(base64.b64decode(words[1])).hexdigest()
        mark = ":".join(digest[i : i + 2] for i in range(0, 32, 2))
        number = max(self.cloud.keys, default=0) + 1
        self.cloud.keys[number] = {"id": number, "fingerprint": mark, "labels": {}, "created": _now(), **body}
        return JSONResponse({"ssh_key": self.cloud.keys[number]}, 201)

    def _delete(self, kind: str, thing: Json) -> Response:
        if kind != "servers":
            del self.tables[kind][thing["id"]]
            return Response(status_code=204)
        action = self.cloud.new_action("delete_server", "server", thing["id"], 0.05)
        action["_then"] = lambda: self.cloud.servers.pop(thing["id"], None)
        return JSONResponse({"action": _public(action)})

    def _power(self, server: Json, command: str) -> Response:
        action = self.cloud.new_action(command, "server", server["id"], 0.05)
        if command == "shutdown" and self.cloud.refuse_shutdown:
            action["_fails"] = "the guest did not shut down within 90 s"
        elif command in ("shutdown", "poweroff"):
            action["_then"] = lambda: server.update(status="off", x_ready=_not_ready(""))
        elif then := STATUS_AFTER.get(command):
            action["_then"] = lambda: server.update(status=then)
        return JSONResponse({"action": _public(action)}, 201)

    def _ours(self, request: Request, parts: list[str], body: Any) -> Response:
        kind, tail = parts[0], parts[-1]
        if kind == "base":
            return self._base(request.method, body)
        if kind in ("nodes", "statistics"):
            return self._cluster(request, kind)
        if kind in ("names", "catalogue"):
            return JSONResponse({"catalogue": CATALOGUE} if kind == "catalogue" else self._names(request))
        if kind == "images":
            return self._image(parts, body)
        server = self.cloud.servers.get(int(parts[1]))
        if server is None:
            raise Problem(404, "not_found", f"server with ID '{parts[1]}' not found")
        if parts[2] == "actions":
            return self._power(server, tail)
        if tail == "timeline":
            return JSONResponse({"timeline": TIMELINE})
        if tail == "console_log":
            return PlainTextResponse(CONSOLE[-int(request.query_params["limit"]) :])
        if tail in ("exec", "fork"):
            return self._exec(body) if tail == "exec" else self._fork(server, body)
        if tail == "steps":
            return JSONResponse({"steps": SERVER_STEPS})
        if tail == "clone" and body["confirm"] != server["name"]:
            raise _invalid("confirm", "type the server's name")
        return JSONResponse({"action": _public(self.cloud.new_action("run_step", "server", server["id"], 0.05))}, 201)

    def _names(self, request: Request) -> Json:
        prefix = request.query_params.get("prefix", "")
        named = [str(t["name"]) for t in self.tables[request.query_params["of"]].values()]
        return {"names": sorted(n for n in named if n.startswith(prefix))}

    def _fork(self, server: Json, body: Json) -> Response:
        name, count = body.get("name", f"{server['name']}-fork"), body.get("count", 1)
        names = [name] if count == 1 and "name" in body else [f"{name}-{n}" for n in range(1, count + 1)]
        like = {"server_type": server["server_type"]["name"], "image": server["image"]["id"], "x_restart": "no"}
        like |= {"labels": body.get("labels", {}), "start_after_create": True, "ssh_keys": [1]}
        made = [self.cloud.create({**like, "name": name}) for name in names]
        action = self.cloud.new_action("fork_server", "server", server["id"], 0.05)
        action["x_steps"] = [{**_step("fork", "done"), "detail": "it stood still for 12.5 ms"}]
        answer = {"servers": [m["server"] for m in made], "next_actions": [m["action"] for m in made]}
        return JSONResponse(_public({"action": action, **answer}), 201)

    def _cluster(self, request: Request, kind: str) -> Response:
        if not self.cloud.operator:
            raise Problem(403, "forbidden", "this needs an operator's token")
        return self._list(request, "nodes", self.cloud.nodes) if kind == "nodes" else JSONResponse(STATISTICS)

    def _base(self, method: str, body: Any) -> Response:
        if method == "PUT" and not body["text"].startswith("#cloud-config\n"):
            raise _invalid("text", "its first line must be #cloud-config")
        if method != "GET":
            self.cloud.base = body["text"] if method == "PUT" else BASE
        base = {"text": self.cloud.base, "default": self.cloud.base == BASE, "changed": None}
        return JSONResponse({"base": base})

    def _exec(self, body: Json) -> Response:
        if body["argv"] == ["false"]:
            return JSONResponse({"exit_code": 1, "stdout": "", "stderr": "no\n", "truncated": False})
        out = f"{' '.join(body['argv'])}|{body['stdin']}\n"
        return JSONResponse({"exit_code": 0, "stdout": out, "stderr": "", "truncated": body["argv"] == ["yes"]})

    def _image(self, parts: list[str], body: Any) -> Response:
        images = self.cloud.images
        if len(parts) == 1:
            number = max(images) + 1
            images[number] = self.cloud._image(number, body["name"], body["description"], 1.0, "root", "absent")
            return JSONResponse({"image": _public(images[number])}, 201)
        image = images[int(parts[1])]
        if parts[-1] == "content" and not body:
            return JSONResponse({"received": 0, "state": image["x_state"], "sha256": None})
        seconds = self.cloud.build_seconds
        action = self.cloud.new_action("build_image", "image", image["id"], seconds + 0.05)
        image.update(x_state="building", x_doing="unpacking packages", _until=time.monotonic() + seconds)
        action["_fails"] = self.cloud.damaged
        if self.cloud.damaged:
            action["_then"] = lambda: image.update(x_state="failed", x_problem=self.cloud.damaged)
        return JSONResponse({"image": _public(image), "action": _public(action)}, 202)


def _one(kind: str, thing: Json) -> Response:
    return JSONResponse({kind.rstrip("s"): _public(thing)})


async def console(socket: WebSocket) -> None:
    """An echo that ends when it is told to."""
    if socket.headers.get("authorization") != f"Bearer {TOKEN}":
        await socket.close(4401, "the token is not valid")
        return
    await socket.accept()
    await socket.send_bytes(b"login: ")
    try:
        while True:
            data = await socket.receive_bytes()
            if b"poweroff" in data:
                await socket.close(4409, "the server went off")
                return
            await socket.send_bytes(b"<" + data + b">")
    except WebSocketDisconnect:
        return


@contextmanager
def serving(routes: Routes) -> Iterator[str]:
    """A cloud's API on a free port of loopback, as an address."""
    app = Starlette(routes=[
        WebSocketRoute("/x/v1/servers/{id:int}/console", console),
        Route("/{path:path}", routes.answer, methods=["GET", "POST", "PUT", "DELETE"]),
    ])  # fmt: skip
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off", ws="websockets-sansio"))
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline, "the test's API server does not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(timeout=10)


NODES = [
    {
        "id": 1, "name": "n1", "driver": "qemu", "state": "up", "problem": "", "cpus": 2, "memory_mib": 7800,
        "disk_gib": 90, "claimed_cpus": 3, "claimed_memory_mib": 1536, "claimed_disk_gib": 30, "cpu_overcommit": 4.0,
        "memory_overcommit": 1.0, "servers": 3, "running": 2, "accelerator": "tcg", "hypervisor": "qemu 7.2.22",
        "accelerator_reason": "/dev/kvm is not there", "version": "0.1.0", "last_seen": None,
        "ssh_ports": {"first": 2200, "count": 100, "used": 3},
    },
    {
        "id": 2, "name": "n2", "driver": "fake", "state": "down",
        "problem": "the agent does not answer: connection refused", "cpus": 8,
        "memory_mib": 16000, "disk_gib": 500, "claimed_cpus": 0, "claimed_memory_mib": 0,
        "claimed_disk_gib": 0, "cpu_overcommit": 1.5, "memory_overcommit": 1.0, "servers": 0, "running": 0,
        "accelerator": "", "hypervisor": "", "accelerator_reason": "", "version": "", "last_seen": None,
        "ssh_ports": {"first": 2300, "count": 100, "used": 0},
    },
]  # fmt: skip
CONSOLE = "booting\r\n\x1b[0;32mok\x1b[0m \x1b]0;owned\x07done\r\n"
STATISTICS = {
    "vcpus": {"total": 20, "claimed": 3, "utilization_pct": 15.0},
    "memory_mib": {"total": 23800, "claimed": 1536, "utilization_pct": 6.5},
    "disk_gib": {"total": 590, "claimed": 30, "utilization_pct": 5.1},
    "servers": {"total": 3, "running": 2}, "nodes": {"total": 2, "up": 1},
}  # fmt: skip
TIMELINE = [
    {"at": "2026-11-21T09:00:00+00:00", "seconds": 0.012, "action": "create_server", "step": "place", "times": 1,
     "outcome": "done", "detail": "n1 has room", "correlation_id": "00112233445566aa"},
    {"at": "2026-11-21T09:00:31+00:00", "seconds": 31.2, "action": "create_server", "step": "image", "times": 62,
     "outcome": "again", "detail": "image debian-12: unpacking (43 %)", "correlation_id": "00112233445566aa"},
]  # fmt: skip
SERVER_STEPS = [
    {"name": "place", "needs": "any", "destroys": False, "by_hand": False, "seconds": 300},
    {"name": "clone", "needs": "stopped", "destroys": True, "by_hand": True, "seconds": 300},
    {"name": "cloud_init", "needs": "stopped", "destroys": False, "by_hand": True, "seconds": 300},
]
