"""What the tests of clients share: the cloud behind the proxy, and how its guests are looked into."""

import functools
from pathlib import Path
from typing import Any

from tests.clients.oracle import Oracle
from tests.guests.stack import Stack, until

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "clients" / "examples"
KINDS = ("volumes", "placement_groups")  # what a project can have besides servers, keys and snapshots


class Place:
    """A cloud, asked by clients through the proxy and by tests directly."""

    def __init__(self, stack: Stack, proxy: Oracle) -> None:
        self.stack, self.proxy = stack, proxy

    @property
    def endpoint(self) -> str:
        """What clients are given."""
        return f"{self.proxy.url}/v1"

    @functools.cached_property
    def token(self) -> str:
        return self.stack.state.token.read_text().strip()

    @property
    def env(self) -> dict[str, str]:
        """What points clients here: both endpoints, or one would send the token to a stranger."""
        return {"HCLOUD_ENDPOINT": self.endpoint, "HETZNER_ENDPOINT": self.endpoint, "HCLOUD_TOKEN": self.token}

    def by_name(self, name: str, kind: str = "servers") -> dict[str, Any]:
        """The one of that name."""
        found: list[dict[str, Any]] = self.stack.get(f"/v1/{kind}", name=name)[kind]
        assert len(found) == 1, f"{len(found)} {kind} are called {name}"
        return found[0]

    def ready(self, name: str) -> dict[str, Any]:
        """The server, once its guest can be used."""
        return self.stack.ready(self.by_name(name)["id"])

    def inside(self, name: str, command: str) -> str:
        """What a command in a server's guest prints."""
        return self.stack.ssh(self.by_name(name), command)

    def shows(self, name: str, command: str, text: str, seconds: float = 30) -> None:
        """Wait until a command in the guest prints that."""
        until(lambda: text in self.inside(name, command), seconds, f"{text!r} in {command!r} in {name}", every=0.3)

    def boot(self, name: str) -> str:
        """What tells one boot of a guest from another, asked by the guest agent: SSH hangs while a guest goes down."""
        self.ready(name)
        return self.by_agent(name, "cat", "/proc/sys/kernel/random/boot_id")

    def by_agent(self, name: str, *argv: str) -> str:
        """What a command in the guest prints, run by its agent; nothing when that does not answer."""
        body = {"argv": argv, "stdin": "", "timeout": 5}
        reply = self.stack.api.post(f"/x/v1/servers/{self.by_name(name)['id']}/exec", json=body)
        return str(reply.json()["stdout"]) if reply.is_success else ""

    def another_boot(self, name: str, than: str) -> str:
        """Wait until the guest has booted again."""
        return until(lambda: self._boot_after(name, than), 60, f"another boot of {name}", every=0.3)

    def _boot_after(self, name: str, than: str) -> str:
        now = self.boot(name)
        return now if now != than else ""

    def upload_iso(self, name: str, file: Path) -> int:
        """Give the project an ISO: its id."""
        body = {"name": name, "description": name, "size": file.stat().st_size}
        made = self.stack.post("/x/v1/isos", body)["iso"]["id"]
        headers = {"Content-Type": "application/octet-stream"}
        reply = self.stack.api.put(f"/x/v1/isos/{made}/content", content=file.read_bytes(), headers=headers)
        assert reply.is_success, reply.text
        self.stack.done(reply.json()["action"]["id"])
        return int(made)

    def empty(self) -> None:
        """Remove all that the project has, but the tester's key."""
        for server in self.stack.servers():
            if server["status"] != "deleting":
                self._unprotect(f"/v1/servers/{server['id']}", server, delete=False, rebuild=False)
                self.stack.remove(server["id"])
        until(lambda: not self.stack.servers(), 60, "all servers to be gone")
        for kind in KINDS:
            for one in self._all(kind):
                self._unprotect(f"/v1/{kind}/{one['id']}", one, delete=False)
                assert self.stack.api.delete(f"/v1/{kind}/{one['id']}").is_success
        for image in self._all("images", type="snapshot"):
            self._unprotect(f"/v1/images/{image['id']}", image, delete=False)
            assert self.stack.api.delete(f"/v1/images/{image['id']}").is_success
        for iso in self._all("isos"):
            assert self.stack.api.delete(f"/x/v1/isos/{iso['id']}").is_success
        for key in self._all("ssh_keys"):
            if key["name"] != "tester":
                assert self.stack.api.delete(f"/v1/ssh_keys/{key['id']}").is_success

    def nothing_left(self) -> None:
        """Nothing in the project, and nothing on the host."""
        self.stack.nothing_left()
        assert [self._all(kind) for kind in KINDS] == [[], []]
        assert self._all("images", type="snapshot") == self._all("isos") == []
        places = self.stack.node_dir() / "volumes"
        until(lambda: not places.is_dir() or not list(places.iterdir()), 20, lambda: f"{list(places.iterdir())} to go")

    def _all(self, kind: str, **params: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.stack.get(f"/v1/{kind}", per_page=50, **params)[kind]
        return found

    def _unprotect(self, path: str, shown: dict[str, Any], **to: bool) -> None:
        if any((shown.get("protection") or {}).values()):
            self.stack.done(self.stack.post(f"{path}/actions/change_protection", to)["action"]["id"])
