"""SIGKILL of anything at any moment: what was asked for ends as asked or as a clean error, and guests go on."""

import os
import random
import signal
import threading
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from paddock.base import clock
from paddock.base.run import spawn
from tests.guests.stack import Stack, seed_of, stack, until

pytestmark = [pytest.mark.guest, pytest.mark.slow]

ROLES = ("api", "api", "worker-1", "worker-2", "agent-n1", "agent-n1")
BLOCKS = 5  # of these; after each the supervisor too is killed and started: it forgets its growing pauses then
COMMANDS = {"poweron": "start_server", "poweroff": "stop_server"}


@dataclass
class Known:
    """A server as the test thinks it is."""

    name: str
    id: int = 0
    on: bool = True


class Monkey:
    """Asks for things, and kills whom chance chooses while they are done."""

    def __init__(self, cloud: Stack, chance: random.Random) -> None:
        self.cloud, self.chance = cloud, chance
        self.servers: list[Known] = []
        self.errors: list[str] = []
        self.count = 0

    def moment(self, role: str) -> None:
        """One thing asked for, one process killed."""
        until(lambda: self.cloud.roles().get(role), 60, f"{role} to be there")
        operation, server = self._choose()
        delay = self.chance.choice((0.05, 0.3, 1.0)) * self.chance.random()
        print(f"{operation} {server.name}, and after {delay:.3f} s SIGKILL of {role}")
        worker = threading.Thread(target=self._ask, args=(operation, server))
        worker.start()
        clock.sleep(delay)
        until(lambda: self.cloud.kill(role), 60, f"{role} to be killed")
        worker.join()
        self._check(operation, server)

    def _choose(self) -> tuple[str, Known]:
        fits: list[tuple[str, Known]] = [("delete", s) for s in self.servers]
        fits += [("poweroff" if s.on else "poweron", s) for s in self.servers] * 2
        if len(self.servers) < 2:
            fits += [("create", Known(f"monkey-{self.count}"))] * 3
        self.count += 1
        return self.chance.choice(fits)

    def _ask(self, operation: str, server: Known) -> None:
        """As a careful client: after a broken connection it looks whether it was heard, and asks again if not."""
        end = clock.monotonic() + 60
        while clock.monotonic() < end:
            try:
                answer = self._send(operation, server)
            except httpx.TransportError:
                clock.sleep(0.1)
                if self._was_heard(operation, server):
                    return
                continue
            if answer.status_code not in (502, 503):
                heard = answer.is_success or self._was_heard(operation, server)
                assert heard, f"{operation} {server.name}: {answer.status_code} {answer.text}"
                return
            clock.sleep(0.1)
        raise AssertionError(f"{operation} {server.name} was never heard")

    def _send(self, operation: str, server: Known) -> httpx.Response:
        api = self.cloud.api
        if operation == "create":
            # Paused guests cost nothing: those that are started later boot.
            body = {"name": server.name, "server_type": "nano", "image": "tiny", "x_start_paused": True}
            return api.post("/v1/servers", json=body)
        if operation == "delete":
            return api.delete(f"/v1/servers/{server.id}")
        return api.post(f"/v1/servers/{server.id}/actions/{operation}")

    def _was_heard(self, operation: str, server: Known) -> bool:
        found = self._find(server)
        if operation in ("create", "delete"):
            return (found is not None) == (operation == "create") or (found or {}).get("status") == "deleting"
        actions = self.cloud.get(f"/v1/servers/{server.id}/actions", per_page=50)["actions"]
        return bool(actions) and max(actions, key=lambda a: a["id"])["command"] == COMMANDS[operation]

    def _find(self, server: Known) -> dict[str, Any] | None:
        return next((s for s in self.cloud.servers() if s["name"] == server.name), None)

    def _check(self, operation: str, server: Known) -> None:
        """All has ended, as asked or with an error that says why; what is shown is what runs."""
        if operation == "delete":
            until(lambda: self._find(server) is None, 60, lambda: f"the end of {self._find(server)}")
            self.servers.remove(server)
            return
        found = until(lambda: self._rested(server), 60, lambda: f"rest of {self._find(server)}")
        actions = self.cloud.get(f"/v1/servers/{found['id']}/actions", per_page=50)["actions"]
        last = max(actions, key=lambda a: a["id"])
        if last["status"] == "error":
            assert last["error"]["message"], last
            self.errors.append(f"{operation}: {last['error']['message']}")
        else:
            assert (found["status"] != "off") == (operation != "poweroff"), found
        if operation == "create":
            server.id = found["id"]
            self.servers.append(server)
        server.on = found["status"] == "running"
        runs = until(lambda: bool(self.cloud.qemu(found["x_uuid"])) == server.on, 5, "what is shown to be what runs")
        assert runs

    def _rested(self, server: Known) -> dict[str, Any] | None:
        found = self._find(server)
        if found is None or found["locked"]:
            return None
        actions = self.cloud.get(f"/v1/servers/{found['id']}/actions", per_page=50)["actions"]
        return None if any(a["status"] == "running" for a in actions) else self._find(server)  # as it is at the end


def test_thirty_random_moments() -> None:
    chance = seed_of("random moments")
    with stack(workers=2) as cloud:
        monkey = Monkey(cloud, chance)
        for block in range(BLOCKS):
            for role in chance.sample(ROLES, len(ROLES)):
                monkey.moment(role)
            if block < BLOCKS - 1:
                cloud.kill("supervisor")
                cloud.up()
        print("clean errors:", monkey.errors)
        assert len(monkey.errors) <= BLOCKS, monkey.errors
        cloud.wait_ready()
        cloud.remove(*[s["id"] for s in cloud.servers()])
        cloud.nothing_left()


@pytest.mark.parametrize("paused", [True, False])
def test_qemu_killed_is_seen_and_shown(cloud: Stack, paused: bool) -> None:
    """By whoever looks: the worker that waits for a guest to boot, or the one that watches the node."""
    server, action = cloud.create("victim", x_start_paused=paused)
    cloud.done(action)
    shown = cloud.server(server)
    os.kill(cloud.qemu(shown["x_uuid"]), signal.SIGKILL)
    start = clock.monotonic()
    shown = until(lambda: (s := cloud.server(server))["status"] == "off" and s, 10, "the end of QEMU to be seen")
    assert clock.monotonic() - start < 5
    assert "signal 9" in shown["x_problem"]
    assert not shown["x_ready"]["ready"]
    cloud.done(cloud.power(server, "poweron"))
    shown = cloud.server(server)
    assert (shown["status"], shown["x_problem"]) == ("running", None)


def test_qemu_killed_is_restarted_where_asked(cloud: Stack) -> None:
    server = cloud.launch("phoenix", x_restart="on-failure")
    first = cloud.qemu(server["x_uuid"])
    boot = cloud.ssh(server, "cat /proc/sys/kernel/random/boot_id")
    os.kill(first, signal.SIGKILL)
    until(lambda: cloud.qemu(server["x_uuid"]) not in (0, first), 10, "another QEMU")
    until(lambda: not cloud.server(server["id"])["x_ready"]["ready"], 5, "its readiness to be taken back")
    shown = cloud.ready(server["id"])
    assert (shown["status"], shown["x_problem"]) == ("running", None)
    assert cloud.ssh(server, "cat /proc/sys/kernel/random/boot_id") != boot
    told = cloud.get(f"/x/v1/servers/{server['id']}/timeline")["timeline"]
    assert any("signal 9" in event["detail"] for event in told), told


def test_all_killed_and_no_session_is_cut() -> None:
    with stack() as cloud:
        server = cloud.launch("keeper")
        qemu, said = cloud.qemu(server["x_uuid"]), cloud.root / "session"
        loop = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done"
        session = spawn([*cloud.ssh_argv(server), loop], output=said)
        try:
            until(lambda: said.exists() and said.stat().st_size > 20, 20, "the session to say something")
            cloud.kill_all()
            before = said.stat().st_size
            until(lambda: said.stat().st_size > before + 20, 20, "the session to go on without us")
            cloud.up()
            before = said.stat().st_size
            until(lambda: said.stat().st_size > before + 20, 20, "the session to go on with us")
            assert session.poll() is None
            numbers = [int(n) for n in said.read_text().split("\n")[:-1]]
            assert numbers == list(range(1, len(numbers) + 1))
        finally:
            session.kill()
            session.wait()
        shown = cloud.server(server["id"])
        assert (shown["status"], shown["x_ready"]["ready"], cloud.qemu(server["x_uuid"])) == ("running", True, qemu)
        cloud.done(cloud.power(server["id"], "poweroff"))
        assert cloud.qemu(server["x_uuid"]) == 0
        cloud.remove(server["id"])
        cloud.nothing_left()


def test_ten_creates_at_once(cloud: Stack) -> None:
    """Started paused, so that two cores need not boot ten guests."""
    made: list[tuple[int, int]] = []
    askers = [
        threading.Thread(target=lambda n=n: made.append(cloud.create(f"web-{n}", x_start_paused=True)))
        for n in range(10)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    for _, action in made:
        cloud.done(action)
    servers = cloud.servers()
    assert len({s["id"] for s in servers}) == len({s["x_ssh"]["port"] for s in servers}) == 10
    assert len({s["x_name"] for s in servers}) == 10
    assert [s["x_status"] for s in servers] == ["paused"] * 10
    assert len(cloud.guests()) == 10
